"""Trials on a Ray cluster: the same search, its session spread over the cluster's devices.

What is decided (proposals, budget, deadlines, remedies, journal) is decided where `local` decides it. Only the session
is another: it hands trials to Ray Tune and brings their reports back, so that both executors propose the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import fields
from typing import Any

from autoswift.domain.budget import Budget
from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Journal, SearchOutcome, TrainEngine
from autoswift.domain.trial import Outcome, Proposal
from autoswift.errors import StageFailed
from autoswift.run.clock import RunClock
from autoswift.run.files import plain
from autoswift.search.executors.ray_session import RaySession
from autoswift.search.executors.rounds import Round
from autoswift.search.searcher import Search
from autoswift.tables import explain

SCORE = "autoswift.evaluate.metrics:score_answers"
"""What scores answers elsewhere: looked up by name there, since a function cannot be sent as a value."""


class RayExecutor:
    """An `Executor` over Ray Tune.

    Args:
        devices: what this machine has; the workers' are taken to be like the first of them.
        clock: counts down the wall-clock.
        language: of the decisions that recovery writes.
    """

    def __init__(self, devices: Device | Sequence[Device], clock: RunClock, language: str) -> None:
        self.device = devices if isinstance(devices, Device) else next(iter(devices))
        self.clock, self.language = clock, language

    def run(self, searcher: Search, engine: TrainEngine, plan: Plan, budget: Budget, journal: Journal) -> SearchOutcome:
        """Runs trials on the cluster until the searcher or the budget ends it.

        Raises:
            InputError: when the cluster cannot be used as asked.
            ChildFailed: when the cluster is lost.
        """
        with closing(RaySession(engine, recipe(engine, plan), plan, self.device, journal)) as session:
            return self._round(session, searcher, plan, budget, journal).run()

    def train(self, proposal: Proposal, tokens: int, engine: TrainEngine, plan: Plan, journal: Journal) -> Outcome:
        """One training outside the search (number 0), on the cluster."""
        with closing(RaySession(engine, recipe(engine, plan), plan, self.device, journal)) as session:
            one = self._round(session, Search(plan), plan, Budget(trials=1), journal)
            one.tokens = tokens
            return one.single(proposal)

    def _round(self, session: RaySession, searcher: Search, plan: Plan, budget: Budget, journal: Journal) -> Round:
        one = Round([session], searcher, plan, budget, journal, (self.clock, self.language), self.device)
        one.limits.sessions = session.capacity()  # so many share what is left of the wall-clock
        return one


def recipe(engine: TrainEngine, plan: Plan) -> dict[str, Any]:
    """How the engine is made again in another process, as a JSON value.

    An engine's class takes one context (`engine.context`, a dataclass of values and the scoring function); one that
    takes something else says what by a method `arguments() -> dict` of JSON values.

    Raises:
        StageFailed: when the engine has neither.
    """
    cls = type(engine)
    made: dict[str, Any] = {"class": f"{cls.__module__}:{cls.__qualname__}"}
    context, arguments = getattr(engine, "context", None), getattr(engine, "arguments", None)
    if context is not None:
        values = {f.name: getattr(context, f.name) for f in fields(context)}
        made["context"] = plain({k: v for k, v in values.items() if not callable(v)})
        made["score"] = {"function": SCORE, "arguments": [plan.search.metric]}
    elif arguments is not None:
        made["arguments"] = plain(arguments())
    else:
        raise StageFailed(*explain("ray.engine", engine=made["class"]))
    return made
