"""Trials as trials.jsonl tells them, each folded into one value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

SECONDARY = frozenset(
    {
        "nll",
        "loss",
        "latency_seconds",
        "tokens_per_second",
        "memory_bytes",
        "learning_rate",
        "grad_norm",
        "tokens",
        "epoch",
        "energy_joules",
    }
)
"""Measured beside a task's metric; whatever else a trial reports is the metric."""


@dataclass
class TrialHistory:
    """One trial over all its attempts.

    Attributes:
        status: proposed, running, finished, pruned, failed.
        curve: (step, loss) of the newest attempt; loss is None where it was not finite.
        device_seconds: of all attempts, the failed ones included.
        failures: the symptom of each failed attempt.
    """

    number: int
    origin: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    attempt: int = 0
    status: str = "proposed"
    step: int = 0
    total_steps: int = 0
    curve: list[tuple[int, float | None]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    memory_bytes: float = 0.0
    metrics: dict[str, float | None] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    reason: str = ""
    device_seconds: float = 0.0

    @property
    def losses(self) -> list[float]:
        """The finite losses, in order."""
        return [loss for _, loss in self.curve if loss is not None]

    def metric(self, name: str | None) -> float | None:
        """The task's metric by its name; without a name, the first that is none of the secondary ones."""
        if name:
            return self.metrics.get(name)
        return next((v for k, v in self.metrics.items() if k not in SECONDARY), None)


def take(trials: dict[int, TrialHistory], row: Mapping[str, Any]) -> TrialHistory:
    """Adds one line of trials.jsonl; returns the trial that it is about."""
    number = int(row["trial"])
    trial = trials.setdefault(number, TrialHistory(number))
    event = row.get("event")
    if event == "proposed":
        trial.parameters, trial.origin = dict(row.get("parameters") or {}), str(row.get("origin", ""))
    elif event == "started":
        trial.attempt, trial.status, trial.step = int(row.get("attempt", 1)), "running", 0
        trial.overrides = dict(row.get("overrides") or {})
        trial.total_steps = int(row.get("total_steps") or 0)
        trial.curve, trial.metrics = [], {}
    elif event == "progress":
        _progress(trial, row)
    elif event == "evaluated":
        trial.metrics |= dict(row.get("metrics") or {})
    elif event == "ended":
        _ended(trial, dict(row.get("outcome") or {}))
    return trial


def _progress(trial: TrialHistory, row: Mapping[str, Any]) -> None:
    metrics = dict(row.get("metrics") or {})
    trial.step = int(row.get("step") or 0)
    trial.total_steps = int(row.get("total_steps") or trial.total_steps)
    if "loss" in metrics:
        trial.curve.append((trial.step, metrics["loss"]))
    if metrics.get("tokens_per_second"):
        trial.rates.append(float(metrics["tokens_per_second"]))
    trial.memory_bytes = max(trial.memory_bytes, float(metrics.get("memory_bytes") or 0.0))


def _ended(trial: TrialHistory, outcome: dict[str, Any]) -> None:
    trial.status = str(outcome.get("status", "failed"))
    trial.reason = str(outcome.get("reason") or "")
    trial.metrics |= dict(outcome.get("metrics") or {})
    trial.device_seconds += float(outcome.get("device_seconds") or 0.0)
    if trial.status == "failed":
        trial.failures.append(str(outcome.get("symptom") or "unknown"))


def fold(rows: Iterable[Mapping[str, Any]]) -> list[TrialHistory]:
    """Every trial, by number; 0 is the final training."""
    trials: dict[int, TrialHistory] = {}
    for row in rows:
        take(trials, row)
    return [trials[number] for number in sorted(trials)]
