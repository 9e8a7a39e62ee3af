"""Times until a target, some of them never: survival estimates and bootstrap intervals. numpy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 2000


def survival(times: Floats, reached: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Kaplan and Meier's estimate (1958): event times, and the share not yet there after each."""
    at = np.unique(times[reached])
    left, share = [], 1.0
    for time in at:
        waiting = float((times >= time).sum())
        share *= 1 - float((times[reached] == time).sum()) / waiting
        left.append(share)
    return at, np.array(left)


def median(times: Floats, reached: NDArray[np.bool_]) -> float:
    """Time at which half are there; infinite when that is never seen."""
    at, share = survival(times, reached)
    below = np.flatnonzero(share <= 0.5)
    return float(at[below[0]]) if len(below) else float("inf")


def restricted_mean(times: Floats, reached: NDArray[np.bool_], limit: float) -> float:
    """Mean of min(time, limit): the area under the survival curve up to the limit."""
    at, share = survival(times, reached)
    inside = at < limit
    edges = np.concatenate([[0.0], at[inside], [limit]])
    heights = np.concatenate([[1.0], share[inside]])
    return float((np.diff(edges) * heights).sum())


def interval(groups: Sequence[int], statistic: Callable[[NDArray[np.int64]], float], seed: int = 0) -> list[float]:
    """Percentile bootstrap, 95 %, over whole seeds.

    Args:
        groups: the seed of each replay: its corpora are drawn together.
        statistic: of the indices drawn.
    """
    rng = np.random.default_rng(seed)
    names = np.unique(groups)
    members = {n: np.flatnonzero(np.asarray(groups) == n) for n in names}
    values = [statistic(np.concatenate([members[n] for n in rng.choice(names, len(names))])) for _ in range(RESAMPLES)]
    low, high = np.percentile(values, [2.5, 97.5])
    return [float(low), float(high)]
