"""Several objectives: the trials that no other beats, which of them is taken and why, and how proposals weigh them.

Quality is the task's metric. Latency is what an answer of the trial took, as it was measured. Size is the adapter's
weights: what has to be stored and sent for each tuned model. The base model is the same for all trials of a search, so
none of them is much faster or smaller than another; the plan's decision `objectives` says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from autoswift.domain.plan import Plan
from autoswift.domain.trial import Outcome
from autoswift.search.seeds import draw_seed

LATENCY_TIE = 0.05
"""Relative difference of two latencies that is none: one trial measured twice differs by as much on a quiet machine."""
QUALITY_LEAST = 0.5
"""Least weight of quality in a proposal: a fast model that answers badly is of no use to anybody."""
AUGMENTED = 0.05
"""Share of the weighed sum beside the largest weighed loss (Knowles 2006, ParEGO, equation 2)."""

Rule = Literal["only", "interval", "knee"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A finished trial by its objectives.

    Attributes:
        quality: the metric, or minus the negative log-likelihood where no trial answered. error: its standard error.
        latency: seconds an answer; None where it was not measured. size: weights of the adapter.
        nll: negative log-likelihood, infinite where unknown.
    """

    number: int
    quality: float
    error: float = 0.0
    latency: float | None = None
    size: int = 0
    nll: float = math.inf

    def costs(self, objectives: Sequence[str]) -> tuple[float, ...]:
        """What is minimised, in the order of the objectives."""
        latency = math.inf if self.latency is None else self.latency
        value = {"quality": -self.quality, "latency": latency, "size": float(self.size)}
        return tuple(value[name] for name in objectives)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The smallest change of one figure of another trial that would have it taken instead.

    Attributes:
        op: the figure at `value` or beyond it in that direction.
    """

    number: int
    objective: str
    op: Literal["<=", ">="]
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is taken of a front.

    Attributes:
        rule: `only` (one trial beats all), `interval` (what is within the best one's error, then the faster, then the
            smaller), `knee` (no errors are known: the one nearest to the best of every objective at once).
        front: numbers of the trials that no other beats, best quality first.
        turn: None where no change within reach alters the choice.
    """

    number: int
    rule: Rule
    front: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    turn: Turn | None = None


def adapter_weights(plan: Plan, parameters: Mapping[str, Any]) -> int:
    """Weights that a trial with these parameters adds, or changes where all are trained; per rank 1 if shapes lack."""
    model = plan.model
    if plan.training.method == "full":
        return model.parameters
    head = model.head_dim or model.hidden // max(model.heads, 1)
    q, kv = model.heads * head, (model.kv_heads or model.heads) * head
    attention = 2 * (model.hidden + q) + 2 * (model.hidden + kv)
    layer = attention + 3 * (model.hidden + model.intermediate)
    rank = int(parameters.get("lora_rank", plan.training.lora_rank))
    return rank * max(1, model.layers * layer)


def candidates(
    plan: Plan, outcomes: Mapping[int, Outcome], parameters: Mapping[int, Mapping[str, Any]]
) -> list[Candidate]:
    """The finished trials that were trained the longest, by number; those without a metric only if none has one."""
    metric = plan.search.metric
    usable = {n: o for n, o in outcomes.items() if o.status == "finished" and o.artifact is not None}
    if len(plan.search.rungs) < 2:
        longest = max((o.rung for o in usable.values()), default=0)
        usable = {n: o for n, o in usable.items() if o.rung == longest}
    measured = any(o.metrics.get(metric) is not None for o in usable.values())
    found = []
    for number, one in sorted(usable.items()):
        nll = one.metrics.get("nll")
        value = one.metrics.get(metric) if measured else None if nll is None else -nll
        if value is not None and math.isfinite(value):
            made = Candidate(
                number=number,
                quality=float(value),
                error=float(one.metrics.get(f"{metric}_stderr") or 0.0) if measured else 0.0,
                latency=one.metrics.get("latency_seconds"),
                size=adapter_weights(plan, parameters.get(number, {})),
                nll=math.inf if nll is None else float(nll),
            )
            found.append(made)
    return found


def front(rows: Sequence[Candidate], objectives: Sequence[str]) -> list[Candidate]:
    """Those that no other equals in all objectives and beats in one; best quality first."""
    costs = {one.number: one.costs(objectives) for one in rows}

    def beaten(one: Candidate) -> bool:
        mine = costs[one.number]
        return any(other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in costs.values())

    return sorted((one for one in rows if not beaten(one)), key=lambda one: (-one.quality, one.number))


def choose(plan: Plan, outcomes: Mapping[int, Outcome], parameters: Mapping[int, Mapping[str, Any]]) -> Choice | None:
    """The trial to take where the plan has several objectives; None where it has one, or no trial can be compared."""
    objectives = plan.search.objectives
    if len(objectives) < 2:
        return None
    rows = candidates(plan, outcomes, parameters)
    if not rows:
        return None
    best, rule = _taken(rows, objectives)
    numbers = tuple(one.number for one in front(rows, objectives))
    return Choice(number=best, rule=rule, front=numbers, candidates=tuple(rows), turn=_turn(rows, objectives, best))


