"""What a comparison comes to, by a rule that is written down (docs/*/evaluation.md), and in words.

A difference counts as proven when two things agree: the paired bootstrap interval excludes 0, and models that do not
differ would show such a difference less often than once in a hundred comparisons (exchange test).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from autoswift.domain.artifact import Score
from autoswift.tables import text

Kind = Literal["better", "worse", "same", "unknown"]
Ship = Literal["ship", "ship_with_care", "keep_base", "refuse", "unknown"]

LEAST_ROWS = 8
"""Below it no verdict is given: with 7 rows the exchange test cannot go below 2/128 = 0.016."""
CHANCE = 0.01
"""Largest p of a proven difference. At 0.01 a model that is compared with itself on 20 seeds is called different more
than once with probability 0.017; at 0.05 that would be 0.26."""
IN_HUNDREDTHS = frozenset(
    {"macro_f1", "accuracy", "field_f1", "exact_match", "same_text", "json_valid", "rouge_l", "similarity", "ndcg",
     "recall", "mrr", "pair_accuracy", "pass_at_1", "guard"}
)  # fmt: skip
"""Metrics from 0 to 1: they are told in points of a hundred."""
LOWER_IS_BETTER = frozenset({"nll", "loss", "perplexity", "latency_seconds"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a comparison comes to.

    Attributes:
        kind: better, worse, same (no difference is proven) or unknown (too few rows).
        chance: how often equal models would differ so much.
        hint: the interval excludes 0, but chance may do as much: more rows would tell.
        guard: pass, warn, veto or none. ship: what follows.
        words: by language, one sentence.
    """

    kind: Kind
    metric: str
    rows: int
    difference: float
    low: float | None
    high: float | None
    chance: float
    hint: bool
    guard: str
    ship: Ship
    words: dict[str, str]


def kind_of(metric: str, difference: Score, rows: int, chance: float) -> Kind:
    """The rule's first half: is the difference proven, and which way does it point."""
    if rows < LEAST_ROWS or difference.low is None or difference.high is None:
        return "unknown"
    excludes = difference.low > 0 or difference.high < 0
    if not excludes or chance > CHANCE:
        return "same"
    up = difference.low > 0
    return "better" if up != (metric in LOWER_IS_BETTER) else "worse"


def ship_of(kind: Kind, guard: str) -> Ship:
    """The rule's second half: what to do."""
    if kind == "unknown":
        return "unknown"
    if guard == "veto" or kind == "worse":
        return "refuse"
    if kind == "same":
        return "keep_base"
    return "ship_with_care" if guard == "warn" else "ship"


def decide(metric: str, difference: Score, rows: int, chance: float, guard: Mapping[str, Any] | None = None) -> Verdict:
    """The whole rule.

    Args:
        metric: that decides. difference: tuned - base with its interval. rows: compared.
        chance: from `intervals.chance`. guard: the guard's result, or None where it was not asked.
    """
    kind = kind_of(metric, difference, rows, chance)
    guarded = str((guard or {}).get("kind") or "none")
    hint = kind == "same" and difference.low is not None and (difference.low > 0 or (difference.high or 0) < 0)
    ship = ship_of(kind, guarded)
    return Verdict(
        kind=kind,
        metric=metric,
        rows=rows,
        difference=difference.value,
        low=difference.low,
        high=difference.high,
        chance=chance,
        hint=hint,
        guard=guarded,
        ship=ship,
        words={one: _words(one, metric, difference, kind, hint, (guard, ship)) for one in ("en", "zh")},
    )


def points(metric: str, value: float) -> float:
    """A value in points: hundredths for metrics from 0 to 1, else as it is."""
    return 100 * value if metric in IN_HUNDREDTHS else value


def size_of(metric: str, difference: Score, language: str) -> str:
    """`14.2 ± 2.1 points`: the size of a difference, and half the width of its interval."""
    scale = 2 if metric in LOWER_IS_BETTER else 1
    value = f"{abs(points(metric, difference.value)):.{scale}f}"
    if difference.low is not None and difference.high is not None:
        half = points(metric, (difference.high - difference.low) / 2)
        value += f" ± {half:.{scale}f}"
    unit = "nats" if metric == "nll" else "points" if metric not in LOWER_IS_BETTER else "seconds"
    return text(f"evaluate.unit.{unit}", language, value=value)


def _words(
    language: str,
    metric: str,
    difference: Score,
    kind: Kind,
    hint: bool,
    rest: tuple[Mapping[str, Any] | None, Ship],
) -> str:
    guard, ship = rest
    size = size_of(metric, difference, language)
    key = f"{kind}_hint" if hint else kind
    parts = [text(f"evaluate.verdict.{key}", language, size=size)]
    if guard is not None:
        lost = f"{100 * max(0.0, -float(guard['difference']['value'])):.1f}" if guard.get("difference") else "0"
        parts.append(text(f"evaluate.guard.{guard['kind']}", language, lost=lost))
    parts.append(text(f"evaluate.ship.{ship}", language))
    return ("；" if language == "zh" else "; ").join(parts) + ("。" if language == "zh" else ".")
