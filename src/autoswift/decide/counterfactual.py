"""What would turn each decision around: found by making the plan again with one fact changed, so it is true.

For each fact that decisions name as a lever, the plan is made on a sweep of values around the real one (a factor of
`STEP` apart); where a decision first differs, the bound is found by bisection. The plan is a pure function that takes
milliseconds, nobody reads its words, and all decisions share the sweeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from autoswift.decide.book import supposing
from autoswift.decide.facts import LEVERS, suppose, value_of
from autoswift.decide.inputs import Inputs
from autoswift.domain.decision import Condition, Decision
from autoswift.domain.plan import Plan
from autoswift.errors import AutoSwiftError
from autoswift.tables import has_text, text

STEP = 2.0
"""Between two values of a sweep. A decision that differs only within less than that is missed, not misstated."""
REACH = 256.0
"""How far a sweep goes from the real value, as a factor: from a 2 GiB device to 512 GiB."""
EXACT = 1e-3
"""Relative width within which the bound of a continuous fact is found: finer than anyone sets one."""

Decisions = dict[str, Any]
Planner = Callable[[Inputs], Plan]


@dataclass(slots=True)
class _Probe:
    """Plans under one supposed fact, remembered."""

    inputs: Inputs
    fact: str
    planner: Planner
    known: dict[Any, Decisions | None] = field(default_factory=dict)

    def at(self, value: Any) -> Decisions | None:
        """The decisions with the fact set so; None where the request is refused there."""
        if value not in self.known:
            try:
                with supposing():
                    made = self.planner(suppose(self.inputs, self.fact, value, trusted=True))
                self.known[value] = {d.name: d.value for d in made.decisions}
            except AutoSwiftError:
                self.known[value] = None
        return self.known[value]


def explained(plan: Plan, inputs: Inputs, planner: Planner) -> Plan:
    """The plan with the condition of each decision that has levers.

    Args:
        plan: as `planner(inputs)` makes it.
        planner: makes a plan of inputs, nothing else changed.
    """
    probes: dict[str, _Probe] = {}
    decisions = []
    for one in plan.decisions:
        condition = None
        for fact in one.levers:
            probe = probes.setdefault(fact, _Probe(inputs, fact, planner))
            condition = _nearest(probe, one, value_of(inputs, fact), inputs.task.language)
            if condition is not None:
                break
        decisions.append(replace(one, reverse_when=condition))
    return replace(plan, decisions=tuple(decisions))


def _nearest(probe: _Probe, one: Decision, now: Any, language: str) -> Condition | None:
    lever = LEVERS[probe.fact]
    if now is None:
        return None
    if lever.choices:
        for word in lever.choices:
            made = probe.at(word) if word != now else None
            if made is not None and made.get(one.name, one.value) != one.value:
                return _said(probe.fact, "==", word, made[one.name], language)
        return None
    found = [hit for up in (False, True) if (hit := _first(probe, one, float(now), up=up)) is not None]
    if not found:
        return None
    value, becomes, up = min(found, key=lambda hit: max(hit[0], now) / max(min(hit[0], now), 1e-12))
    return _said(probe.fact, ">=" if up else "<=", value, becomes, language)


def _first(probe: _Probe, one: Decision, now: float, *, up: bool) -> tuple[Any, Any, bool] | None:
    """The first value in one direction at which the decision differs, and what it is there."""
    same = now
    for value in _sweep(probe.fact, now, up=up):
        made = probe.at(value)
        if made is None:  # beyond this nothing can be decided
            return None
        if made.get(one.name, one.value) != one.value:
            bound = _bisect(probe, one, same, value)
            there = probe.at(bound)
            return None if there is None else (bound, there[one.name], up)
        same = value
    return None


def _sweep(fact: str, now: float, *, up: bool) -> Iterator[Any]:
    """Values away from the real one, the nearest first, within the lever's bounds."""
    lever = LEVERS[fact]
    factor = STEP if up else 1 / STEP
    value, last = now, now
    while 1 / REACH <= value / max(now, 1e-12) * factor <= REACH:
        value = min(max(value * factor, lever.low), lever.high)
        rounded = (round(value) + (1 if up and round(value) == last else 0)) if lever.whole else value
        if rounded == last or not lever.low <= rounded <= lever.high:
            return
        last = rounded
        yield rounded
        value = float(rounded)


def _bisect(probe: _Probe, one: Decision, same: Any, other: Any) -> Any:
    """The value nearest to `same` at which the decision is another one; `other` is such a value."""
    whole, step = LEVERS[probe.fact].whole, LEVERS[probe.fact].step
    while abs(other - same) > (step if whole else EXACT * max(abs(same), abs(other))):
        middle = (int(same) + int(other)) // 2 if whole else (same + other) / 2
        if middle in (same, other):
            break
        made = probe.at(middle)
        differs = made is not None and made.get(one.name, one.value) != one.value
        # A refusal between the two: the bound lies on the far side of it.
        if differs:
            other = middle
        else:
            same = middle
    return other


def _said(fact: str, op: Any, value: Any, becomes: Any, language: str) -> Condition:
    key = f"decide.fact.{fact}"
    name = text(key, language) if has_text(key, language) else fact
    word = {"<=": "at_most", ">=": "at_least", "==": "is"}[op]
    shown = f"{value / 2**30:.2f} GiB" if fact.endswith("_bytes") else _short(value)
    told = text(f"decide.reverse.{word}", language, fact=name, value=shown, becomes=_short(becomes))
    return Condition(fact=fact, op=op, value=value, becomes=becomes, text=told)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
