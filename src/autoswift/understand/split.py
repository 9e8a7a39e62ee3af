"""Train, validation and test: by group, seeded, and nearly the same when rows are added or reordered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from autoswift.domain.profile import Problem
from autoswift.understand.clean import fingerprint
from autoswift.understand.problems import Findings

SHARE = 0.1
"""Of validation and of test."""
LEAST, MOST = 20, 200
"""Rows of validation and of test. Twenty is where an interval begins to mean something; two hundred give a 95 %
interval of about 7 points on a share, and more would only cost time in every trial."""
LEAST_SHARE = 0.2
"""No more than a fifth of the rows is taken to reach LEAST: below a hundred rows training needs them more."""
FEW, VERY_FEW = 50, 10
"""Rows below which scores are explained as rough, and below which they say next to nothing."""
NAMES = ("train", "validation", "test")


def size_of(rows: int) -> int:
    """Rows that validation and test want, each, of so many."""
    if rows < 2:
        return 0
    return max(1, min(MOST, max(int(rows * SHARE), min(LEAST, int(rows * LEAST_SHARE)))))


def split(
    rows: Sequence[Mapping[str, Any]], groups: Sequence[int], seed: int, *, language: str = "en", file: str = ""
) -> tuple[dict[str, list[int]], tuple[Problem, ...]]:
    """Which rows are for training, for validation and for the test, as indices in ascending order.

    A group's place comes from the hash of its rows' content with the seed: the test set takes groups from the lower
    end, validation from the upper, so neither moves the other, order does not matter and an added row moves few.
    No group is in two splits, except that a single group has to be divided by rows (reported).

    Args:
        rows: with `messages`.
        groups: for each row, its group.
        seed: of the hash.
        language: of the problems' texts.
        file: that they name.

    Raises:
        DataError: single_row, when there is nothing to divide.
    """
    findings = Findings(file, language)
    if len(rows) < 2:
        raise findings.error("single_row")
    want = size_of(len(rows))
    places = _places(rows, groups, seed)
    test = _take(places, want, keep=1)
    rest = [p for p in places if p not in test]
    validation = _take(rest[::-1], want, keep=1) if len(rest) > 1 else []
    parts = {"test": _rows(test), "validation": _rows(validation)}
    parts["train"] = _rows([p for p in rest if p not in validation])
    if not parts["test"] or (not parts["validation"] and len(rows) > 2):
        parts = _divided(rows, parts, seed, want)
        findings.add("split_by_rows", "warn", rows=len(rows))
    _explain(findings, parts, len(rows), want)
    return {name: sorted(parts[name]) for name in NAMES}, tuple(findings.problems)


Place = tuple[int, tuple[int, ...]]


def _hash(seed: int, content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:".encode() + content).digest()[:8])


def _places(rows: Sequence[Mapping[str, Any]], groups: Sequence[int], seed: int) -> list[Place]:
    """Each group as (hash, rows), in the order of the hashes."""
    members: dict[int, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    marks = [fingerprint(dict(row)) for row in rows]
    return sorted((_hash(seed, min(marks[i] for i in m)), tuple(m)) for m in members.values())


def _take(places: Sequence[Place], want: int, keep: int) -> list[Place]:
    """The first groups that together have `want` rows; those that are too large are passed over.

    When all are too large the smallest is taken, if at least `keep` groups and half of the rows stay.
    """
    taken: list[Place] = []
    count = 0
    for place in places:
        if count + len(place[1]) <= want and len(places) - len(taken) > keep:
            taken.append(place)
            count += len(place[1])
        if count == want:
            break
    total = sum(len(p[1]) for p in places)
    if not taken and len(places) > keep:
        smallest = min(places, key=lambda p: (len(p[1]), p[0]))
        if len(smallest[1]) * 2 <= total:
            taken.append(smallest)
    return taken


def _rows(places: Sequence[Place]) -> list[int]:
    return [i for p in places for i in p[1]]


def _divided(
    rows: Sequence[Mapping[str, Any]], parts: dict[str, list[int]], seed: int, want: int
) -> dict[str, list[int]]:
    """Fills an empty test, then an empty validation, with single rows of train: alike rows are better than none."""
    marks = {i: _hash(seed, fingerprint(dict(rows[i]))) for i in parts["train"]}
    train = sorted(parts["train"], key=lambda i: (marks[i], i))
    test, validation = parts["test"], parts["validation"]
    if not test:
        count = min(want, len(train) - 1)
        test, train = train[:count], train[count:]
    if not validation and len(train) > 1:
        count = min(want, len(train) - 1)
        validation, train = train[-count:], train[:-count]
    return {"train": train, "validation": validation, "test": test}


def _explain(findings: Findings, parts: Mapping[str, Sequence[int]], rows: int, want: int) -> None:
    """Says what small numbers mean for the scores."""
    counts: dict[str, Any] = {name: len(parts[name]) for name in NAMES}
    if rows < VERY_FEW:
        findings.add("too_few_rows", "warn", rows=rows, **counts)
    elif rows < FEW:
        findings.add("few_rows", "warn", rows=rows, **counts)
    elif min(counts["test"], counts["validation"]) * 2 < want:
        findings.add("near_duplicates_everywhere", "warn", rows=rows, want=want, **counts)
    if not counts["validation"]:
        findings.add("no_validation", "warn", rows=rows, **counts)
