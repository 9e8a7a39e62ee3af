"""stub"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """A task as words and counts; no text of the user."""

    goal: str
    language: str
    domain: str
    modality: str = "text"
    rows: int = 0
    tokens_mean: float = 0.0
    model: str = ""
    parameters: int = 0
    method: str = ""
    device: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEntry:
    """What one run taught."""

    run_id: str
    created: float
    fingerprint: Fingerprint
    best: dict[str, Any] = field(default_factory=dict)
    metric: str = ""
    base: float | None = None
    tuned: float | None = None
    trials: tuple[dict[str, Any], ...] = ()
    device_seconds: float = 0.0


def record(entry: RunEntry) -> None:
    """Keeps an entry; the same run id again replaces it."""
    raise NotImplementedError


def similar(fingerprint: Fingerprint, limit: int = 5) -> list[tuple[RunEntry, float]]:
    """Entries most like the task, best first, with their similarity 0 to 1."""
    raise NotImplementedError


def all_entries() -> list[RunEntry]:
    """Every entry, newest first."""
    raise NotImplementedError


def forget(run_id: str) -> bool:
    """Removes an entry; whether there was one."""
    raise NotImplementedError
