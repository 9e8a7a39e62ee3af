"""Our search, driven through the Searcher protocol as an executor does it, on recorded curves."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

from search_ground import METRIC, Ground, Meter, Method, score

from autoswift.domain.plan import StartPoint
from autoswift.domain.trial import Outcome, Proposal
from autoswift.search.configuration import COOLDOWN
from autoswift.search.searcher import Search

REPORTS = 40
"""Training reports of a whole trial: what an engine gives on a short one."""
TRIALS = 64
"""More than any replay can pay for: the budget ends it, or the search itself."""


def ours(points: Sequence[StartPoint] = (), rungs: Sequence[float] = (), patient: bool = False) -> Method:
    """Our search with the given start points and rungs (shares of a trial).

    A `patient` one goes on when it finds that another trial is not worth its cost, as the others do.
    """

    def run(meter: Meter) -> None:
        search = Search(meter.ground.plan(meter.seed, TRIALS, points, rungs))
        drive(search, meter, patient)

    return run


def drive(search: Any, meter: Meter, patient: bool = False) -> None:
    """Runs proposals one at a time until the search or the limit ends it."""
    trained: dict[int, float] = {}
    parameters: dict[int, dict[str, Any]] = {}
    while not meter.over and search.finished() in ((None, "gain") if patient else (None,)):
        proposals = search.ask(1)
        if not proposals:
            return
        one = proposals[0]
        begin = trained.get(one.number, 0.0)
        resumed = getattr(one, "resumes", None)
        if resumed is not None:
            begin = max(begin, trained.get(resumed, 0.0))
        if begin == 0.0:
            meter.trials += 1
        parameters[one.number] = meter.ground.guess() | one.parameters
        trained[one.number] = _run(search, meter, one, parameters[one.number], begin)


def _run(search: Any, meter: Meter, one: Proposal, parameters: dict[str, Any], begin: float) -> float:
    """One proposal, from the tokens that it has. Returns the tokens that it has then."""
    ground = meter.ground
    whole = ground.full(parameters)
    tokens = float(getattr(one, "tokens", None) or whole)
    asked = getattr(one, "tokens", None)
    step_tokens = ground.table.row_tokens * int(parameters["effective_batch_size"])
    reports = max(8, round(REPORTS * (tokens - begin) / whole))
    at, stopped = begin, ""
    for number in range(1, reports + 1):
        at = begin + (tokens - begin) * number / reports
        loss = ground.loss(parameters, at)
        if search.tell(one.number, max(1, round(at / step_tokens)), {"loss": loss, "tokens": at}) == "stop":
            why = getattr(search, "why", {})
            stopped = why.get(one.number) or ("nan" if loss is None else "divergence")
            break
    # A continued trial goes on from before its rate fell, so it repeats the last fifth of what it had.
    meter.charge(parameters, at - (1 - COOLDOWN) * begin)
    common = {"tokens": int(at), "steps": max(1, round(at / step_tokens))}
    if stopped and stopped != "pruned":
        search.done(one.number, Outcome(status="failed", symptom=stopped, **common))
        return at
    value = meter.model(parameters, at)
    if not math.isfinite(value):
        search.done(one.number, Outcome(status="failed", symptom="nan", **common))
        return at
    metrics = {"nll": value, METRIC: score(value), f"{METRIC}_stderr": score(value) * noise(ground)}
    status: Any = "pruned" if stopped else "finished"
    extra = {"rung": int(asked), "resume": f"trials/{one.number}"} if asked else {}
    outcome = Outcome(status=status, metrics=metrics, artifact=f"trials/{one.number}", **common, **extra)
    search.done(one.number, outcome)
    return at


@functools.lru_cache(maxsize=64)
def noise(ground: Ground) -> float:
    """Between seeds, of the loss: relative error of the score."""
    return ground.table.noise(ground.corpus)


def remembered(ground: Ground, seed: int, limit: float, rungs: Sequence[float] = ()) -> list[StartPoint]:
    """What earlier runs on the other corpora found best, each by a cold search of its own."""
    points = []
    for corpus in ground.table.corpora:
        if corpus == ground.corpus:
            continue
        other = dataclasses.replace(ground, corpus=corpus)
        found = _best_found(other, seed + 7919, limit, tuple(rungs))  # another seed than any replay has
        if found is not None:
            points.append(
                StartPoint(parameters=dict(found), origin="knowledge", weight=0.8, because=f"best on {corpus}")
            )
    return points


@functools.lru_cache(maxsize=256)
def _best_found(ground: Ground, seed: int, limit: float, rungs: tuple[float, ...]) -> dict[str, Any] | None:
    """What a cold search of a usual size finds."""
    search = Search(ground.plan(seed, REMEMBERED, (), rungs))
    drive(search, Meter(ground, seed, limit))
    number = search.best()
    return None if number is None else search.proposals[number].parameters


REMEMBERED = 8
"""Trials of each earlier run that the knowledge base has."""


def adversarial(ground: Ground) -> list[StartPoint]:
    """A memory that misleads: the three worst corners of the plan's own space, sworn to be the best."""
    space = ground.plan(0, 1, (), ()).search.space
    rate, batches, ranks = (
        space["learning_rate"],
        space["effective_batch_size"]["choices"],
        space["lora_rank"]["choices"],
    )
    corners = [
        {"learning_rate": r, "effective_batch_size": b, "lora_rank": ranks[0]}
        for r in (rate["low"], rate["high"])
        for b in (batches[0], batches[-1])
    ]
    full = ground.full(ground.guess())
    corners.sort(key=lambda c: -ground.truth(c, full))
    return [StartPoint(parameters=c, origin="knowledge", weight=1.0, because="misleads") for c in corners[:3]]
