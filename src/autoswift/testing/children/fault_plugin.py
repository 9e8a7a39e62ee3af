"""ms-swift plug-in: carries faults out inside a real training. Part of autoswift.testing, never of a user's run.

It reads the file named by AUTOSWIFT_TESTING_FAULTS; which attempt this is stands in the path of AUTOSWIFT_TRIAL.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from swift.callbacks import TrainerCallback, callbacks_map

OPTIMIZER = re.compile(r"checkpoint-(\d+)/optimizer")
ATTEMPT = re.compile(r"trials/(\d+)/attempt-(\d+)/trial\.json$")


def _value(name: str) -> Any:
    """An option of this process's own command line, as a number where it is one."""
    words = sys.argv
    if f"--{name}" not in words:
        return None
    text = words[words.index(f"--{name}") + 1]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)


def _within(value: Any, bound: Any) -> bool:
    if isinstance(bound, bool) or not isinstance(bound, int | float):
        return bool(value == bound)
    return value is not None and float(value) <= float(bound)


def faults_here() -> list[dict[str, Any]]:
    """Those of this attempt."""
    found = ATTEMPT.search(os.environ.get("AUTOSWIFT_TRIAL", ""))
    place = os.environ.get("AUTOSWIFT_TESTING_FAULTS")
    if not found or not place:
        return []
    trial, attempt = int(found[1]), int(found[2])
    mine = []
    for fault in json.loads(Path(place).read_text(encoding="utf-8")):
        here = fault["trial"] in (None, trial) and fault["attempt"] in (None, attempt)
        spared = fault["unless"] and all(_within(_value(k), v) for k, v in fault["unless"].items())
        if here and not spared:
            mine.append(fault)
    return mine


def strike(fault: dict[str, Any], model: Any = None) -> None:
    """Lets it happen."""
    print(f"injected: {fault['kind']} at {fault['where']}", file=sys.stderr, flush=True)
    if fault["kind"] == "out_of_memory":
        raise torch.OutOfMemoryError(fault["text"])
    if fault["kind"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault["kind"] == "hang":
        time.sleep(fault["seconds"])
    if fault["kind"] == "disk_full":
        raise OSError(28, "No space left on device")
    if fault["kind"] == "error":
        raise RuntimeError(fault["text"])
    if fault["kind"] == "nan" and model is not None:
        with torch.no_grad():
            next(p for p in model.parameters() if p.requires_grad).fill_(float("nan"))


def torn_saves(fault: dict[str, Any]) -> None:
    """The first checkpoint from `step` on is written up to the middle of its optimizer's file."""
    real = torch.save

    def half(value: Any, place: Any, *arguments: Any, **options: Any) -> None:
        found = OPTIMIZER.search(os.fspath(place)) if isinstance(place, (str, os.PathLike)) else None
        if found and int(found[1]) >= fault["step"]:
            real(value, place, *arguments, **options)
            size = os.path.getsize(place)
            os.truncate(place, size // 2)
            strike(fault)
        else:
            real(value, place, *arguments, **options)

    torch.save = half


class FaultCallback(TrainerCallback):  # type: ignore[misc]
    """Faults by step, while answering, and in saving."""

    def __init__(self, args: Any, trainer: Any) -> None:
        super().__init__(args, trainer)
        self.coming = faults_here()
        for fault in self.coming:
            if fault["where"] == "save":
                torn_saves(fault)
            if fault["where"] == "evaluation":
                self._while_answering(trainer, fault)

    @staticmethod
    def _while_answering(trainer: Any, fault: dict[str, Any]) -> None:
        model = trainer.accelerator.unwrap_model(trainer.model) if trainer.model is not None else None
        if model is None:
            return
        forward = model.forward

        def failing(*arguments: Any, **options: Any) -> Any:
            if not model.training:
                strike(fault, model)
            return forward(*arguments, **options)

        model.forward = failing

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the step `state.global_step + 1`."""
        for fault in self.coming:
            if fault["where"] == "step" and fault["step"] == state.global_step + 1:
                strike(fault, self.trainer.model)


for one in faults_here():
    if one["where"] == "load":  # plug-ins are read before the model is
        strike(one)
callbacks_map["autoswift_faults"] = FaultCallback
