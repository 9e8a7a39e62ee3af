"""What a search may still spend, and when a trial must end so that the whole run ends in time."""

from __future__ import annotations

import math

from autoswift.domain.budget import Budget
from autoswift.domain.plan import Plan
from autoswift.domain.trial import FINAL_TRAINING, Trial
from autoswift.run.clock import RunClock
from autoswift.search.pace import Pace

LEAST_SECONDS = 10.0
"""A trial that could not even start is not begun: half of the mean cost so far, at least this (a process's imports)."""


class Limits:
    """Wall-clock, device-seconds and money (which are device-seconds) of one round.

    Args:
        plan: its reserve and shares. budget, clock: of the run.
        spent: device-seconds of earlier owners.
        sessions: that share what is left of the device-seconds.
    """

    def __init__(self, plan: Plan, budget: Budget, clock: RunClock, spent: float, sessions: int) -> None:
        self.plan, self.budget, self.clock, self.spent, self.sessions = plan, budget, clock, spent, sessions
        self.pace = Pace(plan.search)
        self._answering = 0.0

    def over(self, usual: float, done: int, elapsed: float, *, first: bool) -> str:
        """Why no further trial is started: `device_seconds`, `hours`, or an empty text.

        Args:
            usual: device-seconds of a trial so far; 0 before the first. done: how many trials have an outcome.
            elapsed: device-seconds of those that run. first: none has run yet.
        """
        left = self._device_left(elapsed)
        usual = usual / 2 or LEAST_SECONDS
        if left <= 0 or (math.isfinite(left) and not first and left < min(usual, self.budget.device_seconds_limit / 2)):
            return "device_seconds"
        wall = self._search_seconds(done)
        return "hours" if wall < max(LEAST_SECONDS, usual) and not (first and wall > 0) else ""

    def deadline(self, done: int | None, running: int, elapsed: float) -> float:
        """Unix seconds at which a trial that starts now stops by itself.

        Args:
            done: trials with an outcome; None for the final training, which may take all but the reserve.
            running: trials that run beside it. elapsed: their device-seconds.
        """
        now = self.clock.now()
        if done is None:
            return now + max(1.0, self.clock.left - self.pace.reserve_seconds)
        left = self._search_seconds(done)
        waiting = max(1, math.ceil((self.plan.search.trials - done - running) / self.sessions))
        devices = max(1, self.plan.training.devices)
        money = self._device_left(elapsed) / devices / (running + 1)
        # Twice the equal share: lengths vary; the hard bound is what is left altogether.
        return now + max(1.0, min(left, 2 * left / waiting, money))

    def ends(self, trial: Trial, elapsed: float) -> bool:
        """Whether a running trial must be asked to end now."""
        if trial.number != FINAL_TRAINING and self._device_left(elapsed) <= 0:
            return True
        last = self.clock.left - self.pace.reserve_seconds - trial.evaluate_seconds
        # By its own deadline it ends itself; this one is for a reserve that has grown since.
        return self.pace.reserve_seconds > self.plan.search.reserve_seconds and last <= 0

    def answered(self, latency: float | None) -> None:
        """Takes the seconds that an answer of a trial took on average."""
        if latency:
            seconds = latency * self.plan.evaluation.validation_rows
            self.pace.answered(seconds)
            self._answering = max(self._answering, seconds)

    def evaluate_seconds(self) -> float:
        """What answering took so far, a half more for luck; before the first trial twice the formula."""
        return 1.5 * self._answering or 2.0 * self.plan.search.answer_seconds

    def _device_left(self, elapsed: float) -> float:
        return self.budget.device_seconds_limit - self.spent - elapsed

    def _search_seconds(self, done: int) -> float:
        """What is left for the trials still to come: the reserve and the final training's share are not theirs."""
        search, stages = self.plan.search, self.plan.estimate.stage_seconds
        left = self.clock.left - self.pace.reserve_seconds
        if search.promote:
            return left
        waiting = max(1, search.trials - done)
        ours = stages["search"] * waiting / search.trials
        return left * ours / max(ours + stages["train"], 1e-9)
