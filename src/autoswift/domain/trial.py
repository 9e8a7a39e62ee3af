"""One configuration, its learning curve, its outcome and its cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["finished", "pruned", "failed"]


FINAL_TRAINING = 0
"""The number of the winner's final training, which is no trial of the search: those count from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What the searcher wants tried: number n, drawn with a seed from (seed, n)."""

    number: int
    parameters: dict[str, Any]
    origin: str
    """prior, knowledge, gp or tpe."""
    tokens: int | None = None
    """How far it is to be trained; None is the plan's whole trial. A number that was proposed before is continued."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A proposal on its way through an engine.

    Attributes:
        number: the proposal's; the final training of the winner is number 0.
        attempt: 1, 2, …; a retry is a new attempt with a history, the proposal stays.
        parameters: the configuration.
        overrides: what recovery changed on top (never the effective batch size).
        tokens: how many tokens it is to train on.
        deadline: unix seconds at which it must stop by itself; None when only the plan limits it.
        evaluate_rows: validation rows that get an answer at its end.
        evaluate_seconds: how long that is expected to take; training stops so long before the deadline.
        continues: path of the checkpoint that it goes on from, relative to the run folder; its tokens count from zero.
    """

    number: int
    attempt: int
    parameters: dict[str, Any]
    tokens: int
    overrides: dict[str, Any] = field(default_factory=dict)
    deadline: float | None = None
    evaluate_rows: int = 0
    evaluate_seconds: float = 0.0
    continues: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measured point of a learning curve."""

    step: int
    metrics: dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a trial ended.

    Attributes:
        metrics: the last ones measured (the task's metric, nll, latency_seconds, tokens_per_second, …).
        symptom: of a failed trial.
        device_seconds: what it cost, failed attempts included.
        artifact: path of its checkpoint, relative to the run folder.
        rung: tokens that it was started for; 0 in records from before there were rungs.
        resume: path of the checkpoint from which it can be continued to more tokens, relative to the run folder.
    """

    status: Status
    metrics: dict[str, float | None] = field(default_factory=dict)
    symptom: str | None = None
    reason: str = ""
    device_seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    artifact: str | None = None
    rung: int = 0
    resume: str | None = None
