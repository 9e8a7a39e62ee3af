"""Short trials first: which of them go further, and whether short trials can be believed at all.

Each trial begins short. The best at its length goes on to the next one while that helps, from before its rate fell, so
that one training answers for every number of passes. It rests on short trials ranking like long ones, which is measured
here on the trials that went on; where they do not, new trials run in full.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

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


def climb(results: Results, rungs: Sequence[int], started: Mapping[int, int]) -> tuple[int, int] | None:
    """The trial to take a step further and up to how many tokens, or None: the best at its length, while length helps.

    Depth first: a good model is there early, and each later trial is measured against the best one's own curve at the
    same length, so that a worse one costs the shortest rung alone. A step is not taken where the trial's own last one
    made it worse (more passes overfit), nor where it helped none of those that took it and had gained more before.

    Args:
        results: of trials that ended at a rung, by number. rungs: tokens, ascending.
        started: the highest rung that each trial was started for.
    """
    best = {rung: max((at[rung] for at in results.values() if rung in at), default=-math.inf) for rung in rungs}
    steps = dict(itertools.pairwise(rungs))
    newest = {number: max(at) for number, at in results.items() if at}
    for number in sorted(newest, key=lambda n: (-results[n][newest[n]], n)):
        here, at = newest[number], results[number]
        there = steps.get(here)
        if there is None or started.get(number, 0) >= there or at[here] < best[here]:
            continue
        if any(at[rung] >= at[here] for rung in at if rung < here):
            continue
        tried = [one for one in results.values() if here in one and there in one]
        vain = [_brought(one, here) for one in tried if one[there] <= one[here]]
        if not vain or len(vain) < len(tried) or _brought(at, here) > max(vain):
            return number, there
    return None


def _brought(at: Mapping[int, float], here: int) -> float:
    """What the step to `here` gained; of the first one its value, which tells as much among trials at one length."""
    before = [rung for rung in at if rung < here]
    return at[here] - (at[max(before)] if before else 0.0)


def _ranks(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    order = np.argsort(array, kind="stable")
    ranks = np.empty(len(array))
    ranks[order] = np.arange(len(array))
    for value in np.unique(array):
        same = array == value
        ranks[same] = ranks[same].mean()
    return ranks
