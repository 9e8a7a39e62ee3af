"""Proposals of the Gaussian process, from a search's history."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from autoswift.recover.remedies import by_rate
from autoswift.search.acquire import Pick, belief_of, pick
from autoswift.search.objectives import blended
from autoswift.search.seeds import draw_seed
from autoswift.search.space import Space, coordinates
from autoswift.search.surrogate import LARGEST, Observations

if TYPE_CHECKING:
    from autoswift.search.searcher import Search

WORST = 3.0
"""Values further below the best than this multiple of the better half's spread are raised to it: how bad a bad rate is
would otherwise be all that the process explains."""


def propose(search: Search, number: int) -> Pick | None:
    """The proposal of trial `number`, or None while no trial has ended well."""
    plan = search.plan
    space = Space(plan.search.space, search.prior())
    rows = _rows(search)
    if not rows:
        return None
    if len(plan.search.objectives) > 1:
        rows = blended(plan, number, rows, _latencies(search))
    seen = _observations(space, rows)
    ended = sorted(search.outcomes.items())  # an out-of-memory says nothing of the rates near it
    failed = [search.proposals[n].parameters for n, o in ended if o.status == "failed" and by_rate(o.symptom)]
    pending = [p.parameters for n, p in sorted(search.proposals.items()) if n not in search.outcomes and n != number]
    best = max(rows, key=lambda row: (-row[1], row[2]))[0]
    rng = np.random.default_rng(draw_seed(plan.seed, number))
    learnt = plan.search.space.get("learning_rate", {}).get("knowledge")
    told = learnt is not None and search.memory_trusted(len(search.proposals))
    belief = belief_of(space, (float(learnt[0]), float(learnt[1]), float(learnt[2])) if learnt and told else None)
    return pick(space, seen, pending, failed, best, rng, belief)


SEEN = 0.1
"""Share of the metric's standard error: a gain below it could not be seen in ten times as many answers."""
PAID = 0.02
"""Share of what the search gained so far: a trial that is expected to add less costs more than it brings."""


def worth(search: Search) -> float:
    """The gain below which another trial is not worth its cost, in units of the metric."""
    rows = [row for row in _rows(search) if row[1] <= 0.0]
    if not rows:
        return 0.0
    values = [row[2] for row in rows]
    gained = max(values) - values[0]
    errors = [row[3] for row in rows if row[3] > 0]
    return max(PAID * gained, SEEN * float(np.median(errors)) if errors else 0.0)


def _rows(search: Search) -> list[tuple[dict[str, Any], float, float, float]]:
    """(parameters, shortfall, value, noise) of every rung that ended, by trial number; the best and newest if many."""
    full = best_length(search)
    found = []
    for number, at in search.results(search.chosen(LARGEST)).items():
        for rung, value in sorted(at.items()):
            outcome = search.at[number][rung]
            short = math.log(full / rung)
            if outcome.status == "pruned" and outcome.tokens:
                short = math.log(full / outcome.tokens)
            noise = float(outcome.metrics.get(f"{search.plan.search.metric}_stderr") or 0.0)
            found.append((search.proposals[number].parameters, short, value, noise if len(search.rungs) < 2 else 0.0))
    return found


def best_length(search: Search) -> int:
    """Tokens of the best model so far: at this length configurations are compared."""
    reached = [(value, rung) for at in search.results(search.at).values() for rung, value in at.items()]
    return max(reached, default=(0.0, max(search.rungs)))[1]


def _latencies(search: Search) -> list[float | None]:
    """Seconds an answer, of the same rungs in the same order."""
    results = search.results(search.chosen(LARGEST))
    return [search.at[n][rung].metrics.get("latency_seconds") for n, at in results.items() for rung in sorted(at)]


def _observations(space: Space, rows: list[tuple[dict[str, Any], float, float, float]]) -> Observations:
    y = np.array([row[2] for row in rows])
    short = np.array([row[1] for row in rows])
    for level in np.unique(short):  # each rung has a spread of its own
        here = short == level
        top = np.sort(y[here])[::-1]
        half = top[: max(2, math.ceil(len(top) / 2))]
        spread = float(half[0] - half[-1])
        if spread > 0:
            y[here] = np.maximum(y[here], half[0] - WORST * spread)
    noise = np.array([row[3] for row in rows])
    return Observations(coordinates(space, [row[0] for row in rows]), short, y, noise)
