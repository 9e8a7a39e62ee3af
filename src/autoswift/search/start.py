"""What is tried before any model is asked: the plan's best guess, memory's, and one step up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from autoswift.domain.plan import Plan, StartPoint
from autoswift.search.space import Space
from autoswift.tables import table

SAME = 0.5
"""Start points nearer than this to an earlier one (half of a half-decade in learning rate) are left out."""


def start_points(plan: Plan, prior: Mapping[str, Any]) -> list[StartPoint]:
    """In order: the plan's own guess and its start points, then the portfolio's multiples of the guess.

    The plan's guess stands first unless the plan says where.
    """
    space = Space(plan.search.space, prior)
    own = StartPoint(parameters=dict(prior), origin="prior")
    given = list(plan.search.start_points)
    wanted = given if any(p.origin == "prior" for p in given) else [own, *given]
    found: list[StartPoint] = []
    for one in [*wanted, *_portfolio(plan, prior, space)]:
        here = space.encode(dict(prior) | one.parameters)
        gaps = [math.dist(here, space.encode(dict(prior) | kept.parameters)) for kept in found]
        if not gaps or min(gaps) >= SAME:
            found.append(one)
    small = [one for one in _smallest(plan, prior) if all(one.parameters != kept.parameters for kept in found)]
    place = len([p for p in wanted if p in found])  # after what is known, before what is guessed
    return [*found[:place], *small, *found[place:]]


def _portfolio(plan: Plan, prior: Mapping[str, Any], space: Space) -> list[StartPoint]:
    if "learning_rate" not in plan.search.space:
        return []
    multiples = table("rules")["portfolio"]["short" if len(plan.search.rungs) > 1 else "full"]
    made = []
    for one in multiples:
        moved = {name: float(prior[name]) * float(factor) for name, factor in one.items() if name in plan.search.space}
        made.append(StartPoint(parameters=dict(prior) | space.clip(moved), origin="prior"))
    return made


def _smallest(plan: Plan, prior: Mapping[str, Any]) -> list[StartPoint]:
    """Where the adapter's size counts: the plan's guess with the smallest rank, that end of the front."""
    ranks = plan.search.space.get("lora_rank", {}).get("choices")
    if "size" not in plan.search.objectives or not ranks:
        return []
    return [StartPoint(parameters=dict(prior) | {"lora_rank": min(ranks)}, origin="prior")]
