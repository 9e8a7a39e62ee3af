"""Curves of configurations between the recorded ones, by a Gaussian process over the whole table.

For benchmarks of searches: on answers snapped to the nearest configuration the landscape is a staircase, whose jumps
(another rank, another warm-up) a model of it cannot foresee. Left out of the shipped table one at a time, recorded
configurations with rates below 0.02 are off by 0.08, 0.09 and 0.03 nats a token after four passes (root mean square on
the three corpora) where the nearest neighbour is off by 0.27, 0.30 and 0.09.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from autoswift.engines.curves import DIVERGED, CurveTable, Floats, Kind

LENGTHS = {"learning_rate": 1.2 * math.log(10), "batch": 8 * math.log(2), "rank": 6 * math.log(2), "warmup_ratio": 0.5}
"""Distances over which curves stay alike: of 162 combinations that with the least error above."""
NUGGET = 0.005
"""Variance of a value that its neighbours do not explain, of the same 162 combinations."""
CEILING = DIVERGED + 0.5
"""Nats above the base model to which diverged values are lowered: how bad they are would else bend the rest."""


class Interpolator:
    """Matern 5/2 over the logarithms of rate, batch and rank, and the warm-up; all checkpoints share its matrix."""

    def __init__(self, table: CurveTable) -> None:
        self.table = table
        self.tokens: Floats = table.tokens[0]
        points = [_point({n: getattr(c, n) for n in LENGTHS}) for c in table.configurations]
        self._points = np.array(points)
        inverse = np.linalg.inv(_kernel(self._points, self._points) + NUGGET * np.eye(len(points)))
        self._fits: dict[tuple[str, Kind], tuple[Floats, Floats, Floats, Floats]] = {}
        for number, corpus in enumerate(table.corpora):
            top = float(table.base_nll[number]) + CEILING
            for kind in ("averaged", "nll", "train"):
                rows = [self._on_grid(table.curve(corpus, i, None, kind).values, i) for i in range(len(points))]
                values = np.minimum(np.nan_to_num(np.array(rows), nan=top), top)
                mean = values.mean(axis=0)
                scale = np.maximum(values.std(axis=0), 1e-6)
                self._fits[corpus, kind] = (inverse @ ((values - mean) / scale), mean, scale, values.min(axis=0))

    def values(self, corpus: str, parameters: Mapping[str, Any], kind: Kind) -> Floats:
        """The curve at `tokens`: never below the best that was recorded there."""
        weights, mean, scale, least = self._fits[corpus, kind]
        near = _kernel(_point(parameters)[None], self._points)[0]
        found: Floats = np.maximum(mean + scale * (near @ weights), least)
        return found

    def _on_grid(self, values: Floats, row: int) -> Floats:
        """Steps of larger batches end elsewhere: all curves are read at the same tokens."""
        made: Floats = np.interp(np.log(self.tokens), np.log(self.table.tokens[row]), values)
        return made


def _point(parameters: Mapping[str, Any]) -> Floats:
    made = [float(parameters[n]) if n == "warmup_ratio" else math.log(float(parameters[n])) for n in LENGTHS]
    return np.array([value / length for value, length in zip(made, LENGTHS.values(), strict=True)])


def _kernel(a: Floats, b: Floats) -> Floats:
    distance = np.sqrt(5 * ((a[:, None] - b[None]) ** 2).sum(axis=-1))
    made: Floats = (1 + distance + distance**2 / 3) * np.exp(-distance)
    return made
