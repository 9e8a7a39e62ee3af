"""ms-swift as a training engine: one `swift sft` child per trial, watched through the lines its callback writes."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoswift.domain.artifact import Artifact
from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Event
from autoswift.domain.trial import Trial
from autoswift.engines.arguments import sft_arguments, sft_argv
from autoswift.engines.context import EngineContext
from autoswift.engines.megatron import megatron_arguments, megatron_argv, plain_command
from autoswift.errors import StageFailed
from autoswift.recover.diagnose import diagnose, oom_kills
from autoswift.run.disk import disk_errors_explained
from autoswift.run.files import dumps, write_atomic
from autoswift.run.places import child_environment
from autoswift.run.process import Child
from autoswift.search.configuration import settings_in_force
from autoswift.tables import explain

START_SECONDS = 900.0
"""Longest silence before the first step: loading a large model from a slow disk takes minutes."""

HANG_FACTOR = 20.0
"""A step that takes this many times the median is a hang; the first step with a new shape may take several."""

HANG_LEAST_SECONDS = 300.0
"""Silence shorter than this is never a hang: saving and answering are silent too."""

GRACE_SECONDS = 20.0
"""After its deadline a trial has this long to end by itself: the step or the answers that were under way, the save."""


class SwiftEngine:
    """A `TrainEngine` over one run's context."""

    def __init__(self, context: EngineContext) -> None:
        self.context = context

    def open(self, plan: Plan, device: Device) -> SwiftSession:
        """A session on one device."""
        return SwiftSession(self.context, plan, device)


class SwiftSession:
    """Holds one trial at a time: one process has the device."""

    def __init__(self, context: EngineContext, plan: Plan, device: Device) -> None:
        self.context, self.plan, self.device = context, plan, device
        self.current: _Process | None = None

    def capacity(self) -> int:
        """One."""
        return 1

    def submit(self, trial: Trial, from_checkpoint: Path | None = None) -> None:
        """Starts `swift sft` for a trial.

        Raises:
            StageFailed: when one runs already.
        """
        if self.current is not None:
            raise StageFailed(*explain("engine.one_trial"))
        folder = self.context.folder / "trials" / str(trial.number)
        # An attempt of a dead owner may have left half of a checkpoint: each attempt has a folder of its own.
        self.current = _Process(self, trial, folder / f"attempt-{trial.attempt}", from_checkpoint)

    def events(self, timeout: float) -> list[Event]:
        """What the running trial reported; waits up to `timeout` seconds for the first."""
        end = time.monotonic() + timeout
        while True:
            found = self.current.poll() if self.current else []
            if self.current and self.current.ended:
                self.current = None
            if found or time.monotonic() >= end:
                return found
            time.sleep(0.1)

    def stop(self, trial: int) -> None:
        """Asks the trial to end at its next step."""
        if self.current and self.current.trial.number == trial:
            self.current.stop_file.touch()

    def save(self, trial: int, path: Path) -> Artifact:
        """Copies the newest checkpoint of a trial.

        Raises:
            StageFailed: when it has none.
        """
        found = sorted((self.context.folder / "trials" / str(trial)).glob("attempt-*/output/checkpoint-*"))
        if not found:
            raise StageFailed(*explain("engine.no_checkpoint", trial=trial))
        newest = max(found, key=lambda p: p.stat().st_mtime)
        with disk_errors_explained(str(path)):
            shutil.copytree(newest, path, dirs_exist_ok=True)
        return Artifact(path=str(path), kind="checkpoint", made_by=f"trial {trial}")

    def close(self) -> None:
        """Ends the running trial's process."""
        if self.current:
            self.current.child.end()
            self.current = None


def visible_devices(device: Device, count: int = 1) -> dict[str, str]:
    """The environment that gives a training its own cards and no others.

    Args:
        device: the first of them. count: how many, by ascending index.
    """
    numbers = ",".join(str(device.index + n) for n in range(max(1, count)))
    if device.kind == "cuda":
        # By its own name where there is one: numbers depend on the order in which a driver counts.
        own = device.uuid if count <= 1 and device.uuid else numbers
        return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": own}
    return {"ASCEND_RT_VISIBLE_DEVICES": numbers} if device.kind == "npu" else {}


