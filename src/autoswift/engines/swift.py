"""ms-swift as a training engine: one `swift sft` child per trial, watched through the lines its callback writes."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from autoswift.domain.artifact import Artifact
from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Event
from autoswift.domain.trial import Trial
from autoswift.engines.arguments import sft_arguments, sft_argv
from autoswift.engines.checkpoints import beginning, checkpoint_seconds, identity_of
from autoswift.engines.context import EngineContext
from autoswift.engines.lines import GRACE_SECONDS, Lines, hanging
from autoswift.engines.megatron import megatron_arguments, megatron_argv, plain_command
from autoswift.errors import StageFailed
from autoswift.recover.diagnose import diagnose, oom_kills
from autoswift.run.disk import disk_errors_explained
from autoswift.run.files import dumps, write_atomic
from autoswift.run.places import child_environment
from autoswift.run.process import Child
from autoswift.search.configuration import settings_in_force
from autoswift.tables import explain


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
        return kept_checkpoint(self.context.folder, trial, path)

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


def kept_checkpoint(folder: Path, trial: int, path: Path) -> Artifact:
    """Copies the newest checkpoint of a trial.

    Args:
        folder: of the run. path: where it is to be.

    Raises:
        StageFailed: when it has none.
    """
    found = sorted((folder / "trials" / str(trial)).glob("attempt-*/output/checkpoint-*"))
    if not found:
        raise StageFailed(*explain("engine.no_checkpoint", trial=trial))
    newest = max(found, key=lambda p: p.stat().st_mtime)
    with disk_errors_explained(str(path)):
        shutil.copytree(newest, path, dirs_exist_ok=True)
    return Artifact(path=str(path), kind="checkpoint", made_by=f"trial {trial}")


class _Process:
    """One attempt: its files, its child, and the reader of its channel."""

    def __init__(self, session: SwiftSession, trial: Trial, folder: Path, checkpoint: Path | None) -> None:
        context, plan = session.context, session.plan
        self.trial, self.context = trial, context
        self.channel, self.stop_file = folder / "events.jsonl", folder / "stop"
        self.ended = False
        self._offset = 0
        self._oom_kills = oom_kills()
        if folder.exists():
            shutil.rmtree(folder)
        settings = settings_in_force(plan, trial)
        self.lines = Lines(context, plan, trial, folder, int(settings.get("stable_steps") or 0))
        megatron = plan.training.sharding == "megatron"
        make = megatron_arguments if megatron else sft_arguments
        arguments = make(context, plan.model, settings, folder / "output")
        begin, self._torn = beginning(context.folder, trial, settings, checkpoint)
        self.lines.facts = {"settings": identity_of(settings)}
        if begin is not None:
            arguments += ["--resume_from_checkpoint", str(begin)]
        argv = (megatron_argv if megatron else sft_argv)(context, arguments, plan.training.devices)
        spec = {
            "channel": self.channel,
            "stop_file": self.stop_file,
            "validation": context.validation if trial.evaluate_rows else None,
            "max_new_tokens": plan.evaluation.max_new_tokens if plan.evaluation.validation_answers else 0,
            "generation_batch_size": settings.get("generation_batch_size", plan.evaluation.generation_batch_size),
            "nll_rows": trial.evaluate_rows,
            "deadline": trial.deadline - trial.evaluate_seconds if trial.deadline else None,
            "hard_deadline": trial.deadline,
            "stable_step": settings.get("stable_steps"),
            "checkpoint_seconds": checkpoint_seconds(settings),
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
        events = [*self._told(), *self._read()]
        if code is not None:
            events += self._read()
            return [*events, self._end(code)]
        hang = hanging(self.lines.heard, self.lines.durations)
        if hang:
            self.child.end()
            return [*events, *self._read(), self._failed("hang", hang)]
        if self.trial.deadline and time.time() > self.trial.deadline + GRACE_SECONDS:
            # It could not end by itself in time (a step longer than the grace): what is saved still counts.
            self.child.end()
            events += self._read()
            late = self._end(0, cut=True) if self.lines.checkpoint else self._failed("hang", "did not stop in time")
            return [*events, late]
        return events

    def _told(self) -> list[Event]:
        """Once: that a checkpoint was not whole, so that the training begins further back."""
        torn, self._torn = self._torn, ""
        return [self.lines.warned("bad_checkpoint", torn)] if torn else []

    def _read(self) -> list[Event]:
        if not self.channel.exists():
            return []
        with self.channel.open("rb") as f:
            f.seek(self._offset)
            data = f.read()
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        lines = [json.loads(line) for line in data[:whole].splitlines() if line.strip()]
        return [event for line in lines if (event := self.lines.event(line)) is not None]

    def _end(self, code: int, *, cut: bool = False) -> Event:
        """The last event. `cut`: we ended it at its deadline, so what it had saved is the result."""
        # swift ends a NaN training with exit code 0, so the code alone says nothing: the callback must have finished.
        result = self.lines.result(cut=cut)
        if result is not None and result.kind == "finished":
            self.ended = True
            return result
        if result is not None:
            return self._failed(result.symptom, **result.evidence)
        started, steps = self.lines.started, self.lines.steps
        log = self.child.tail(60)
        symptom = diagnose(code, log, oom_kills_before=self._oom_kills, started=started, steps=steps)
        return self._failed(symptom.name, symptom.evidence, phase=symptom.phase)

    def _failed(self, symptom: str, text: str, **evidence: Any) -> Event:
        self.ended = True
        log = os.path.relpath(self.child.log, self.context.folder)
        return self.lines.failed(symptom, text, log=log, **evidence)
