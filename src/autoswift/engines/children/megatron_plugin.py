"""ms-swift plug-in for `megatron sft`: reports a training to autoswift in the words of `swift_plugin`, and ends it.

Loaded by `python -m swift.cli._megatron.sft … --external_plugins <this file> --callbacks autoswift`. Answers are not
generated here, since the weights lie in pieces over the devices: the loss over the validation rows, which Megatron
computes itself, stands for them. Nothing of autoswift is importable here.
"""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from swift.megatron.callbacks import MegatronCallback, megatron_callbacks_map
from swift.utils import is_last_rank


def _sibling(name: str) -> Any:
    """A module of this folder, by path: the folder is no package in this environment."""
    key = f"autoswift_child_{name}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, Path(__file__).with_name(f"{name}.py"))
        if spec is None or spec.loader is None:
            raise ImportError(f"{name}.py is missing beside {__file__}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        spec.loader.exec_module(module)
    return sys.modules[key]


class AutoswiftMegatronCallback(MegatronCallback):  # type: ignore[misc]
    """Reports from the last rank, which has the loss; the deadline and the stop file end it for all."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(trainer)
        common = _sibling("swift_plugin")
        self.trial = common.TrialFile.read()
        self.writes = is_last_rank()
        self.channel = common.Channel(self.trial.channel) if self.writes else None
        self.peak_memory_bytes = common.peak_memory_bytes
        self.meter = _sibling("energy").of_this_training()
        self.begun = self.mark = time.time()
        self.step_seconds: list[float] = []
        self.reason: str | None = None
        self.rows = 0

    def on_train_begin(self) -> None:
        """Report the start."""
        self.begun = self.mark = time.time()
        started = self.begun - psutil.Process().create_time()
        self._send("started", step=self.state.iteration, total_steps=self.args.train_iters, seconds_to_start=started)

    def on_step_end(self) -> None:
        """Time the step, and end the training when it is wanted."""
        now = time.time()
        self.step_seconds.append(now - self.mark)
        self.mark = now
        self.rows += int(self.args.global_batch_size)
        if self.reason is None:
            self.reason = self._agreed(self._wanted(now))
            if self.reason is not None:
                self.args.train_iters = self.state.iteration  # the flow callback behind us saves the last step
                self._send("stopping", reason=self.reason, step=self.state.iteration)

    def on_log(self, logs: dict[str, Any]) -> None:
        """Report a logging step, Megatron's evaluation, and a loss that is no number."""
        logs = {name: value.item() if hasattr(value, "item") else value for name, value in logs.items()}
        if "eval_loss" in logs:
            metrics = {"nll": logs["eval_loss"]} | self._energy()
            self._send("evaluated", step=self.state.iteration, final=True, complete=False, metrics=metrics, answers=[])
            self.mark = time.time()
        elif "loss" in logs:
            names = ("loss", "grad_norm", "learning_rate", "token_acc")
            metrics = {name: logs[name] for name in names if name in logs} | self._energy()
            metrics["seconds_per_step"] = sum(self.step_seconds) / max(len(self.step_seconds), 1)
            metrics["memory_bytes"] = self.peak_memory_bytes()
            self.step_seconds.clear()
            self._send("progress", step=self.state.iteration, total_steps=self.args.train_iters, metrics=metrics)
            if not math.isfinite(float(logs["loss"])) and self.reason is None:
                self._send("warning", symptom="nan", step=self.state.iteration)
                self.reason = "nan"  # the same on all ranks: the loss that is logged was summed over them
                self.args.train_iters = self.state.iteration

    def on_save(self, output_dir: str) -> None:
        """Report a checkpoint."""
        self._send("saved", step=self.state.iteration, checkpoint=os.path.abspath(output_dir))
        self.mark = time.time()

    def on_train_end(self) -> None:
        """Report the end."""
        seconds = time.time() - self.begun
        self._send("finished", step=self.state.iteration, train_seconds=seconds, stopped=self.reason, rows=self.rows)

    def _wanted(self, now: float) -> str | None:
        if self.trial.stop_file is not None and self.trial.stop_file.exists():
            return "stop_file"
        return "deadline" if self.trial.deadline is not None and now >= self.trial.deadline else None

    def _agreed(self, reason: str | None) -> str | None:
        """The first rank decides for all: ranks that disagree would wait for each other for ever."""
        dist = torch.distributed
        if not (dist.is_available() and dist.is_initialized()):
            return reason
        box = [reason]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def _energy(self) -> dict[str, float]:
        joules = self.meter.joules()
        return {} if joules is None else {"energy_joules": round(joules, 1)}

    def _send(self, event: str, **fields: Any) -> None:
        if self.channel is not None:
            self.channel.send(event, **fields)


megatron_callbacks_map["autoswift"] = AutoswiftMegatronCallback
