"""The metric that fits the goal, computed on answers, one value a row so that intervals can be paired."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Any

from autoswift.evaluate import maths
from autoswift.evaluate.labels import accuracy_rows, macro_f1
from autoswift.evaluate.overlap import rouge_l_rows

__all__ = ["GOAL_METRICS", "METRIC_BY_GOAL", "ROWS", "aggregate", "macro_f1", "metric_of", "score_answers"]

METRIC_BY_GOAL = {
    "chat": "chrf",
    "classification": "macro_f1",
    "extraction": "field_f1",
    "reasoning": "exact_match",
    "preference": "pair_accuracy",
    "continued_pretraining": "nll",
    "embedding": "ndcg",
    "reranking": "ndcg",
}
"""The one metric that the search maximises (nll: minimises) and that the comparison is decided by, by goal."""

GOAL_METRICS: dict[str, tuple[str, ...]] = {
    "chrf": ("chrf", "rouge_l", "same_text"),
    "macro_f1": ("accuracy", "same_text"),
    "field_f1": ("field_f1", "json_valid", "same_text"),
    "exact_match": ("exact_match", "same_text"),
}
"""By the goal's metric: the row metrics that are measured on the test set."""


def metric_of(goal: str) -> str:
    """The metric of a goal.

    Raises:
        KeyError: for a word that is no goal.
    """
    return METRIC_BY_GOAL[goal]


def normalise(answer: str) -> str:
    """NFKC, lower case, single spaces: what should not count as a difference."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", answer)).strip().lower()


def chrf_rows(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """Sentence chrF (character 6-grams, beta 2: Popović 2015), 0 to 100, one a row.

    Character n-grams need no word segmentation, so one metric serves Chinese and English.
    """
    from sacrebleu.metrics.chrf import CHRF  # imported here: it takes 0.2 s

    chrf = CHRF()
    return [chrf.sentence_score(a, [r]).score for a, r in zip(answers, references, strict=True)]


def same_text_rows(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """1 where the normalised answer equals the normalised reference, else 0."""
    return [float(normalise(a) == normalise(r)) for a, r in zip(answers, references, strict=True)]


def exact_match_rows(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """1 where the texts, or the final answers that they come to, are equal (`maths.same_answer`), else 0."""
    pairs = list(zip(answers, references, strict=True))
    return [float(normalise(a) == normalise(r) or maths.same_answer(a, r)) for a, r in pairs]


def field_f1_rows(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """F1 over (field, value) pairs of JSON answers, 0 to 1; over normalised lines where they are not JSON."""
    return [_f1(_fields(a), _fields(r)) for a, r in zip(answers, references, strict=True)]


def json_valid_rows(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """1 where an answer is JSON of the reference's kind (object, array, …), or where the reference is none."""
    found = []
    for answer, reference in zip(answers, references, strict=True):
        wanted, got = _json(reference), _json(answer)
        found.append(float(wanted is None or (got is not None and type(got[0]) is type(wanted[0]))))
    return found


def _json(answer: str) -> tuple[Any] | None:
    """The JSON value of an answer, in a tuple (it may be null); None where it is no JSON. A code fence is taken off."""
    text = re.sub(r"^```\w*\s*|\s*```$", "", answer.strip())
    try:
        return (json.loads(text, parse_constant=lambda _: None),)
    except (ValueError, RecursionError):
        return None


def _fields(answer: str) -> set[tuple[str, str]]:
    value = _json(answer)
    if value is None:
        return {("", normalise(line)) for line in re.split(r"[\n;；]", answer) if line.strip()}
    return set(_walk("", value[0]))


def _walk(path: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for k, v in value.items() for pair in _walk(f"{path}.{k}", v)]
    if isinstance(value, list):
        return [pair for v in value for pair in _walk(f"{path}[]", v)]
    return [(path, normalise(str(value)))]


def _f1(got: set[tuple[str, str]], wanted: set[tuple[str, str]]) -> float:
    if not got or not wanted:
        return float(got == wanted)
    hits = len(got & wanted)
    return 2 * hits / (len(got) + len(wanted))


ROWS: dict[str, Callable[[Sequence[str], Sequence[str]], list[float]]] = {
    "chrf": chrf_rows,
    "exact_match": exact_match_rows,
    "field_f1": field_f1_rows,
    "accuracy": accuracy_rows,
    "json_valid": json_valid_rows,
    "rouge_l": rouge_l_rows,
    "same_text": same_text_rows,
}
"""Metrics that are the mean of a value a row."""


def aggregate(metric: str, answers: Sequence[str], references: Sequence[str]) -> float:
    """The metric over all rows. Raises KeyError for an unknown metric and ValueError without rows."""
    if not answers:
        raise ValueError("no answers to score")
    if metric == "macro_f1":
        return macro_f1(answers, references)
    return fmean(ROWS[metric](answers, references))


def score_answers(metric: str, answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """What a trial reports about its validation answers: metric, standard error, how long and varied they are."""
    found = {metric: aggregate(metric, answers, references)}
    if metric in ROWS and len(answers) > 1:
        rows = ROWS[metric](answers, references)
        found[f"{metric}_stderr"] = stdev(rows) / math.sqrt(len(rows))
    elif metric == "macro_f1" and len(answers) > 1:
        found["macro_f1_stderr"] = _jackknife(answers, references)
        found["accuracy"] = fmean(accuracy_rows(answers, references))
    return found | {
        "answer_characters": fmean(len(a) for a in answers),
        "distinct_answers": len({normalise(a) for a in answers}) / len(answers),
    }


def _jackknife(answers: Sequence[str], references: Sequence[str]) -> float:
    """Standard error of macro-F1, by leaving out one row after the other (Quenouille): no formula gives it."""
    from autoswift.evaluate.labels import f1_of, read_labels

    named, wanted = read_labels(answers, references)
    size = len(named)
    values = [f1_of(named[:i] + named[i + 1 :], wanted[:i] + wanted[i + 1 :]) for i in range(size)]
    mean = fmean(values)
    return math.sqrt((size - 1) / size * sum((v - mean) ** 2 for v in values))
