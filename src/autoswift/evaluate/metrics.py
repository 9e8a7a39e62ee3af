"""The metric that fits the goal, computed on answers, one value a row so that intervals can be paired."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Any


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


def exact_match_rows(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """1 where the normalised answer equals the normalised reference, else 0."""
    return [float(normalise(a) == normalise(r)) for a, r in zip(answers, references, strict=True)]


def field_f1_rows(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """F1 over (field, value) pairs of JSON answers, 0 to 1; over normalised lines where they are not JSON."""
    return [_f1(_fields(a), _fields(r)) for a, r in zip(answers, references, strict=True)]


def _fields(answer: str) -> set[tuple[str, str]]:
    text = answer.strip().removeprefix("```json").removesuffix("```").strip()
    try:
        value = json.loads(text)
    except ValueError:
        return {("", normalise(line)) for line in re.split(r"[\n;；]", answer) if line.strip()}
    return set(_walk("", value))


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


def macro_f1(answers: Sequence[str], references: Sequence[str]) -> float:
    """Mean over the labels in the references of each label's F1, 0 to 1."""
    pairs = [(normalise(a), normalise(r)) for a, r in zip(answers, references, strict=True)]
    values = []
    for label in sorted({r for _, r in pairs}):
        hits = sum(a == r == label for a, r in pairs)
        claimed, true = sum(a == label for a, _ in pairs), sum(r == label for _, r in pairs)
        values.append(2 * hits / (claimed + true))
    return fmean(values) if values else 0.0


ROWS: dict[str, Callable[[Sequence[str], Sequence[str]], list[float]]] = {
    "chrf": chrf_rows,
    "exact_match": exact_match_rows,
    "field_f1": field_f1_rows,
}


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
    return found | {
        "answer_characters": fmean(len(a) for a in answers),
        "distinct_answers": len({normalise(a) for a in answers}) / len(answers),
    }
