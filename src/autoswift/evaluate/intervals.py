"""Bootstrap intervals of one model's metric and of the paired difference of two; and whether a difference is chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from autoswift.domain.artifact import Score

Statistic = Callable[[Sequence[int]], float]

EXACT_ROWS = 12
"""Up to so many rows that differ, all 2^n exchanges are counted (4,096)."""
EXCHANGES = 10_000
"""Random exchanges beyond that: at p = 0.01 the error is sqrt(0.01 x 0.99 / 10,000) = 0.001."""


def bootstrap(rows: int, statistic: Statistic, *, resamples: int, confidence: float, seed: int) -> Score:
    """Percentile bootstrap over rows (Efron 1979).

    Args:
        rows: number of rows.
        statistic: value for a sequence of row indices (with repeats).
        resamples: number of bootstrap samples; 2,000 keeps the Monte-Carlo error of a 95 % bound near 1 % of its width.
        confidence: for instance 0.95.
        seed: of the resampling.

    Returns:
        The value on all rows, with the interval; without one when there are fewer than 2 rows.
    """
    value = statistic(range(rows))
    if rows < 2:
        return Score(value=value)
    draw = np.random.default_rng(seed).integers(0, rows, size=(resamples, rows))
    values = np.array([statistic(indices) for indices in draw.tolist()])
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Score(value=value, low=float(low), high=float(high))


def mean_of(values: Sequence[float]) -> Statistic:
    """The statistic "mean of these per-row values"."""
    array = np.asarray(values, dtype=float)
    return lambda indices: float(array[list(indices)].mean())


def mean_interval(values: Sequence[float], *, resamples: int, confidence: float, seed: int) -> Score:
    """`bootstrap` of a mean, all resamples at once; the same resamples for the same seed."""
    array = np.asarray(values, dtype=float)
    value = float(array.mean())
    if len(array) < 2:
        return Score(value=value)
    draw = np.random.default_rng(seed).integers(0, len(array), size=(resamples, len(array)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(array[draw].mean(axis=1), [tail, 1 - tail])
    return Score(value=value, low=float(low), high=float(high))


def chance(differences: Sequence[float], seed: int) -> float:
    """How often the mean difference of paired rows would be as large by chance (Fisher's sign-flip test, two-sided).

    If two models are equal, each row's difference might as well have the other sign. Rows without a difference say
    nothing. The observed exchange counts as one, so that p is never 0.

    Returns:
        p, from 0 (exclusive) to 1; 1 where no row differs.
    """
    array = np.asarray(differences, dtype=float)
    array = array[array != 0]
    if not len(array):
        return 1.0
    seen = abs(float(array.sum())) * (1 - 1e-12)
    if len(array) <= EXACT_ROWS:
        signs = np.array(list(product((1.0, -1.0), repeat=len(array))))
        return float((np.abs(signs @ array) >= seen).mean())
    random = np.random.default_rng(seed)
    flips = np.where(random.random((EXCHANGES, len(array))) < 0.5, 1.0, -1.0)
    return float(((np.abs(flips @ array) >= seen).sum() + 1) / (EXCHANGES + 1))


def chance_of_exchange(
    statistic: Callable[[np.ndarray], float],
    rows: int,
    seed: int,
    exchanges: int = 2_000,
) -> float:
    """The same for a metric that is no mean (macro-F1): the models exchange their answers row by row.

    Args:
        statistic: the difference when the rows that are True in a mask (rows,) are exchanged.
        rows: how many there are. exchanges: 2,000 give p = 0.01 to 0.002.
    """
    seen = abs(statistic(np.zeros(rows, dtype=bool))) - 1e-12
    random = np.random.default_rng(seed)
    hits = sum(abs(statistic(random.random(rows) < 0.5)) >= seen for _ in range(exchanges))
    return (hits + 1) / (exchanges + 1)
