"""Attempts of a round: those that run, those that wait for a fault to pass, and how one ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from autoswift.domain.protocols import Event, Session, Symptom
from autoswift.domain.trial import FINAL_TRAINING, Outcome, Proposal, Trial
from autoswift.recover.diagnose import row
from autoswift.search.history import TrialHistory
from autoswift.search.searcher import Search


@dataclass(slots=True)
class Running:
    """A trial on its way.

    Attributes:
        begin: on the run's clock.
        stopped: why the searcher had it stopped, or `tighten` after a warning; empty while it has not.
        charged: seconds of the session's device that were its own, where trials share one.
        phase: load, first_step or long_batch: how far it is.
        hurried: it was asked to end because its time is over.
    """

    trial: Trial
    session: Session
    begin: float
    stopped: str = ""
    hurried: bool = False
    metrics: dict[str, float | None] = field(default_factory=dict)
    steps: int = 0
    charged: float = 0.0
    phase: str = "load"
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """An attempt that begins when its fault has had time to pass. No device is held for it.

    Attributes:
        due: of the machine's own clock.
    """

    due: float
    proposal: Proposal
    attempt: int
    overrides: dict[str, Any]
    resume: str | None


def outcome_of(one: Running, event: Event, symptom: Symptom | None, seconds: float, *, several_rungs: bool) -> Outcome:
    """How an attempt ended.

    Args:
        one: the attempt. event: its last. symptom: of one that failed. seconds: device-seconds that it took.
        several_rungs: trials of the search end at different lengths.
    """
    return Outcome(
        status="failed" if symptom else "pruned" if one.stopped == "pruned" else "finished",
        metrics=one.metrics,
        symptom=symptom.name if symptom else None,
        reason=symptom.evidence if symptom else str(event.evidence.get("reason", "")),
        device_seconds=round(seconds, 3),
        steps=one.steps,
        tokens=int(one.metrics.get("tokens") or 0),
        artifact=event.artifact.path if event.artifact and not symptom else None,
        rung=one.trial.tokens if one.trial.number != FINAL_TRAINING and several_rungs else 0,
        resume=str(event.evidence["resume"]) if event.evidence.get("resume") and not symptom else None,
    )


def lost_outcome(past: TrialHistory, devices: int) -> Outcome:
    """Of an attempt whose owner died."""
    return Outcome(
        status="failed",
        symptom="interrupted",
        reason="the run was interrupted",
        device_seconds=round((past.last - past.begun) * max(1, devices), 3),
        steps=max((p.step for p in past.curve), default=0),
    )


def symptom_of(one: Running, event: Event, searcher: Search) -> Symptom | None:
    """What went wrong, or None: the searcher's word on a curve goes before what the process said at its end."""
    if one.stopped == "tighten":
        return Symptom(name="gradients_growing", evidence=one.words)
    if one.stopped and one.stopped != "pruned":
        finder = getattr(searcher.curves, "found", None)
        found = finder(one.trial.number) if finder else None
        words = found.evidence if found else f"loss {one.metrics.get('loss')} at step {one.steps}"
        return Symptom(name=one.stopped, evidence=words)
    if event.kind != "failed":
        return None
    return Symptom(
        name=event.symptom,
        evidence=str(event.evidence.get("text", "")),
        transient=bool(row(event.symptom)["transient"]),
        phase=str(event.evidence.get("phase") or one.phase),
    )
