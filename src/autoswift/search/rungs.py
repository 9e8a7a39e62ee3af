"""Short trials first: which of them are continued, and whether short trials can be believed at all.

Asynchronous successive halving (Li et al. 2020): of the trials that ended at a rung the best third goes on to the next.
It rests on short trials ranking like long ones, which is measured here on the trials that were continued; where they
do not, halving is switched off and new trials run in full.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

ETA = 3
"""Of so many trials at a rung one goes on: the usual factor (Li et al. 2020 use 4, Hyperband 3)."""
AGREEMENT = 0.6
"""Rank correlation between rungs below which halving is off: at 0.6 the best of nine by the short rung is among the
best three of the long one in 73 of 100 cases, by chance in 33 (20,000 draws of normal values)."""
PAIRS = 5
"""Fewer pairs say little about a correlation: where the true one is 0.8, 4 of them give less than 0.6 in 27 of 100
cases, 5 in 20 (as above)."""

Results = Mapping[int, Mapping[int, float]]
"""Trial number to tokens to value (higher is better)."""


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Spearman's, ties at their mean rank; 1 where one side is constant or there are fewer than two."""
    if len(left) < 2:
        return 1.0
    a, b = _ranks(left), _ranks(right)
    spread = float(np.std(a) * np.std(b))
    return 1.0 if spread == 0 else float(np.mean((a - a.mean()) * (b - b.mean())) / spread)


def agreement(results: Results, rungs: Sequence[int]) -> float:
    """The lowest rank correlation between a rung and the next, over trials that reached both; 1 where too few did.

    Trials that were continued are the better ones, among which ranks are the hardest to tell: a low bound.
    """
    lowest = 1.0
    for low, high in itertools.pairwise(rungs):
        both = [number for number, at in results.items() if low in at and high in at]
        if len(both) >= PAIRS:
            lowest = min(lowest, rank_correlation([results[n][low] for n in both], [results[n][high] for n in both]))
    return lowest


def promotion(results: Results, rungs: Sequence[int], started: Mapping[int, int], more: bool) -> tuple[int, int] | None:
    """The trial to continue next and up to how many tokens, or None.

    Args:
        results: of trials that ended at a rung, by number.
        rungs: tokens, ascending.
        started: the highest rung that each trial was started for, and so is not to be started again.
        more: whether further new trials may come; once they may not, the best third of each rung goes on, at least one.
    """
    for low, high in reversed(list(itertools.pairwise(rungs))):
        ended = {n: at[low] for n, at in results.items() if low in at}
        allowed = len(ended) // ETA if more else max(1, math.ceil(len(ended) / ETA)) if ended else 0
        ranked = sorted(ended, key=lambda n: (-ended[n], n))[:allowed]
        for number in ranked:
            if started.get(number, 0) < high:
                return number, high
    return None


def _ranks(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    order = np.argsort(array, kind="stable")
    ranks = np.empty(len(array))
    ranks[order] = np.arange(len(array))
    for value in np.unique(array):
        same = array == value
        ranks[same] = ranks[same].mean()
    return ranks
