"""What the lines that a training writes mean: JSON lines of `children/swift_plugin.py` or of the packed worker."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoswift.domain.artifact import Artifact
from autoswift.domain.plan import Plan
from autoswift.domain.protocols import Event, EventKind
from autoswift.domain.trial import Trial
from autoswift.engines.context import EngineContext
from autoswift.run.files import dumps, write_atomic
from autoswift.run.manifest import flaw, write_manifest

START_SECONDS = 900.0
"""Longest silence before the first step: loading a large model from a slow disk takes minutes."""

HANG_FACTOR = 20.0
"""A step that takes this many times the median is a hang; the first step with a new shape may take several."""

HANG_LEAST_SECONDS = 300.0
"""Silence shorter than this is never a hang: saving and answering are silent too."""

GRACE_SECONDS = 20.0
"""After its deadline a trial has this long to end by itself: the step or the answers that were under way, the save."""


class Lines:
    """One attempt of a trial, from the lines that report it to the events that the executor takes.

    Args:
        context: of the run. plan: in force. trial: the attempt.
        folder: of the attempt. stable_step: whose checkpoint a longer trial goes on from; 0 for none.

    Attributes:
        finished: its last line was read. checkpoint: newest on the disk; empty while there is none.
        steps: reported so far. reason: why it is stopping.
    """

    def __init__(self, context: EngineContext, plan: Plan, trial: Trial, folder: Path, stable_step: int = 0) -> None:
        self.context, self.plan, self.trial, self.folder = context, plan, trial, folder
        self.finished, self.checkpoint, self.reason, self.steps = False, "", "", 0
        self.started = False
        self.facts: dict[str, Any] = {}  # that a checkpoint's manifest keeps
        self._final, self._stable, self._stable_step = False, "", stable_step
        self._broken, self._good = False, ""
        self.heard, self.durations = time.monotonic(), list[float]()
        self._metrics: dict[str, float | None] = {}
        self._begin = 0.0

    def event(self, line: Mapping[str, Any]) -> Event | None:
        """The event of a line; None for one that only this attempt needs to know of."""
        now, kind = time.monotonic(), line["event"]
        silence, self.heard = now - self.heard, now
        step, metrics = int(line.get("step") or 0), numbers(line.get("metrics") or {})
        if kind == "started":
            return self._begun(line)
        if kind == "progress":
            return self._progress(line, step, metrics, silence)
        if kind == "evaluated":
            scored = self._scored(line, metrics) if line.get("final") else metrics
            return self._make("evaluated", step, scored, line)
        if kind == "saved" and self._kept(Path(line["checkpoint"]), step):
            self.checkpoint = str(line["checkpoint"])
            if step == self._stable_step:
                self._stable = self.checkpoint
        if kind == "stopping":
            self.reason = str(line.get("reason", ""))
        if kind == "warning":
            return self._warning(line, step, metrics)
        self.finished = self.finished or kind == "finished"
        return None

    def reopened(self) -> None:
        """The attempt goes on in another process: steps that were reported are not reported again."""
        self.heard, self.finished, self._final, self.reason = time.monotonic(), False, False, ""

    def result(self, *, cut: bool = False) -> Event | None:
        """The event of its good end, or of numbers that went wrong; None where neither is to be seen.

        Args:
            cut: it was ended at its deadline, so what it had saved is the result.
        """
        if self._metrics.get("loss", 0.0) is None or self.reason == "nan":
            return self.failed("nan", "the loss or its gradients are not numbers", **self._resumable(self._good))
        if not ((self.finished or self._final or cut) and self.checkpoint):
            return None
        torn = flaw(Path(self.checkpoint))
        if torn:
            return self.failed("bad_checkpoint", f"{os.path.relpath(self.checkpoint, self.context.folder)}: {torn}")
        artifact = Artifact(
            path=os.path.relpath(self.checkpoint, self.context.folder),
            kind="adapter" if self.plan.training.method != "full" else "checkpoint",
            made_by=f"trial {self.trial.number}",
        )
        return Event(
            kind="finished",
            trial=self.trial.number,
            time=time.time(),
            metrics=self._metrics,
            artifact=artifact,
            evidence={"reason": self.reason} | self._resumable(),
        )

    def failed(self, symptom: str, words: str, **evidence: Any) -> Event:
        """The event of its bad end.

        Args:
            symptom: by its name. words: what was seen. evidence: more of it.
        """
        return Event(
            kind="failed",
            trial=self.trial.number,
            time=time.time(),
            metrics=self._metrics,
            symptom=symptom,
            evidence={"text": words} | evidence,
        )

    def warned(self, symptom: str, words: str) -> Event:
        """The event of something that the trial survives."""
        return Event(
            kind="warning",
            trial=self.trial.number,
            time=time.time(),
            step=self.steps,
            symptom=symptom,
            evidence={"text": words},
        )

    def _begun(self, line: Mapping[str, Any]) -> Event | None:
        first = not self.started
        self.started = True
        self._begin = self._begin or float(line["time"])
        return self._make("started", 0, {"seconds_to_start": line.get("seconds_to_start")}, line) if first else None

    def _warning(self, line: Mapping[str, Any], step: int, metrics: dict[str, float | None]) -> Event:
        symptom, said = str(line.get("symptom", "unknown")), line.get("text") or line.get("message")
        if symptom in ("nan", "nan_gradient") and not self._broken:
            self._broken, self._good = True, self.checkpoint
        return self._make("warning", step, metrics, line, symptom, {"text": str(said)} if said else {})

    def _progress(
        self, line: Mapping[str, Any], step: int, metrics: dict[str, float | None], silence: float
    ) -> Event | None:
        self.durations.append(silence)
        if step <= self.steps:  # trained again, from the checkpoint before a worker's end
            return None
        self.steps = step
        elapsed = float(line["time"]) - self._begin
        if metrics.get("tokens") and elapsed > 0 and self._begin:
            metrics["tokens_per_second"] = float(metrics["tokens"] or 0) / elapsed
        self._metrics |= metrics
        return self._make("progress", step, metrics, line)

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

    def _kept(self, path: Path, step: int) -> bool:
        """Seals a checkpoint; False when it is none of this attempt's, or was already replaced by a later one."""
        if self.folder not in path.parents:
            return False
        try:
            write_manifest(path, trial=self.trial.number, attempt=self.trial.attempt, step=step, **self.facts)
        except FileNotFoundError:
            return False
        return True

    def _resumable(self, good: str = "") -> dict[str, str]:
        """Where a further training may go on from: the checkpoint of before the rate fell.

        Args:
            good: the newest of before the numbers went wrong, of a trial that ended so; it needs its optimizer's state.
        """
        state = any((Path(good) / name).is_file() for name in ("optimizer.pt", "packed_state.json")) if good else False
        place = good if state else self._stable
        return {"resume": os.path.relpath(place, self.context.folder)} if place and Path(place).is_dir() else {}

    def _make(
        self,
        kind: EventKind,
        step: int,
        metrics: dict[str, float | None],
        line: Mapping[str, Any],
        symptom: str = "",
        evidence: Mapping[str, Any] | None = None,
    ) -> Event:
        total = {"total_steps": line["total_steps"]} if line.get("total_steps") else {}
        return Event(
            kind=kind,
            trial=self.trial.number,
            time=float(line["time"]),
            step=step,
            metrics=metrics,
            symptom=symptom,
            evidence=total | dict(evidence or {}),
        )


def hanging(heard: float, durations: list[float]) -> str:
    """How long it has been silent, in words, when that is too long; else an empty text.

    Args:
        heard: when its last line came (monotonic clock). durations: of its steps so far.
    """
    silent = time.monotonic() - heard
    if not durations:
        return f"no step in {silent:.0f} s since the start" if silent > START_SECONDS else ""
    median = sorted(durations)[len(durations) // 2]
    bound = max(HANG_LEAST_SECONDS, HANG_FACTOR * median)
    return f"no step in {silent:.0f} s; the median is {median:.1f} s" if silent > bound else ""


def numbers(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """What of the metrics is a number, or stands for one that was not finite."""
    return {k: v for k, v in metrics.items() if v is None or isinstance(v, int | float)}
