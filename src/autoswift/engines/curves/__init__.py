"""The table of recorded fine-tuning curves: what a configuration reached after how many tokens, on which corpus.

docs/en/curves.md says how it was made and how others load it. Nothing is made up here: an answer is a recorded number,
of the nearest recorded configuration, between two of its checkpoints where need be.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autoswift.errors import InputError
from autoswift.tables import explain

Floats = NDArray[np.float64]
Kind = Literal["averaged", "nll", "train"]

SHIPPED = Path(__file__).parent / "llama-6m.npz"
"""Recorded on a GPU from a base of 6 million parameters."""
TINY = Path(__file__).parent / "tiny.npz"
"""Recorded on a CPU from a base of 25 thousand: for tests, which read it faster."""

DIVERGED = 1.0
"""Nats a token above the base model's own loss from which on a trial counts as diverged: an adapter begins as the base,
so one that is e times less likely than that has been driven away, not trained."""

SCALES = {"learning_rate": math.log(10) / 4, "batch": math.log(2), "rank": 3 * math.log(2), "warmup_ratio": 0.1}
"""One unit of distance between configurations: a quarter of a decade of the rate, an octave of the batch (which moves
the best rate by about the square root of two), three octaves of the rank (which hardly matters), all of the warm-up."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """One recorded configuration; `number` is its row in the table."""

    number: int
    learning_rate: float
    rank: int
    batch: int
    warmup_ratio: float


@dataclass(frozen=True, slots=True)
class Curve:
    """One recorded training.

    Attributes:
        tokens: of the checkpoints, ascending.
        values: at the checkpoints; NaN from where it diverged.
        start: the base model's own value, at 0 tokens.
    """

    tokens: Floats
    values: Floats
    start: float

    def at(self, tokens: float) -> float | None:
        """The value after so many tokens, linear in their logarithm between checkpoints; None once it is not finite.

        Before the first checkpoint it is linear from the base's value; behind the last one the last is meant.
        """
        if tokens <= self.tokens[0]:
            share = max(0.0, tokens) / float(self.tokens[0])
            value = self.start + share * (float(self.values[0]) - self.start)
        else:
            value = float(np.interp(math.log(tokens), np.log(self.tokens), self.values))
        return value if math.isfinite(value) else None


class CurveTable:
    """The recorded curves of several corpora over the same configurations.

    Args:
        arrays: as `load` reads them; docs/en/curves.md names each.
        path: where they were read from; None where they were not.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], path: Path | None = None) -> None:
        self.path = path
        self.meta: dict[str, Any] = json.loads(arrays["meta"].tobytes().decode("utf-8"))
        self.corpora = [str(c) for c in arrays["corpora"]]
        self.tokens: NDArray[Any] = arrays["tokens"].astype(np.float64)
        self.base_nll: Floats = arrays["base_nll"].astype(np.float64)
        self.curves: dict[str, Floats] = {k: arrays[k].astype(np.float64) for k in ("nll", "averaged", "train")}
        self.seeds = int(self.curves["nll"].shape[2])
        self.epoch_tokens = int(self.meta["epoch_tokens"])
        self.row_tokens = int(self.meta["model"]["length"])
        self._steps: tuple[Floats, Floats] = (arrays["step_batch"].astype(np.float64), arrays["step_seconds"])
        rows = zip(*(arrays[k] for k in ("learning_rate", "rank", "batch", "warmup_ratio")), strict=True)
        self.configurations = [
            Configuration(i, float(rate), int(rank), int(batch), float(warm))
            for i, (rate, rank, batch, warm) in enumerate(rows)
        ]
        self._points = np.array([_point(vars_of(c)) for c in self.configurations])
        self._finals: dict[tuple[str, int, float, int | None], float] = {}

    @classmethod
    def load(cls, path: Path = SHIPPED) -> CurveTable:
        """Reads a table; the one that the package ships by default. No pickles.

        Raises:
            InputError: when the file is no such table.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
                return cls({name: data[name] for name in data.files}, path)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(*explain("engine.no_table", path=str(path), error=str(error))) from error

    def nearest(self, parameters: Mapping[str, Any]) -> Configuration:
        """The recorded configuration next to one of `learning_rate, rank, batch, warmup_ratio`, by SCALES."""
        distance = ((self._points - _point(parameters)) ** 2).sum(axis=1)
        return self.configurations[int(distance.argmin())]

    def curve(self, corpus: str, configuration: int, seed: int | None, kind: Kind) -> Curve:
        """A recorded curve; the mean of the seeds when `seed` is None.

        Args:
            kind: `averaged` (a trial's own complete schedule), `nll` (a checkpoint at constant rate), `train`.
        """
        values = self.curves[kind][self.corpora.index(corpus), configuration]
        one = values.mean(axis=0) if seed is None else values[seed % self.seeds]
        return Curve(self.tokens[configuration], one, float(self.base_nll[self.corpora.index(corpus)]))

    def final(self, corpus: str, configuration: int, tokens: float, seed: int | None = None) -> float:
        """Validation loss of a trial of so many tokens on its own schedule; infinite when it diverged."""
        key = (corpus, configuration, tokens, seed)
        if key not in self._finals:  # a replay asks for the same few thousand again and again
            value = self.curve(corpus, configuration, seed, "averaged").at(tokens)
            base = float(self.base_nll[self.corpora.index(corpus)])
            self._finals[key] = value if value is not None and value < base + DIVERGED else math.inf
        return self._finals[key]

    def noise(self, corpus: str) -> float:
        """Standard deviation of one training between seeds: of all that ended better than the base, robustly."""
        last = self.curves["averaged"][self.corpora.index(corpus), :, :, -1]
        sane = last[(np.isfinite(last) & (last < self.base_nll[self.corpora.index(corpus)])).all(axis=1)]
        # |a - b| of two normal values has its median at 0.954 standard deviations.
        return float(np.median(np.abs(sane[:, 0] - sane[:, 1])) / 0.954)

    def step_seconds(self, batch: float) -> float:
        """Seconds of one step of a trial alone, as measured on the recorder's device; linear between batches."""
        return float(np.interp(batch, *self._steps))

    def token_seconds(self) -> float:
        """Seconds a token at the largest recorded batch, where the device is busiest."""
        return float(self._steps[1][-1] / (self._steps[0][-1] * self.row_tokens))


def vars_of(configuration: Configuration) -> dict[str, float]:
    """Its four settings by name."""
    return {name: float(getattr(configuration, name)) for name in SCALES}


def _point(parameters: Mapping[str, Any]) -> Floats:
    made = [float(parameters[name]) if name == "warmup_ratio" else math.log(float(parameters[name])) for name in SCALES]
    return np.array([value / scale for value, scale in zip(made, SCALES.values(), strict=True)])
