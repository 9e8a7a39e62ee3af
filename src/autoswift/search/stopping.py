"""Ends a trial before its time: it diverges, or its curve says that it will not be among the better half."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping

from autoswift.recover.detect import Finding, Watch
from autoswift.search.rungs import rank_correlation

SMOOTHING = 0.7
"""Weight of the past in the smoothed loss: about three steps of memory, short against the shortest trial (8 steps)."""

FIRST_LOOK = 0.5
"""Share of a trial's tokens before which its curve is not judged: the rate is still high, and what a high rate loses
there it makes good while the rate falls."""

FINISHED = 5
"""Trials that must have ended before a curve is compared: the median of fewer is the luck of the first ones."""

BELIEVED = 0.6
"""Rank correlation between where curves stood and where they ended, over the ended trials, below which nothing is
stopped by its curve (`rungs.AGREEMENT` has the reason)."""

NEWEST = 50
"""Ended trials that a curve is compared with, the newest: more tell no more, and each costs a look at every report."""

MARGIN = 0.02
"""Relative distance behind the median that is not yet worse: twice what another seed makes of the same training in the
smoothed loss."""


class Curves:
    """The training metrics of all trials as they come in.

    `tell` takes a trial's report and says why to stop it: the name of a symptom (`nan`, `divergence`, …), `pruned`, or
    an empty text.
    """

    def __init__(self) -> None:
        self._watches: dict[int, tuple[Watch, int]] = {}
        self._found: dict[int, Finding] = {}
        self._warned: dict[int, list[Finding]] = {}
        self._smooth: dict[int, float] = {}
        self._points: dict[int, list[tuple[float, float]]] = {}
        self._ended: dict[int, float] = {}

    def tell(self, trial: int, step: int, metrics: Mapping[str, float | None], fraction: float) -> str:
        """Takes one report.

        Args:
            trial: its number. step: of it, from 1.
            metrics: `loss`, and where known `grad_norm`, `learning_rate`; None is not a finite number.
            fraction: of the trial's tokens that it has seen.
        """
        if trial in self._found:
            return self._found[trial].symptom
        watch, last = self._watches.get(trial, (None, 0))
        if watch is None or step <= last:  # another attempt, which may go on from a checkpoint
            watch = Watch(continued=step > 1)
        self._watches[trial] = (watch, step)
        for finding in watch.take(step, metrics):
            if finding.fatal:
                self._found.setdefault(trial, finding)
            else:
                self._warned.setdefault(trial, []).append(finding)
        if trial in self._found:
            return self._found[trial].symptom
        loss = metrics["loss"]
        if loss is None:
            return ""
        smooth = SMOOTHING * self._smooth.get(trial, loss) + (1 - SMOOTHING) * loss
        self._smooth[trial] = smooth
        self._points.setdefault(trial, []).append((fraction, smooth))
        return "pruned" if self._hopeless(trial, fraction, smooth) else ""

    def found(self, trial: int) -> Finding | None:
        """What broke a trial, or None."""
        return self._found.get(trial)

    def warned(self, trial: int) -> list[Finding]:
        """What was odd in a trial's stream since the last call."""
        return self._warned.pop(trial, [])

    def restarted(self, trial: int) -> None:
        """Forgets the curve of an earlier attempt, or of a trial that failed."""
        for kept in (self._watches, self._found, self._warned, self._smooth, self._points):
            kept.pop(trial, None)

    def ended(self, trial: int, value: float) -> None:
        """Takes the final value of a trial that ran to its end; lower is better (a negative log-likelihood)."""
        self._ended[trial] = value
        self._watches.pop(trial, None)
        while len(self._ended) > NEWEST:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            self.restarted(oldest)

    def at(self, trial: int, fraction: float) -> float | None:
        """The smoothed loss at a share of the trial, or None before its first report."""
        points = self._points.get(trial)
        if not points:
            return None
        index = min(bisect_left(points, (fraction, -math.inf)), len(points) - 1)
        return points[index][1]

    def state(self) -> Mapping[int, float]:
        """Smoothed loss by trial, for tests and reports."""
        return dict(self._smooth)

    def _hopeless(self, trial: int, fraction: float, smooth: float) -> bool:
        """Golovin et al.'s median stopping rule (2017), while the curves can be believed."""
        if fraction < FIRST_LOOK or fraction >= 1.0:
            return False
        others = {n: at for n in self._ended if n != trial and (at := self.at(n, fraction)) is not None}
        if len(others) < FINISHED:
            return False
        numbers = sorted(others)
        if rank_correlation([others[n] for n in numbers], [self._ended[n] for n in numbers]) < BELIEVED:
            return False
        ranked = sorted(others.values())
        return smooth > ranked[len(ranked) // 2] * (1 + MARGIN)
