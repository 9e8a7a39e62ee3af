"""Classification: which label an answer names, and what was taken for what."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

OTHER = "\0"
"""An answer that names no label, or several."""

MOST_LABELS = 30
"""Rows and columns of a confusion matrix that are kept: more cannot be read."""

_AROUND = " \t\r\n\"'`*“”‘’「」『』《》【】[](){}<>.,:;!?。，：；！？、-"
_LEAD = re.compile(
    r"^(?:the\s+)?(?:label|category|class|answer|intent|sentiment|类别|标签|分类|答案|意图|情感|结果)\s*(?:is|[::=]|是|为)\s*",
    re.IGNORECASE,
)


def normal_label(text: str) -> str:
    """A label without what people put around it: quotes, brackets, case, full-width forms, `label:`."""
    plain = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip(_AROUND).lower()
    return _LEAD.sub("", plain).strip(_AROUND)


def label_of(answer: str, labels: Sequence[str]) -> str:
    """The label that an answer names.

    The whole answer, its value where it is a JSON object of one field, its first line; then the one label that occurs
    in it as a word of its own.

    Args:
        answer: as the model gave it. labels: all there are, after `normal_label`.

    Returns:
        One of `labels`, or `OTHER`.
    """
    known = set(labels)
    for candidate in _candidates(answer):
        if candidate in known:
            return candidate
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", answer)).lower()
    named = {label for label in known if label and _occurs(label, text)}
    # "very good" holds "good": the longer one is meant.
    named = {a for a in named if not any(a != b and a in b for b in named)}
    return named.pop() if len(named) == 1 else OTHER


def _candidates(answer: str) -> list[str]:
    found = [normal_label(answer)]
    stripped = answer.strip().removeprefix("```json").removesuffix("```").strip()
    if stripped.startswith("{"):
        try:
            value = json.loads(stripped)
        except ValueError:
            value = None
        if isinstance(value, dict) and len(value) == 1:
            found.append(normal_label(str(next(iter(value.values())))))
    first = next((line for line in answer.splitlines() if line.strip()), "")
    return [*found, normal_label(first)]


def _occurs(label: str, text: str) -> bool:
    if re.search(r"[a-z0-9]", label):
        return re.search(rf"(?<![a-z0-9]){re.escape(label)}(?![a-z0-9])", text) is not None
    return label in text


def known_labels(references: Sequence[str]) -> list[str]:
    """The labels that occur among references, sorted."""
    return sorted({normal_label(r) for r in references})


def read_labels(answers: Sequence[str], references: Sequence[str]) -> tuple[list[str], list[str]]:
    """What the answers name, and what they should name."""
    labels = known_labels(references)
    return [label_of(a, labels) for a in answers], [normal_label(r) for r in references]


def accuracy_rows(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """1 where the label is right, else 0."""
    named, wanted = read_labels(answers, references)
    return [float(a == b) for a, b in zip(named, wanted, strict=True)]


def macro_f1(answers: Sequence[str], references: Sequence[str]) -> float:
    """Mean over the labels in the references of each label's F1, 0 to 1."""
    named, wanted = read_labels(answers, references)
    return f1_of(named, wanted)


def f1_of(named: Sequence[str], wanted: Sequence[str]) -> float:
    """Macro-F1 of labels that were read already."""
    codes = {label: i for i, label in enumerate(sorted({*named, *wanted}))}
    a, b = (np.array([codes[x] for x in side], dtype=np.int64) for side in (named, wanted))
    return f1_of_codes(a, b, len(codes))


def f1_of_codes(named: np.ndarray, wanted: np.ndarray, size: int) -> float:
    """The same on numbers 0 to size - 1, fast enough for a bootstrap."""
    if not len(wanted):
        return 0.0
    true = np.bincount(wanted, minlength=size)
    claimed = np.bincount(named, minlength=size)
    hits = np.bincount(wanted[named == wanted], minlength=size)
    there = true > 0
    return float((2 * hits[there] / (claimed[there] + true[there])).mean())


def confusion(answers: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """The matrix, and precision, recall and F1 of each label.

    Returns:
        labels (the most frequent `MOST_LABELS`), matrix (rows: the truth; one column more for answers that name no
        label or one that is not shown), per_label, unnamed (answers that name no label).
    """
    named, wanted = read_labels(answers, references)
    counts = Counter(wanted)
    labels = [label for label, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))][:MOST_LABELS]
    place = {label: i for i, label in enumerate(labels)}
    matrix = [[0] * (len(labels) + 1) for _ in labels]
    for got, true in zip(named, wanted, strict=True):
        if true in place:
            matrix[place[true]][place.get(got, len(labels))] += 1
    claimed = Counter(named)
    rows = []
    for label in labels:
        hits = matrix[place[label]][place[label]]
        rows.append(
            {
                "label": label,
                "rows": counts[label],
                "precision": hits / claimed[label] if claimed[label] else 0.0,
                "recall": hits / counts[label],
                "f1": 2 * hits / (claimed[label] + counts[label]),
            }
        )
    return {"labels": labels, "matrix": matrix, "per_label": rows, "unnamed": sum(n == OTHER for n in named)}


def mean_f1(per_label: Sequence[Mapping[str, Any]]) -> float:
    """Macro-F1 from `confusion`'s rows, where all labels are among them."""
    return fmean(float(one["f1"]) for one in per_label) if per_label else 0.0
