"""Trials on this machine: one session a device (or a plan's group of devices), as many trials as the sessions hold.

A session of a process a trial holds one, one of packed trials as many as its worker has room for.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing

from autoswift.domain.budget import Budget
from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Journal, SearchOutcome, Session, TrainEngine
from autoswift.domain.trial import Outcome, Proposal
from autoswift.run.clock import RunClock
from autoswift.search.executors.rounds import Round
from autoswift.search.searcher import Search


class LocalExecutor:
    """An `Executor`.

    Args:
        devices: that may be used; each session takes as many of them as the plan's training wants, in their order.
        clock: counts down the wall-clock; trials end before its deadline less the plan's reserve.
        language: of the decisions that recovery writes.
    """

    def __init__(self, devices: Device | Sequence[Device], clock: RunClock, language: str) -> None:
        self.devices = (devices,) if isinstance(devices, Device) else tuple(devices)
        self.clock, self.language = clock, language

    def run(self, searcher: Search, engine: TrainEngine, plan: Plan, budget: Budget, journal: Journal) -> SearchOutcome:
        """Runs trials until the searcher or the budget ends it. What the journal says ended is not run again."""
        with ExitStack() as stack:
            sessions = self._open(engine, plan, stack, plan.search.lanes)
            return Round(sessions, searcher, plan, budget, journal, (self.clock, self.language), self.devices[0]).run()

    def train(self, proposal: Proposal, tokens: int, engine: TrainEngine, plan: Plan, journal: Journal) -> Outcome:
        """One training outside the search (number 0), with the same watch, deadline and remedies."""
        with ExitStack() as stack:
            sessions = self._open(engine, plan, stack, 1)
            one = Round(
                sessions, Search(plan), plan, Budget(trials=1), journal, (self.clock, self.language), self.devices[0]
            )
            one.tokens = tokens
            return one.single(proposal)

    def _open(self, engine: TrainEngine, plan: Plan, stack: ExitStack, most: int) -> list[Session]:
        size = max(1, plan.training.devices)
        firsts = self.devices[: max(1, len(self.devices) // size) * size : size][:most]
        return [stack.enter_context(closing(engine.open(plan, device))) for device in firsts]
