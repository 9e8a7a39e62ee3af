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
        attempts: started so far. overrides: of the newest attempt.
        curve: points of the newest attempt. outcome: of the newest attempt that ended.
        ended: one outcome for each rung that ended for good, in order.
        done: ended for good (finished, pruned, or failed without a further attempt).
        device_seconds: over all attempts; one whose owner died counts up to its last line.
        begun, last: unix seconds of the newest attempt's start and of its last line.
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


def rebuild(rows: Iterable[Mapping[str, Any]]) -> dict[int, TrialHistory]:
    """Trial number to its history, from the lines of trials.jsonl. Number 0 is the final training."""
    trials: dict[int, TrialHistory] = {}
    for row in rows:
        number, event = int(row["trial"]), row["event"]
        if event == "proposed":
            _proposed(trials, number, row)
            continue
        trial = trials.get(number)
        if trial is None:
            continue
        if event == "started":
            trial.begun = float(row["time"])
            trial.attempts = int(row["attempt"])
            trial.overrides = dict(row.get("overrides") or {})
            trial.curve, trial.done = [], False
        elif event in ("progress", "evaluated"):
            trial.curve.append(Point(step=int(row["step"]), metrics=dict(row["metrics"])))
        elif event == "ended":
            trial.outcome = _OUTCOME.validate_python(row["outcome"])
            trial.device_seconds += trial.outcome.device_seconds
            trial.done, trial.begun = bool(row.get("final", True)), 0.0
            if trial.done:
                trial.ended.append(trial.outcome)
        trial.last = float(row["time"])
    for trial in trials.values():
        if trial.begun and not trial.done:
            trial.device_seconds += trial.last - trial.begun
    return trials


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