def _taken(rows: Sequence[Candidate], objectives: Sequence[str]) -> tuple[int, Rule]:
    """The number taken, and by which rule."""
    left = front(rows, objectives)
    if len(left) == 1:
        return left[0].number, "only"
    top = left[0]
    if top.error <= 0:
        return _knee(left, objectives), "knee"
    left = [one for one in left if one.quality >= top.quality - top.error]
    if "latency" in objectives:
        fastest = min(math.inf if one.latency is None else one.latency for one in left)
        left = [one for one in left if one.latency is not None and one.latency <= fastest * (1 + LATENCY_TIE)] or left
    if "size" in objectives:
        least = min(one.size for one in left)
        left = [one for one in left if one.size == least]
    return min(left, key=lambda one: (one.nll, -one.quality, one.number)).number, "interval"


def _knee(rows: Sequence[Candidate], objectives: Sequence[str]) -> int:
    """Nearest to the point that has the best of each objective, each in units of the front's own range."""
    costs = np.array([one.costs(objectives) for one in rows])
    gaps = _shares(costs)
    distance = np.sqrt((gaps**2).sum(axis=1))
    order = sorted(range(len(rows)), key=lambda i: (round(float(distance[i]), 9), -rows[i].quality, rows[i].number))
    return rows[order[0]].number


def _shares(costs: np.ndarray) -> np.ndarray:
    """Each column from 0 (best) to 1 (worst finite one); what is not known counts as worst."""
    made = np.zeros_like(costs)
    for index, column in enumerate(costs.T):
        known = np.isfinite(column)
        if not known.any():
            continue
        low, high = float(column[known].min()), float(column[known].max())
        made[:, index] = np.where(known, (column - low) / (high - low) if high > low else 0.0, 1.0)
    return made


HALVINGS = 40
"""Steps of the bisection for the turning point: below the digits of any measured figure."""
REACH = 2.0
"""How far a figure is thought otherwise: down to a half, up to twice; quality by twice the range of what was seen."""


def _turn(rows: Sequence[Candidate], objectives: Sequence[str], best: int) -> Turn | None:
    """The nearest change, relative to the figure's size, of one figure of one other trial that has that one taken."""
    found: list[tuple[float, Turn]] = []
    spread = max(one.quality for one in rows) - min(one.quality for one in rows)
    for one in rows:
        for name in objectives:
            if one.number == best or name == "size":  # a size follows from the rank: it is no measurement
                continue
            start = one.quality if name == "quality" else one.latency
            if start is None:
                continue
            far = start + max(REACH * spread, one.error) if name == "quality" else start / REACH
            if not _takes(rows, objectives, one.number, name, far):
                continue
            near = start
            for _ in range(HALVINGS):
                middle = (near + far) / 2
                if _takes(rows, objectives, one.number, name, middle):
                    far = middle
                else:
                    near = middle
            turn = Turn(number=one.number, objective=name, op=">=" if name == "quality" else "<=", value=far)
            found.append((abs(far - start) / max(abs(start), 1e-12), turn))
    return min(found, key=lambda pair: (pair[0], pair[1].number))[1] if found else None


def _takes(rows: Sequence[Candidate], objectives: Sequence[str], number: int, name: str, value: float) -> bool:
    supposed = [_with(one, name, value) if one.number == number else one for one in rows]
    return _taken(supposed, objectives)[0] == number


def _with(one: Candidate, name: str, value: float) -> Candidate:
    return replace(one, quality=value) if name == "quality" else replace(one, latency=value)


Row = tuple[dict[str, Any], float, float, float]
"""Parameters, shortfall, value, noise: as `modelled` has them."""


def blended(plan: Plan, number: int, rows: Sequence[Row], latencies: Sequence[float | None]) -> list[Row]:
    """Observations with one value for all objectives, weighed anew for each proposal (ParEGO, Knowles 2006).

    Args:
        number: of the proposal, from which with the seed its weights are drawn.
        rows: with the quality as value. latencies: of the same rows.
    """
    objectives = plan.search.objectives
    rng = np.random.default_rng([draw_seed(plan.seed, number), 1])
    weights = _weights(rng, len(objectives))
    made: list[Row] = list(rows)
    for level in sorted({row[1] for row in rows}):  # trials of different lengths are no measure for each other
        here = [i for i, row in enumerate(rows) if row[1] == level]
        costs = np.array([_costs(plan, rows[i], latencies[i]) for i in here])
        shares = _shares(costs)
        loss = (weights * shares).max(axis=1) + AUGMENTED * (weights * shares).sum(axis=1)
        quality = costs[:, 0]
        scale = weights[0] / max(float(np.ptp(quality)), 1e-12)
        for i, value in zip(here, loss, strict=True):
            made[i] = (rows[i][0], level, -float(value), rows[i][3] * scale)
    return made


def _weights(rng: np.random.Generator, count: int) -> np.ndarray:
    quality = QUALITY_LEAST + (1 - QUALITY_LEAST) * rng.random()
    others = rng.dirichlet(np.ones(count - 1)) if count > 1 else np.ones(0)
    return np.concatenate([[quality], (1 - quality) * others])


def _costs(plan: Plan, row: Row, latency: float | None) -> list[float]:
    value = {
        "quality": -row[2],
        "latency": math.inf if latency is None else latency,
        "size": float(adapter_weights(plan, row[0])),
    }
    return [value[name] for name in plan.search.objectives]
