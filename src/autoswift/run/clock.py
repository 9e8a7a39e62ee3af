"""The run's wall-clock: what its owners spent on it, the time between a crash and a resume left out.

Durations are counted by a clock that nobody sets (`ticks`): a wall clock that is set forward or back, and a machine
that slept, take nothing from the budget and give nothing to it. Moments that other processes are told stay unix
seconds (`now`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from autoswift.domain.budget import Budget


def seconds_between(first: Mapping[str, Any], last: Mapping[str, Any]) -> float:
    """Seconds between two rows that one owner wrote; by the wall clock in records from before rows had `ticks`."""
    if "ticks" in first and "ticks" in last:
        return max(0.0, float(last["ticks"]) - float(first["ticks"]))
    return max(0.0, float(last["time"]) - float(first["time"]))


def seconds_spent(events: Iterable[Mapping[str, Any]]) -> float:
    """Sum over owners of (last event - `session` event), less what they `waited` for the user; from events.jsonl."""
    total = 0.0
    begin: Mapping[str, Any] | None = None
    last: Mapping[str, Any] = {}
    for row in events:
        if row.get("kind") == "waited":
            total -= float(row["seconds"])
        if row.get("kind") == "session":
            if begin is not None:
                total += seconds_between(begin, last)
            begin = row
        last = row
    return max(0.0, total + (seconds_between(begin, last) if begin is not None else 0.0))


class RunClock:
    """Counts down the wall-clock budget of this owner.

    Args:
        budget: of the run.
        spent: seconds spent by earlier owners.
        now: unix seconds; a simulation brings its own.
        ticks: seconds that only ever go on; None: the system's, or `now` where a simulation brought one.
    """

    def __init__(
        self,
        budget: Budget,
        spent: float = 0.0,
        now: Callable[[], float] = time.time,
        ticks: Callable[[], float] | None = None,
    ) -> None:
        self.budget, self.now = budget, now
        self.ticks = ticks or (time.monotonic if now is time.time else now)
        self._begin = self.ticks() - spent
        self._paused = 0.0

    @property
    def deadline(self) -> float:
        """Unix seconds at which the wall-clock budget ends, as the clock is set now."""
        return self.now() + self.budget.seconds - self.spent

    @property
    def spent(self) -> float:
        """Seconds spent so far."""
        return self.ticks() - self._begin - self._paused

    @property
    def left(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self.budget.seconds - self.spent)

    def within(self, budget: Budget) -> None:
        """Counts down another budget from the same beginning: the plan has settled what the money buys."""
        self.budget = budget

    def exclude(self, seconds: float) -> None:
        """Leaves out time that was not the run's: a question put to the user, an installation."""
        self._paused += seconds
