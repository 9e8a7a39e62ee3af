"""How able a model is, from published scores; where there are none, from its size and age, fitted on those that have.

The fit: the logit of a score between chance and 100 is linear in log10(size) and the release in years. A mixture of
experts counts as a dense model of the geometric mean of its total and active weights (Qwen3-30B-A3B: 10 B, and its MMLU
lies between the 8B's and the 14B's).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

from autoswift.catalog.models import ModelFacts, catalog
from autoswift.tables import table


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """A model's score on a test.

    Attributes:
        points: 0 to 100. measured: whether it was published for the model's family and size, else it is estimated.
        source: who published it. spread: standard deviation of the fit, 0 when measured.
    """

    test: str
    points: float
    measured: bool
    source: str = ""
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class _Fit:
    constant: float
    size: float
    year: float
    spread: float  # of the score, in points
    first: float
    last: float  # years within which the fit was made: beyond them the age does not count on

    def points(self, size: float, year: float, floor: float) -> float:
        bounded = min(max(year, self.first), self.last)
        value = self.constant + self.size * math.log10(max(size, 1e7)) + self.year * bounded
        return floor + (100 - floor) / (1 + math.exp(-value))


def ability(facts: ModelFacts, test: str) -> Ability:
    """The model's score on a test, published or estimated.

    Args:
        facts: of the model.
        test: mmlu ceval cmmlu math gsm8k humaneval mmmu mteb cmteb.
    """
    row = published(facts)
    if test in row:
        return Ability(test=test, points=float(row[test]), measured=True, source=_source(row))
    fit = fitted(test)
    points = fit.points(_size(facts), year_of(facts), _floor(test))
    return Ability(test=test, points=points, measured=False, spread=fit.spread)


def equivalent(facts: ModelFacts, test: str) -> Ability:
    """A special test's score in points of MMLU, so that abilities of different tests can be weighed alike.

    Where the model has no figure, its MMLU and its age say what models like it reach on that test.

    Args:
        facts: of the model.
        test: a test of general models: math, gsm8k, humaneval, ceval, cmmlu.
    """
    general = ability(facts, "mmlu")
    if test == "mmlu":
        return general
    line, row = _line(test), published(facts)
    measured = test in row
    score = float(row[test]) if measured else line.score(general.points, year_of(facts))
    points = min(max(line.general(score), 0.0), 100.0)
    if measured:
        return Ability(test=test, points=points, measured=True, source=_source(row))
    return Ability(test=test, points=points, measured=False, spread=general.spread)


def gain(domain: str) -> float:
    """Points that training for a domain brought over the same base: the median of the published pairs, at least 0."""
    rows = table("benchmarks")["pairs"].get(domain, ())
    return max(0.0, float(median(row["after"] - row["before"] for row in rows))) if rows else 0.0


def pair(domain: str) -> dict[str, Any]:
    """The published pair nearest to a domain's median, or an empty dict."""
    rows = table("benchmarks")["pairs"].get(domain, ())
    middle = gain(domain)
    return min(rows, key=lambda row: abs(row["after"] - row["before"] - middle), default={})


def published(facts: ModelFacts) -> dict[str, Any]:
    """The scores of the model's family and size; an empty dict where none is known."""
    return _published(facts.hf or facts.ms or facts.id)


def year_of(facts: ModelFacts) -> float:
    """Years from the beginning of 2023 to the release; an unknown release counts as early 2024."""
    if not re.fullmatch(r"\d{4}-\d{2}", facts.released):
        return 1.0
    return int(facts.released[:4]) - 2023 + (int(facts.released[5:7]) - 1) / 12


