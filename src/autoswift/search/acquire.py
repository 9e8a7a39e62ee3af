"""Which configuration to try next: expected improvement, weighed by the prior and by the odds of failing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoswift.search.space import Space, coordinates
from autoswift.search.surrogate import Observations, Surrogate

Array = NDArray[np.float64]

CANDIDATES = 384
"""Random configurations looked at: in three dimensions a grid of seven a side."""
LOCAL = 128
"""More around the best one: where the last digits of a learning rate are decided."""
LOCAL_WIDTH = 0.4
"""Of a half-decade: a factor 1.6 in learning rate."""
PRIOR_WIDTH = 1.6
"""Standard deviation of the optimum around the rule's guess, in half-decades: published best rates lie up to a factor 6
from such rules. On simulated bowls whose optimum was off by one half-decade, 0.8 to 2.0 made little difference."""
PRIOR_FADES = 1.0
"""The prior's exponent is this over the number of trials (piBO, Hvarfner et al. 2022): a wrong one costs few trials.
On the recorded curves 1 beat 3 (6.8 against 8.8 default trials to 90 % of the gap)."""
FAILURE_WIDTH = 0.7
"""How far around a failure others are expected to fail, in half-decades."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """A configuration, and what it is expected to bring over the best one so far, in units of the metric."""

    parameters: dict[str, Any]
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """A normal distribution of the optimum, in coordinates: centre and width, (d,)."""

    centre: Array
    width: Array


def belief_of(space: Space, learnt: tuple[float, float, float] | None = None) -> Belief:
    """The rules' guess at the origin; what similar tasks showed of the learning rate is weighed in.

    Args:
        space: coordinates.
        learnt: mean and deviation of ln(best rate / the rule's) and how many tasks that is worth; None for nothing.
    """
    centre, width = np.zeros(len(space.axes)), np.full(len(space.axes), PRIOR_WIDTH)
    if learnt is not None and learnt[2] > 0 and "learning_rate" in space.names:
        index = space.names.index("learning_rate")
        unit = space.axes[index].unit
        mean, deviation, weight = learnt[0] / unit, max(learnt[1] / unit, LEARNT_LEAST), learnt[2]
        rule, seen = 1.0 / PRIOR_WIDTH**2, weight / deviation**2
        centre[index], width[index] = mean * seen / (rule + seen), max((rule + seen) ** -0.5, LEARNT_LEAST)
    return Belief(centre=centre, width=width)


LEARNT_LEAST = 0.5
"""Least width that memory may give the belief, in half-decades: another seed moves the best rate by as much."""


def pick(
    space: Space,
    seen: Observations,
    pending: Sequence[Mapping[str, Any]],
    failed: Sequence[Mapping[str, Any]],
    best: Mapping[str, Any],
    rng: np.random.Generator,
    belief: Belief,
) -> Pick:
    """The configuration with the highest weighed expected improvement in full training.

    Args:
        space: coordinates.
        seen: finished trials, at least one.
        pending: running trials; each is taken to give what the model expects of it (kriging believer, Ginsbourger et
            al. 2010), so that several proposals at once differ.
        failed: trials that failed, whose neighbourhood is infeasible.
        best: the best configuration so far.
        rng: of this proposal.
        belief: where the optimum is expected before anything was tried.
    """
    model = Surrogate(seen)
    if pending:
        at = coordinates(space, pending)
        believed, _ = model.predict(at)
        model = Surrogate(
            Observations(
                np.vstack([seen.x, at]),
                np.concatenate([seen.shortfall, np.zeros(len(at))]),
                np.concatenate([seen.y, believed]),
                np.concatenate([seen.noise, np.zeros(len(at))]),
            )
        )
    rows = space.sample(rng, CANDIDATES) + space.near(rng, best, LOCAL, LOCAL_WIDTH)
    x = coordinates(space, rows)
    tried = np.vstack([model.seen.x, coordinates(space, failed)]) if failed else model.seen.x
    fresh = np.min(np.linalg.norm(x[:, None, :] - tried[None, :, :], axis=2), axis=1) > NEW
    mean, deviation = model.predict(x)
    incumbent = float(np.max(model.predict(model.seen.x)[0]))
    gain = expected_improvement(mean, deviation, incumbent)
    count = len(seen.y) + len(failed)
    off = ((x - belief.centre) / belief.width) ** 2
    weight = np.exp(-0.5 * off.sum(axis=1)) ** (PRIOR_FADES / max(1, count))
    score = gain * weight * _feasible(space, x, seen.x, failed) * np.where(fresh, 1.0, 1e-9)
    index = int(np.argmax(score))
    return Pick(parameters=rows[index], gain=float(np.max(gain * np.where(fresh, 1.0, 0.0))))


NEW = 0.15
"""Nearer than this to a trial that was made (6 % in learning rate), a configuration teaches nothing."""


def expected_improvement(mean: Array, deviation: Array, incumbent: float) -> Array:
    """E[max(0, value - incumbent)] of normal values (Jones et al. 1998, equation 15), (m,)."""
    z = (mean - incumbent) / deviation
    cdf = 0.5 * (1.0 + np.array([math.erf(v / math.sqrt(2.0)) for v in z]))
    value: Array = (mean - incumbent) * cdf + deviation * np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
    return np.maximum(value, 0.0)


def _feasible(space: Space, x: Array, good: Array, failed: Sequence[Mapping[str, Any]]) -> Array:
    """Odds that a configuration does not fail: a kernel average of what happened near it, (m,).

    A learning rate above one that diverged is expected to diverge too, however far above.
    """
    if not failed:
        return np.ones(len(x))
    bad = coordinates(space, failed)
    gap = x[:, None, :] - bad[None, :, :]
    if "learning_rate" in space.names:
        index = space.names.index("learning_rate")
        gap[:, :, index] = np.minimum(gap[:, :, index], 0.0)
    against = np.exp(-0.5 * (gap**2).sum(axis=2) / FAILURE_WIDTH**2).sum(axis=1)
    near = x[:, None, :] - good[None, :, :]
    support = np.exp(-0.5 * (near**2).sum(axis=2) / FAILURE_WIDTH**2).sum(axis=1)
    value: Array = (0.5 + support) / (0.5 + support + 2.0 * against)
    return value
