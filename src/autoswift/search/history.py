"""What trials.jsonl says: the truth that the sampler and a resume are rebuilt from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from autoswift.domain.trial import Outcome, Point, Proposal

_OUTCOME = TypeAdapter(Outcome)


@dataclass(slots=True)
class TrialHistory:
    """One trial as the journal tells it.

    Attributes:
        attempts: started so far. overrides: of the newest attempt, or of the next one where a remedy changed them.
        curve: points of the newest attempt. outcome: of the newest attempt that ended.
        ended: one outcome for each rung that ended for good, in order.
        done: ended for good (finished, pruned, or failed without a further attempt).
        device_seconds: over all attempts; one whose owner died counts up to its last line.
        begun, last: when the newest attempt started and when its last line was written, in seconds of its owner's
            clock; `begun` is 0 where none is under way.
    """

    proposal: Proposal
    attempts: int = 0
    overrides: dict[str, Any] = field(default_factory=dict)
    curve: list[Point] = field(default_factory=list)
    outcome: Outcome | None = None
    ended: list[Outcome] = field(default_factory=list)
    done: bool = False
    device_seconds: float = 0.0
    begun: float = 0.0
    last: float = 0.0


def rebuild(rows: Iterable[Mapping[str, Any]], devices: int = 1) -> dict[int, TrialHistory]:
    """Trial number to its history, from the lines of trials.jsonl. Number 0 is the final training.

    Args:
        rows: of the journal, in order.
        devices: that each training holds: an attempt whose owner died cost its seconds on all of them.
    """
    trials: dict[int, TrialHistory] = {}
    for row in rows:
        number, event = int(row["trial"]), row["event"]
        if event == "proposed":
            _proposed(trials, number, row)
            continue
        trial = trials.get(number)
        if trial is None:
            continue
        if event in ("started", "placed"):
            _begun(trial, row)
        elif event in ("progress", "evaluated"):
            trial.curve.append(Point(step=int(row["step"]), metrics=dict(row["metrics"])))
        elif event == "ended":
            trial.outcome = _OUTCOME.validate_python(row["outcome"])
            trial.device_seconds += trial.outcome.device_seconds
            trial.done, trial.begun = bool(row.get("final", True)), 0.0
            trial.overrides = dict(row.get("overrides") or trial.overrides)
            if trial.done:
                trial.ended.append(trial.outcome)
        trial.last = _when(row)
    for trial in trials.values():
        if trial.begun and not trial.done:
            trial.device_seconds += max(0.0, trial.last - trial.begun) * max(1, devices)
    return trials


def _begun(trial: TrialHistory, row: Mapping[str, Any]) -> None:
    """On a cluster an attempt that was `started` holds no device before it is `placed`."""
    trial.begun = 0.0 if row.get("queued") else _when(row)
    if row["event"] == "placed":
        return
    trial.attempts = int(row["attempt"])
    trial.overrides = dict(row.get("overrides") or {})
    trial.curve, trial.done = [], False


def _when(row: Mapping[str, Any]) -> float:
    """When a line was written: by a clock that nobody sets, in records that have it. An attempt has one owner."""
    return float(row["ticks"] if "ticks" in row else row["time"])


def _proposed(trials: dict[int, TrialHistory], number: int, row: Mapping[str, Any]) -> None:
    proposal = Proposal(
        number=number,
        parameters=dict(row["parameters"]),
        origin=str(row["origin"]),
        tokens=int(row["tokens"]) if row.get("tokens") else None,
    )
    if number in trials:  # continued to a further rung
        trials[number].proposal, trials[number].done = proposal, False
    else:
        trials[number] = TrialHistory(proposal=proposal)