@cache
def fitted(test: str) -> _Fit:
    """The fit of a test over the models of the catalogue that have a figure; each row of scores counts once."""
    seen: dict[str, tuple[float, float, float]] = {}
    for facts in catalog():
        row = published(facts)
        if test in row and facts.parameters and row["match"] not in seen:
            seen[row["match"]] = (math.log10(_size(facts)), year_of(facts), float(row[test]))
    rows, floor = list(seen.values()), _floor(test)
    targets = [_logit(score, floor) for _, _, score in rows]
    years = [year for _, year, _ in rows]
    # Few rows of one age cannot tell the ages' effect: then size alone.
    use_year = len(rows) >= 12 and max(years) - min(years) > 1
    columns = [[1.0, size, year if use_year else 0.0] for size, year, _ in rows]
    constant, size, year = _least_squares(columns, targets)
    fit = _Fit(constant, size, year, 0.0, min(years), max(years))
    errors = [fit.points(10**s, y, floor) - score for s, y, score in rows]
    spread = math.sqrt(sum(e * e for e in errors) / max(len(rows) - 3, 1))
    return _Fit(constant, size, year, round(spread, 2), min(years), max(years))


@dataclass(frozen=True, slots=True)
class _Line:
    """A special test over MMLU and age, among models that are not made for it."""

    constant: float
    slope: float
    year: float
    last: float

    def score(self, general: float, year: float) -> float:
        return self.constant + self.slope * general + self.year * min(year, self.last)

    def general(self, score: float) -> float:
        """MMLU that goes with a score, for a model of the middle of 2024."""
        return (score - self.constant - self.year * 1.5) / self.slope


@cache
def _line(test: str) -> _Line:
    seen: dict[str, tuple[float, float, float]] = {}
    for facts in catalog():
        row = published(facts)
        if test in row and "mmlu" in row and set(facts.domains) & {"general"}:
            seen.setdefault(row["match"], (float(row["mmlu"]), year_of(facts), float(row[test])))
    rows = list(seen.values())
    constant, slope, year = _least_squares([[1.0, x, y] for x, y, _ in rows], [score for _, _, score in rows])
    return _Line(constant, slope, year, max(year for _, year, _ in rows))


def slope(test: str) -> float:
    """Points of a special test for one of MMLU."""
    return 1.0 if test == "mmlu" else _line(test).slope


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], dict[str, Any]], ...]:
    return tuple((re.compile(row["match"], re.I), row) for row in table("benchmarks")["scores"])


@cache
def _published(name: str) -> dict[str, Any]:
    return next((row for pattern, row in _patterns() if pattern.search(name)), {})


def _source(row: dict[str, Any]) -> str:
    return str(table("benchmarks")["sources"][row["source"]])


def _size(facts: ModelFacts) -> float:
    """Weights, of a mixture of experts the geometric mean of all and those in use."""
    total = max(facts.parameters, 1)
    return math.sqrt(total * facts.active) if facts.experts else float(total)


def _floor(test: str) -> float:
    return float(table("recommend")["floor"].get(test, 0.0))


def _logit(score: float, floor: float) -> float:
    share = min(max((score - floor) / (100 - floor), 0.01), 0.99)
    return math.log(share / (1 - share))


def _least_squares(columns: Sequence[Sequence[float]], targets: Sequence[float]) -> tuple[float, float, float]:
    """Coefficients of three columns; a small ridge keeps an empty column at 0."""
    n = 3
    a = [[sum(row[i] * row[j] for row in columns) + (1e-6 if i == j else 0.0) for j in range(n)] for i in range(n)]
    b = [sum(row[i] * y for row, y in zip(columns, targets, strict=True)) for i in range(n)]
    for i in range(n):
        best = max(range(i, n), key=lambda k: abs(a[k][i]))
        a[i], a[best], b[i], b[best] = a[best], a[i], b[best], b[i]
        for k in range(i + 1, n):
            factor = a[k][i] / a[i][i]
            a[k] = [x - factor * y for x, y in zip(a[k], a[i], strict=True)]
            b[k] -= factor * b[i]
    found = [0.0] * n
    for i in reversed(range(n)):
        found[i] = (b[i] - sum(a[i][j] * found[j] for j in range(i + 1, n))) / a[i][i]
    return found[0], found[1], found[2]