class _Process:
    """One attempt: its files, its child, and the reader of its channel."""

    def __init__(self, session: SwiftSession, trial: Trial, folder: Path, checkpoint: Path | None) -> None:
        context, plan = session.context, session.plan
        self.trial, self.context, self.plan, self.folder = trial, context, plan, folder
        self.channel, self.stop_file = folder / "events.jsonl", folder / "stop"
        self.ended = False
        self._offset, self._finished, self._final = 0, False, False
        self._last_line, self._durations = time.monotonic(), list[float]()
        self._checkpoint, self._stable, self._reason = "", "", ""
        self._metrics: dict[str, float | None] = {}
        self._started = 0.0
        self._oom_kills = oom_kills()
        if folder.exists():
            shutil.rmtree(folder)
        settings = settings_in_force(plan, trial)
        self._stable_step = int(settings.get("stable_steps") or 0)
        megatron = plan.training.sharding == "megatron"
        make = megatron_arguments if megatron else sft_arguments
        arguments = make(context, plan.model, settings, folder / "output")
        if checkpoint is not None:
            arguments += ["--resume_from_checkpoint", str(context.folder / checkpoint)]
        argv = (megatron_argv if megatron else sft_argv)(context, arguments, plan.training.devices)
        spec = {
            "channel": self.channel,
            "stop_file": self.stop_file,
            "validation": context.validation if trial.evaluate_rows else None,
            "max_new_tokens": plan.evaluation.max_new_tokens if plan.evaluation.validation_answers else 0,
            "generation_batch_size": plan.evaluation.generation_batch_size,
            "nll_rows": trial.evaluate_rows,
            "deadline": trial.deadline - trial.evaluate_seconds if trial.deadline else None,
            "hard_deadline": trial.deadline,
            "stable_step": settings.get("stable_steps"),
        }
        write_atomic(folder / "trial.json", dumps(spec, indent=1))
        environment = plan.training.environment
        plain = plain_command(arguments, environment, plan.training.devices, megatron=megatron)
        write_atomic(folder / "command.json", dumps(plain, indent=1))
        env = child_environment(plan.training.threads) | dict(plan.training.environment)
        env |= visible_devices(session.device, plan.training.devices)
        env["AUTOSWIFT_TRIAL"] = str(folder / "trial.json")
        log = context.folder / "logs" / f"trial-{trial.number}-{trial.attempt}.log"
        self.child = Child(argv, env, context.folder, f"swift sft, trial {trial.number}", log)

    def poll(self) -> list[Event]:
        """New events; after the child's end, the last one (`finished` or `failed`)."""
        code = self.child.poll()
        events = self._read()
        if code is not None:
            events += self._read()
            return [*events, self._end(code)]
        hang = self._hanging()
        if hang:
            self.child.end()
            return [*events, *self._read(), self._failed("hang", hang)]
        if self.trial.deadline and time.time() > self.trial.deadline + GRACE_SECONDS:
            # It could not end by itself in time (a step longer than the grace): what is saved still counts.
            self.child.end()
            events += self._read()
            return [
                *events,
                self._end(0, cut=True) if self._checkpoint else self._failed("hang", "did not stop at its deadline"),
            ]
        return events

    def _read(self) -> list[Event]:
        if not self.channel.exists():
            return []
        with self.channel.open("rb") as f:
            f.seek(self._offset)
            data = f.read()
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        lines = [json.loads(line) for line in data[:whole].splitlines() if line.strip()]
        return [event for line in lines if (event := self._event(line)) is not None]

    def _event(self, line: Mapping[str, Any]) -> Event | None:
        now, kind = time.monotonic(), line["event"]
        silence, self._last_line = now - self._last_line, now
        step, metrics = int(line.get("step") or 0), _numbers(line.get("metrics") or {})
        if kind == "started":
            self._started = float(line["time"])
            return self._make("started", 0, {"seconds_to_start": line.get("seconds_to_start")}, line)
        if kind == "progress":
            self._durations.append(silence)
            elapsed = float(line["time"]) - self._started
            if metrics.get("tokens") and elapsed > 0 and self._started:
                metrics["tokens_per_second"] = float(metrics["tokens"] or 0) / elapsed
            self._metrics |= metrics
            return self._make("progress", step, metrics, line)
        if kind == "evaluated" and line.get("final"):
            return self._make("evaluated", step, self._scored(line, metrics), line)
        if kind == "evaluated":
            return self._make("evaluated", step, metrics, line)
        if kind == "saved":
            self._checkpoint = str(line["checkpoint"])
            if step == self._stable_step:
                self._stable = self._checkpoint
        if kind == "stopping":
            self._reason = str(line.get("reason", ""))
        if kind == "warning":
            return self._make("warning", step, {}, line, symptom=str(line.get("symptom", "unknown")))
        self._finished = self._finished or kind == "finished"
        return None

    def _scored(self, line: Mapping[str, Any], metrics: dict[str, float | None]) -> dict[str, float | None]:
        # An answer that the deadline cut off is null.
        made = [
            (str(a["text"]), reference)
            for a, reference in zip(line.get("answers") or [], self.context.references, strict=False)
            if a is not None
        ]
        if made:
            metrics |= self.context.score([a for a, _ in made], [r for _, r in made])
            rows = "".join(dumps(a) + "\n" for a in line["answers"])
            write_atomic(self.folder / "answers.jsonl", rows)
        self._final = True
        self._metrics |= metrics
        return metrics

    def _end(self, code: int, *, cut: bool = False) -> Event:
        """The last event. `cut`: we ended it at its deadline, so what it had saved is the result."""
        self.ended = True
        # swift ends a NaN training with exit code 0, so the code alone says nothing: the callback must have finished.
        if self._metrics.get("loss", 0.0) is None or self._reason == "nan":
            return self._failed("nan", "the loss or its gradients are not numbers")
        if (self._finished or self._final or cut) and self._checkpoint and Path(self._checkpoint).is_dir():
            artifact = Artifact(
                path=os.path.relpath(self._checkpoint, self.context.folder),
                kind="adapter" if self.plan.training.method != "full" else "checkpoint",
                made_by=f"trial {self.trial.number}",
            )
            return Event(
                kind="finished",
                trial=self.trial.number,
                time=time.time(),
                metrics=self._metrics,
                artifact=artifact,
                evidence={"reason": self._reason} | self._resumable(),
            )
        symptom = diagnose(code, self.child.tail(60), oom_kills_before=self._oom_kills)
        return self._failed(symptom.name, symptom.evidence)

    def _resumable(self) -> dict[str, str]:
        """Where a longer training may go on from: the checkpoint of before the rate fell."""
        if not self._stable or not Path(self._stable).is_dir():
            return {}
        return {"resume": os.path.relpath(self._stable, self.context.folder)}

    def _failed(self, symptom: str, words: str) -> Event:
        self.ended = True
        return Event(
            kind="failed",
            trial=self.trial.number,
            time=time.time(),
            metrics=self._metrics,
            symptom=symptom,
            evidence={"text": words, "log": os.path.relpath(self.child.log, self.context.folder)},
        )

    def _make(
        self,
        kind: Any,
        step: int,
        metrics: dict[str, float | None],
        line: Mapping[str, Any],
        symptom: str = "",
    ) -> Event:
        evidence = {"total_steps": line["total_steps"]} if line.get("total_steps") else {}
        return Event(
            kind=kind,
            trial=self.trial.number,
            time=float(line["time"]),
            step=step,
            metrics=metrics,
            symptom=symptom,
            evidence=evidence,
        )

    def _hanging(self) -> str:
        """How long it has been silent, in words, when that is too long; else an empty text."""
        silent = time.monotonic() - self._last_line
        if not self._durations:
            return f"no step in {silent:.0f} s since the start" if silent > START_SECONDS else ""
        median = sorted(self._durations)[len(self._durations) // 2]
        bound = max(HANG_LEAST_SECONDS, HANG_FACTOR * median)
        return f"no step in {silent:.0f} s; the median is {median:.1f} s" if silent > bound else ""


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    return {k: v for k, v in metrics.items() if v is None or isinstance(v, int | float)}
