"""What an engine needs of a run, beside the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Scorer = Callable[[Sequence[str], Sequence[str]], dict[str, float]]
"""Answers and references to the task's metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineContext:
    """Places and helpers of one run.

    Attributes:
        folder: the run folder. model: the staged base model. python: the training environment's interpreter.
        train: rows to train on. validation: rows that every trial answers (already cut to the plan's number).
        references: the last assistant message of each validation row.
        score: the task's metric.
        system: the system message that the model's chat template puts in by itself; empty when it puts in none.
    """

    folder: Path
    model: Path
    python: Path
    train: Path
    validation: Path
    references: tuple[str, ...]
    score: Scorer
    system: str = ""
