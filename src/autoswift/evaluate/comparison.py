"""Two models on the same rows, side by side: every measure with its interval, by kind of row, wins and losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import quantiles
from typing import Any

import numpy as np

from autoswift.domain.artifact import Score
from autoswift.domain.protocols import Embedder
from autoswift.evaluate.answers import Answers, Row
from autoswift.evaluate.behaviour import behaviour_rows
from autoswift.evaluate.categories import LEAST_INTERVAL, categories_of
from autoswift.evaluate.intervals import chance, chance_of_exchange, mean_interval
from autoswift.evaluate.labels import confusion, f1_of_codes, read_labels
from autoswift.evaluate.metrics import GOAL_METRICS, ROWS
from autoswift.evaluate.overlap import similarity_rows
from autoswift.evaluate.verdict import LOWER_IS_BETTER, decide
from autoswift.run.files import plain

EXAMPLES = 8
"""Answers shown side by side in the report: enough to judge, few enough to read."""
BEST_AND_WORST = 3
"""Of the examples, how many are the greatest wins, and how many the greatest losses."""
RESAMPLES_MACRO = 1_000
"""Macro-F1 is recomputed on each resample; 1,000 keep the bound's error near 1.5 % of the interval's width."""
MASKED = "macro_f1"
"""The metric that is no mean over rows: its rows are those of accuracy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How two models are compared: the deciding metric, and the resampling behind the intervals."""

    metric: str
    confidence: float = 0.95
    resamples: int = 2_000
    seed: int = 0


Pair = tuple[list[float], list[float]]


def compare(
    base: Answers,
    tuned: Answers,
    rows: Sequence[Row],
    references: Sequence[str],
    setting: Setting,
    extra: tuple[Mapping[str, Any] | None, Embedder | None] = (None, None),
) -> dict[str, Any]:
    """Scores of both models and of the difference tuned - base, with intervals, categories, examples and a verdict.

    Args:
        base, tuned: their answers to the rows, in order; each at least as many as there are references.
        rows: with their messages. references: of the rows that both answered.
        setting: of the comparison.
        extra: the guard's result and what embeds texts, None where there is none.

    Returns:
        JSON values: metric, rows, confidence, base and tuned {scores, …}, difference, wins, verdict, categories,
        examples, and for labels confusion.
    """
    guard, embedder = extra
    count = len(references)
    metric = setting.metric
    result: dict[str, Any] = {
        "metric": metric,
        "rows": count,
        "confidence": setting.confidence,
        "base": {"scores": {}},
        "tuned": {"scores": {}},
        "difference": {},
    }
    measured = row_measures(metric, base, tuned, references, embedder)
    for name, (before, after) in measured.items():
        result["base"]["scores"][name] = _mean(before, setting)
        result["tuned"]["scores"][name] = _mean(after, setting)
        result["difference"][name] = _mean(_minus(after, before), setting)
    deciding = measured["accuracy" if metric == MASKED else metric]
    p = chance(_minus(deciding[1], deciding[0]), setting.seed)
    if metric == MASKED:
        p = _add_macro(result, base.texts[:count], tuned.texts[:count], references, setting)
    result["wins"] = wins(*deciding, higher_is_better=metric not in LOWER_IS_BETTER)
    result["verdict"] = plain(decide(metric, result["difference"][metric], count, p, guard))
    result["categories"] = by_category(deciding, categories_of(rows[:count], references, metric), setting)
    result["examples"] = examples(base, tuned, rows, references, deciding, metric)
    for which, one in (("base", base), ("tuned", tuned)):
        result[which] |= _cost(one, count)
    return result


def row_measures(
    metric: str, base: Answers, tuned: Answers, references: Sequence[str], embedder: Embedder | None = None
) -> dict[str, Pair]:
    """(base, tuned) values a row of each measure, the deciding one first where it is a mean."""
    n = len(references)
    texts = (base.texts[:n], tuned.texts[:n])
    found: dict[str, Pair] = {}
    names = GOAL_METRICS.get(metric, ("chrf", "same_text"))
    if texts[0] and texts[1]:
        for name in names:
            score: Callable[[Sequence[str], Sequence[str]], list[float]] = ROWS[name]
            found[name] = (score(texts[0], references), score(texts[1], references))
        if embedder is not None and metric == "chrf":
            a, b = (similarity_rows(embedder, side, references) for side in texts)
            found["similarity"] = (a, b)
    if len(base.nll_sums) >= n and len(tuned.nll_sums) >= n:
        nll = [[s / max(t, 1) for s, t in zip(a.nll_sums[:n], a.nll_tokens[:n], strict=True)] for a in (base, tuned)]
        found["nll"] = (nll[0], nll[1])
    if texts[0] and texts[1]:
        for name, before in behaviour_rows(texts[0], references).items():
            found[name] = (before, behaviour_rows(texts[1], references)[name])
        found["stopped"] = ([float(s) for s in base.stopped[:n]], [float(s) for s in tuned.stopped[:n]])
    if len(base.tokens) >= n and len(tuned.tokens) >= n:
        found["answer_tokens"] = ([float(t) for t in base.tokens[:n]], [float(t) for t in tuned.tokens[:n]])
    return found


def _minus(after: Sequence[float], before: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(after, before, strict=True)]


def _mean(values: Sequence[float], setting: Setting) -> Score:
    return mean_interval(values, resamples=setting.resamples, confidence=setting.confidence, seed=setting.seed)


def _add_macro(
    result: dict[str, Any], base: Sequence[str], tuned: Sequence[str], references: Sequence[str], setting: Setting
) -> float:
    """Macro-F1 of both and its difference, from the same resamples; what was taken for what. Returns p."""
    named = [read_labels(side, references) for side in (base, tuned)]
    codes = {label: i for i, label in enumerate(sorted({*named[0][0], *named[1][0], *named[0][1]}))}
    a, b, wanted = (np.array([codes[x] for x in side]) for side in (named[0][0], named[1][0], named[0][1]))
    size, rows = len(codes), len(references)

    def both(indices: np.ndarray) -> tuple[float, float]:
        truth = wanted[indices]
        return f1_of_codes(a[indices], truth, size), f1_of_codes(b[indices], truth, size)

    whole = both(np.arange(rows))
    draw = np.random.default_rng(setting.seed).integers(0, rows, size=(RESAMPLES_MACRO, rows))
    drawn = np.array([both(indices) for indices in draw])
    tail = (1 - setting.confidence) / 2

    def score(value: float, values: np.ndarray) -> Score:
        if rows < 2:
            return Score(value=value)
        low, high = np.quantile(values, [tail, 1 - tail])
        return Score(value=value, low=float(low), high=float(high))

    result["base"]["scores"][MASKED] = score(whole[0], drawn[:, 0])
    result["tuned"]["scores"][MASKED] = score(whole[1], drawn[:, 1])
    result["difference"][MASKED] = score(whole[1] - whole[0], drawn[:, 1] - drawn[:, 0])
    result["confusion"] = {"base": confusion(base, references), "tuned": confusion(tuned, references)}

    def exchanged(mask: np.ndarray) -> float:
        one, other = np.where(mask, b, a), np.where(mask, a, b)
        return f1_of_codes(other, wanted, size) - f1_of_codes(one, wanted, size)

    return chance_of_exchange(exchanged, rows, setting.seed)


def wins(base: Sequence[float], tuned: Sequence[float], *, higher_is_better: bool) -> dict[str, int]:
    """On how many rows each is better."""
    sign = 1 if higher_is_better else -1
    better = sum(sign * t > sign * b for b, t in zip(base, tuned, strict=True))
    worse = sum(sign * t < sign * b for b, t in zip(base, tuned, strict=True))
    return {"tuned": better, "base": worse, "ties": len(base) - better - worse}


def by_category(
    deciding: Pair, categories: Mapping[tuple[str, str], Sequence[int]], setting: Setting
) -> list[dict[str, Any]]:
    """The deciding measure by kind of row; intervals only where there are rows enough."""
    rows = []
    for (by, name), indices in categories.items():
        before, after = ([side[i] for i in indices] for side in deciding)
        shown = setting if len(indices) >= LEAST_INTERVAL else replace(setting, resamples=1)
        difference = _mean(_minus(after, before), shown)
        if len(indices) < LEAST_INTERVAL:
            difference = Score(value=difference.value)
        rows.append(
            {
                "by": by,
                "name": name,
                "rows": len(indices),
                "base": sum(before) / len(before),
                "tuned": sum(after) / len(after),
                "difference": difference,
            }
        )
    return rows


def examples(
    base: Answers, tuned: Answers, rows: Sequence[Row], references: Sequence[str], deciding: Pair, metric: str
) -> list[dict[str, Any]]:
    """The greatest wins, the greatest losses, then the first others; each with its kind (win, loss, tie)."""
    if not base.texts or not tuned.texts:
        return []
    sign = -1 if metric in LOWER_IS_BETTER else 1
    gain = [sign * d for d in _minus(deciding[1], deciding[0])]
    order = sorted(range(len(references)), key=lambda i: (-gain[i], i))
    best = [i for i in order[:BEST_AND_WORST] if gain[i] > 0]
    worst = [i for i in reversed(order) if gain[i] < 0][:BEST_AND_WORST]
    rest = [i for i in range(len(references)) if i not in best and i not in worst]
    chosen = (best + worst + rest)[:EXAMPLES]
    return [
        {
            "prompt": rows[i]["messages"][:-1],
            "reference": references[i],
            "base": base.texts[i],
            "tuned": tuned.texts[i],
            "kind": "win" if gain[i] > 0 else "loss" if gain[i] < 0 else "tie",
            "gain": gain[i],
        }
        for i in chosen
    ]


def _cost(one: Answers, count: int) -> dict[str, Any]:
    """Seconds of an answer and how varied the answers are; latencies where they were measured."""
    found: dict[str, Any] = {
        "seconds_per_answer": one.seconds / max(1, len(one.texts) or count),
        "distinct_answers": len(set(one.texts[:count])) / count if one.texts else None,
    }
    for name, values in (("latency_seconds", one.latencies), ("ttft_seconds", one.ttft)):
        if len(values) > 1:
            cut = quantiles(values, n=10, method="inclusive")
            found[name] = {"p50": cut[4], "p90": cut[8]}
    return found
