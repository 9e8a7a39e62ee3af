"""The search space as coordinates in which equal distances mean about equally different trainings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNITS = {
    # Loss over learning rate is a bowl in log space; half a decade is where it matters, and what sweeps step by.
    "learning_rate": math.log(3.16),
    # Rates want to follow the batch by its square root or less (Malladi et al. 2022): ×4 in batch is ×2 in rate.
    "effective_batch_size": math.log(4.0),
    # Rank hardly matters once every linear map has an adapter (QLoRA, table 4): ×8 counts as one step.
    "lora_rank": math.log(8.0),
    "epochs": math.log(2.0),
}
"""Natural-log distance that counts as 1; others: the whole range counts as 2."""

OTHER_RANGE = 2.0
"""Width of a dimension that has no unit above: a sampler that knows nothing of it should see it vary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    name: str
    origin: float
    unit: float
    log: bool
    low: float
    high: float
    choices: tuple[Any, ...]
    numeric: bool


class Space:
    """Parameters as points of R^d and back.

    Args:
        space: of the plan: name to {"low", "high", "log"} or {"choices"}, each with an optional "prior".
        prior: the plan's own value of each parameter; it is the origin.
    """

    def __init__(self, space: Mapping[str, Mapping[str, Any]], prior: Mapping[str, Any]) -> None:
        self.axes = tuple(_axis(name, one, prior.get(name, one.get("prior"))) for name, one in sorted(space.items()))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the searched parameters, sorted."""
        return tuple(axis.name for axis in self.axes)

    def encode(self, parameters: Mapping[str, Any]) -> NDArray[np.float64]:
        """Coordinates (d,); a parameter that is missing lies at the origin."""
        return np.array([_coordinate(axis, parameters.get(axis.name)) for axis in self.axes], dtype=np.float64)

    def sample(self, rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
        """Uniform draws, logarithmic where the space says so."""
        return [{axis.name: _draw(axis, rng) for axis in self.axes} for _ in range(count)]

    def near(
        self, rng: np.random.Generator, centre: Mapping[str, Any], count: int, width: float
    ) -> list[dict[str, Any]]:
        """Draws around a configuration: normal with `width` in coordinates, clipped; choices move to near ones."""
        return [{axis.name: _move(axis, centre.get(axis.name), rng, width) for axis in self.axes} for _ in range(count)]

    def clip(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The searched parameters moved into the space: floats clipped, choices to the nearest."""
        return {axis.name: _inside(axis, parameters[axis.name]) for axis in self.axes if axis.name in parameters}


def _axis(name: str, one: Mapping[str, Any], prior: Any) -> _Axis:
    choices = tuple(one.get("choices") or ())
    numeric = not choices or all(isinstance(c, int | float) and not isinstance(c, bool) and c > 0 for c in choices)
    if not numeric:
        return _Axis(name=name, origin=0.0, unit=1.0, log=False, low=0.0, high=0.0, choices=choices, numeric=False)
    low = float(min(choices)) if choices else float(one["low"])
    high = float(max(choices)) if choices else float(one["high"])
    log = bool(one.get("log")) or bool(choices) or name in UNITS
    middle = math.sqrt(low * high) if log else (low + high) / 2
    origin = float(prior) if isinstance(prior, int | float) and prior else middle
    width = math.log(high / low) if log else high - low
    unit = UNITS.get(name, 0.0) if log else 0.0
    unit = unit or (width / OTHER_RANGE) or 1.0
    return _Axis(
        name=name, origin=math.log(origin) if log else origin, unit=unit, log=log, low=low, high=high, choices=choices,
        numeric=True,
    )  # fmt: skip


def _coordinate(axis: _Axis, value: Any) -> float:
    if value is None:
        return 0.0
    if not axis.numeric:
        return 2.0 * axis.choices.index(value) if value in axis.choices else 0.0
    number = math.log(float(value)) if axis.log else float(value)
    return (number - axis.origin) / axis.unit


def _draw(axis: _Axis, rng: np.random.Generator) -> Any:
    if axis.choices:
        return axis.choices[int(rng.integers(len(axis.choices)))]
    if axis.log:
        return _digits(math.exp(rng.uniform(math.log(axis.low), math.log(axis.high))), axis)
    return _digits(rng.uniform(axis.low, axis.high), axis)


def _move(axis: _Axis, value: Any, rng: np.random.Generator, width: float) -> Any:
    step = float(rng.normal(0.0, width))
    if not axis.numeric:
        return value if abs(step) < width and value in axis.choices else _draw(axis, rng)
    moved = _coordinate(axis, value) + step
    number = moved * axis.unit + axis.origin
    return _inside(axis, math.exp(number) if axis.log else number)


def _inside(axis: _Axis, value: Any) -> Any:
    if axis.choices:
        if not axis.numeric:
            return value if value in axis.choices else axis.choices[0]
        return min(axis.choices, key=lambda c: (abs(_coordinate(axis, c) - _coordinate(axis, value)), c))
    return _digits(min(max(float(value), axis.low), axis.high), axis)


def _digits(value: float, axis: _Axis) -> float:
    """Three digits: more would be noise in a record that people read."""
    return min(max(float(f"{value:.3g}"), axis.low), axis.high)


def coordinates(space: Space, rows: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Several configurations at once, (n, d)."""
    return np.array([space.encode(row) for row in rows], dtype=np.float64).reshape(len(rows), len(space.axes))
