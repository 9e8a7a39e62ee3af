"""Gradients that keep growing: the earliest sign of a divergence, some steps before the loss shows it.

The standard library alone: the trainer's callback loads this file by its path, in an environment without autoswift.
"""

from __future__ import annotations

import math
from collections import deque

GROWN = 10.0
"""Times the usual norm that is too much: over a healthy training the norm drifts by two to five times (an adapter's
first factor begins at zero, a loss near zero has small gradients); ten is seen where a training is about to break."""

ABOVE_START = 3.0
"""And so many times the norm of the first steps: on an easy task norms fall a thousandfold and may climb back."""

NOW = 5
"""Steps whose median is the present norm: a single batch may have a hundred times the usual norm and do no harm, since
the norm is clipped."""

BEFORE = 24
"""Steps before those that make the usual norm, at most; at least 8."""

IN_A_ROW = 3
"""Steps without a finite norm that train nothing: one or two happen when a loss scaler for fp16 raises its scale."""

AT_START = 8
"""The same before the first finite norm: a loss scaler begins at 2^16 and halves at each overflow."""


class Gradients:
    """Watches one training's gradient norms, one step at a time."""

    def __init__(self) -> None:
        self._first: list[float] = []
        self._norms: deque[float] = deque(maxlen=BEFORE + NOW)
        self._broken = 0
        self._told = False

    def take(self, norm: float | None) -> float | None:
        """Takes a norm, None or NaN where it was not finite; answers the growth in times when it is first too much."""
        if norm is None or not math.isfinite(norm):
            self._broken += 1
            return None
        self._broken = 0
        if len(self._first) < NOW:
            self._first.append(norm)
        self._norms.append(norm)
        if self._told or len(self._norms) < NOW + 8:
            return None
        norms = list(self._norms)
        now, usual, start = median(norms[-NOW:]), median(norms[:-NOW]), median(self._first)
        if usual <= 0 or now < GROWN * usual or now < ABOVE_START * start:
            return None
        self._told = True
        return now / usual

    @property
    def broken(self) -> int:
        """Steps in a row without a finite norm."""
        return self._broken

    @property
    def lost(self) -> bool:
        """Whether so many norms in a row were not finite that nothing is trained any more."""
        return self._broken >= (IN_A_ROW if self._first else AT_START)


def median(values: list[float]) -> float:
    """The middle value."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
