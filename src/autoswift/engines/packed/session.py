"""A device with the resident worker on it: trials come and go, and none is lost with the worker."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

from autoswift.domain.artifact import Artifact
from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Event
from autoswift.domain.trial import Trial
from autoswift.engines.arguments import sft_arguments
from autoswift.engines.context import EngineContext
from autoswift.engines.lines import GRACE_SECONDS, hanging
from autoswift.engines.packed.lane import Lane
from autoswift.engines.packed.protocol import (
    Capacity,
    Checkpoint,
    Failed,
    Message,
    Note,
    Open,
    Opened,
    Refused,
    Said,
    Stop,
    Unreadable,
)
from autoswift.engines.packed.worker import SCRIPT, Worker
from autoswift.engines.swift import SwiftSession, kept_checkpoint, visible_devices
from autoswift.recover.diagnose import phase_of
from autoswift.run.places import child_environment

CHECKPOINT_SECONDS = 60.0
"""How much of a trial a dead worker may cost; saving an adapter and its optimizer takes a fraction of a second."""
LOSSES = 2
"""Workers that may end under a trial before it has made a step of progress: a second time points to the trial."""
MEMORY = ("device_out_of_memory", "host_out_of_memory")
LASTING = ("disk_full", "bad_data", "driver_unfit")
"""Symptoms that another worker would have too."""


class PackedSession:
    """Holds as many trials as the plan says, fewer after the device has run out of memory.

    What cannot be packed after all (the worker refuses the base, or recovery has changed a setting that all trials of a
    worker share) is trained by a process of its own, one at a time, when the worker's trials have ended.

    Args:
        context: of the run. plan: its `search.packed` trials share the device. device: where.
        script: of the worker.
    """

    shares_device = True
    """Its trials share one device's time."""

    def __init__(self, context: EngineContext, plan: Plan, device: Device, script: Path = SCRIPT) -> None:
        self.context, self.plan, self.device, self.script = context, plan, device, script
        self.lanes: dict[int, Lane] = {}
        self.waiting: deque[Lane] = deque()
        self.worker: Worker | None = None
        self.refused = ""
        self._solo = SwiftSession(context, plan, device)
        self._most = max(1, plan.search.packed)
        self._checkpointing = plan.training.gradient_checkpointing
        self._ready: list[Event] = []
        self._started = 0

    def capacity(self) -> int:
        """How many trials may run at once, now."""
        if self.refused:
            return 1
        # While one waits for the worker to be emptied, no other is put into it.
        return len(self.lanes) + len(self.waiting) if self.waiting else self._most

    def submit(self, trial: Trial, from_checkpoint: Path | None = None) -> None:
        """Starts a trial, from the base or from a checkpoint."""
        begin = self.context.folder / from_checkpoint if from_checkpoint else None
        self.waiting.append(Lane(self.context, self.plan, trial, begin))
        self._place()

    def events(self, timeout: float) -> list[Event]:
        """What happened since the last call; waits up to `timeout` seconds for the first."""
        end = time.monotonic() + timeout
        while True:
            left = max(0.0, end - time.monotonic())
            found = self._solo.events(min(left, 0.1)) if self._solo.current else self._listen(min(left, 0.5))
            found += self._watch()
            self._place()
            found, self._ready = [*self._ready, *found], []
            if found or time.monotonic() >= end:
                return found

    def stop(self, trial: int) -> None:
        """Asks a trial to end at its next step, keeping its checkpoint."""
        if trial in self.lanes and self.worker is not None:
            self.lanes[trial].ending = True
            self.worker.send(Stop(trial=trial))
        for lane in [one for one in self.waiting if one.number == trial]:
            self.waiting.remove(lane)
            self._ready.append(lane.lines.result(cut=True) or lane.lines.failed("unknown", "stopped before it began"))
        self._solo.stop(trial)

    def save(self, trial: int, path: Path) -> Artifact:
        """Copies the newest checkpoint of a trial."""
        return kept_checkpoint(self.context.folder, trial, path)

    def close(self) -> None:
        """Ends the worker and what runs in it."""
        self._solo.close()
        self._end_worker()
        self.lanes.clear()
        self.waiting.clear()

    def _place(self) -> None:
        """Starts what waits, in its order, as far as there is room for it."""
        while self.waiting and not self._solo.current:
            lane = self.waiting[0]
            if self.refused or lane.alone:
                if self.lanes:
                    return
                self._end_worker()
                self.waiting.popleft()
                self._solo.submit(lane.trial, lane.begin_alone)
                return
            if len(self.lanes) >= self._most:
                return
            if lane.checkpointing and not self._checkpointing:
                if self.lanes:
                    return
                self._end_worker()
                self._checkpointing = True
            self.waiting.popleft()
            self.lanes[lane.number] = lane
            self._opened().send(lane.command())

    def _opened(self) -> Worker:
        if self.worker is None:
            environment = child_environment(self.plan.training.threads) | dict(self.plan.training.environment)
            environment |= visible_devices(self.device)
            logs = self.context.folder / "logs"
            number = len(list(logs.glob(f"packed-{self.device.index}-*.log"))) + 1
            log = logs / f"packed-{self.device.index}-{number}.log"
            self.worker = Worker(self.context.python, self.script, environment, self.context.folder, log)
            self.worker.send(self._open())
        return self.worker

    def _open(self) -> Open:
        training, evaluation = self.plan.training, self.plan.evaluation
        settings = self._any_settings()
        arguments = sft_arguments(self.context, self.plan.model, settings, self.context.folder / "packed")
        pairs = zip(arguments[::2], arguments[1::2], strict=True)
        cuda = self.device.kind == "cuda"
        return Open(
            model=self.context.model,
            model_type=self.plan.model.model_type,
            template=self.plan.model.template,
            torch_dtype=training.precision,
            quant="nf4" if training.method == "qlora" else None,
            device="cuda:0" if cuda else self.device.kind,
            threads=training.threads,
            train=self.context.train,
            validation=self.context.validation,
            max_length=training.max_length,
            target_modules=training.target_modules,
            gradient_checkpointing=self._checkpointing,
            use_liger=training.use_liger_kernel,
            graphs=cuda and not self._checkpointing,
            max_trials=self._most,
            max_new_tokens=evaluation.max_new_tokens if evaluation.validation_answers else 0,
            generation_batch_size=evaluation.generation_batch_size,
            optimizer=training.optimizer,
            arguments={name.removeprefix("--"): value for name, value in pairs},
        )

    def _any_settings(self) -> dict[str, Any]:
        """Settings for swift's parser: those of a trial that is there; each trial's own come with it."""
        lane = next(iter(self.lanes.values()))
        return lane.settings | {"gradient_checkpointing": self._checkpointing}

    def _listen(self, timeout: float) -> list[Event]:
        if self.worker is None:
            time.sleep(min(timeout, 0.05) if self._ready else timeout)
            return []
        try:
            messages = self.worker.messages(timeout)
        except Unreadable as exc:
            self._end_worker()
            return self._lost("unknown", str(exc))
        return [event for message in messages for event in self._take(message)] + self._ended()

    def _ended(self) -> list[Event]:
        """What follows when the worker is gone."""
        if self.worker is None or not self.worker.ended():
            return []
        symptom, words, transient = self.worker.verdict()
        self.worker = None
        return self._lost(symptom, words, lasting=symptom in LASTING, transient=transient)

    def _take(self, message: Message) -> list[Event]:
        if isinstance(message, Said):
            return self._said(message)
        if isinstance(message, Failed | Note) and message.trial in self.lanes:
            return self._failed(message)
        if isinstance(message, Capacity):
            self._most = max(1, message.trials)
            return self._tell("pack_halved", f"{self._most} trials: {message.reason}")
        if isinstance(message, Refused):
            return self._refusal(message)
        if isinstance(message, Opened) and message.max_trials:
            self._most = max(1, min(self._most, message.max_trials))
        return []

    def _said(self, message: Said) -> list[Event]:
        lane = self.lanes.get(message.trial)
        if lane is None:
            return []
        event = lane.take(message)
        found = [event] if event is not None else []
        if message.event == "finished":
            del self.lanes[lane.number]
            end = lane.lines.result() or lane.lines.failed("bad_checkpoint", "it ended without a checkpoint")
            found.append(end)
        return found

    def _failed(self, message: Failed | Note) -> list[Event]:
        """The end of one trial, of which the worker takes no notice; one that cannot be packed goes on by itself."""
        lane = self.lanes[message.trial or 0]
        if isinstance(message, Note) and lane.lines.started:  # it trains, only the command was not understood
            return []
        del self.lanes[lane.number]
        if isinstance(message, Failed) and message.symptom == "packing_refused":
            lane.refused = True
            self.waiting.append(lane)
            return [lane.lines.warned(message.symptom, message.text)]
        symptom = message.symptom if isinstance(message, Failed) else "unknown"
        phase = phase_of("", started=lane.lines.started, steps=lane.lines.steps)
        return [lane.lines.failed(symptom, message.text, phase=phase)]

    def _refusal(self, message: Refused) -> list[Event]:
        """The base cannot be packed: everything goes on with a process a trial."""
        self.refused = message.reason
        told = self._tell("packing_refused", f"{message.reason}: {message.text}")
        self.waiting.extendleft(reversed(self.lanes.values()))
        self.lanes.clear()
        self._end_worker()
        return told

    def _tell(self, symptom: str, words: str) -> list[Event]:
        """What concerns the worker is told once, on the account of one of its trials."""
        lane = next(iter(self.lanes.values()), None)
        return [lane.lines.warned(symptom, words)] if lane is not None else []

    def _watch(self) -> list[Event]:
        """Ends what is over its time, and has trials put on the disk now and then."""
        events: list[Event] = []
        for lane in [one for one in self.waiting if one.overdue(0.0)]:
            self.waiting.remove(lane)
            events.append(lane.lines.result(cut=True) or lane.lines.failed("unknown", "its time was over too early"))
        if self.worker is None:
            return events
        late = [lane for lane in self.lanes.values() if lane.overdue(GRACE_SECONDS)]
        # Steps come from all trials in turn, so the worker's silence is that of each of them.
        durations = [d for lane in self.lanes.values() for d in lane.lines.durations]
        silent = hanging(max([self.worker.heard, *(lane.lines.heard for lane in self.lanes.values())]), durations)
        if self.lanes and (late or silent):
            self._end_worker()
            for lane in late:
                del self.lanes[lane.number]
                events.append(lane.lines.result(cut=True) or lane.lines.failed("hang", "did not stop in time"))
            return events + self._lost("hang", silent or "a trial did not stop in time", counted=not late)
        now = time.monotonic()
        for lane in self.lanes.values():
            if now - lane.sent > CHECKPOINT_SECONDS and lane.lines.steps and not lane.ending:
                lane.sent = now
                self.worker.send(Checkpoint(trial=lane.number))
        return events

    def _lost(
        self, symptom: str, words: str, *, lasting: bool = False, transient: bool = True, counted: bool = True
    ) -> list[Event]:
        """The worker is gone: its trials go on from their checkpoints in another one.

        Out of memory, or when a trial has lost a worker before without a step of progress, fewer share it from now on;
        a trial that ends its worker while it is alone in it has failed.

        Args:
            symptom, words: why. lasting: another worker would end the same. transient: it may simply be repeated.
            counted: it may be the trials' doing.
        """
        if not self.lanes:
            return []
        lanes, self.lanes = list(self.lanes.values()), {}
        for lane in lanes:
            lane.losses += counted
        again = any(lane.losses >= LOSSES for lane in lanes)
        alone = len(lanes) == 1 and (again or symptom in MEMORY or not transient)
        if lasting or alone:
            return [lane.lines.result() or lane.lines.failed(symptom, words) for lane in lanes]
        events = [lane.lines.warned("worker_lost", f"{symptom}: {words}") for lane in lanes]
        if symptom in MEMORY or again or not transient:
            self._most = max(1, len(lanes) // 2)
            events.append(lanes[0].lines.warned("pack_halved", f"{self._most} trials: {symptom}"))
        self.waiting.extendleft(reversed(lanes))
        return events

    def _end_worker(self) -> None:
        if self.worker is not None:
            self.worker.end()
            self.worker = None
