"""The run's wall-clock: what its owners spent on it, the time between a crash and a resume left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from autoswift.domain.budget import Budget


def seconds_spent(events: Iterable[Mapping[str, Any]]) -> float:
    """Sum over owners of (last event - `session` event), less what they `waited` for the user; from events.jsonl."""
    total, begin, last = 0.0, None, 0.0
    for row in events:
        if row.get("kind") == "waited":
            total -= float(row["seconds"])
        if row.get("kind") == "session":
            if begin is not None:
                total += last - begin
            begin = float(row["time"])
        last = float(row["time"])
    return total + (last - begin if begin is not None else 0.0)


class RunClock:
    """Counts down the wall-clock budget of this owner.

    Args:
        budget: of the run.
        spent: seconds spent by earlier owners.
        now: unix seconds; a simulation brings its own.
    """

    def __init__(self, budget: Budget, spent: float = 0.0, now: Callable[[], float] = time.time) -> None:
        self.budget, self.now = budget, now
        self._begin = now() - spent
        self._paused = 0.0

    @property
    def deadline(self) -> float:
        """Unix seconds at which the wall-clock budget ends."""
        return self._begin + self._paused + self.budget.seconds

    @property
    def spent(self) -> float:
        """Seconds spent so far."""
        return self.now() - self._begin - self._paused

    @property
    def left(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self.deadline - self.now())

    def within(self, budget: Budget) -> None:
        """Counts down another budget from the same beginning: the plan has settled what the money buys."""
        self.budget = budget

    def exclude(self, seconds: float) -> None:
        """Leaves out time that was not the run's: a question put to the user, an installation."""
        self._paused += seconds
