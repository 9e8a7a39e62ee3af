"""Train, validation and test: by group, seeded, and nearly the same when rows are added or reordered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoswift.domain.profile import Problem
from autoswift.understand.clean import fingerprint
from autoswift.understand.problems import Findings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
TRAIN, VALIDATION, TEST = range(3)
RARE = 3
"""Groups of a label from which on each split gets one of them, where there is room."""


def size_of(rows: int) -> int:
    """Rows that validation and test want, each, of so many."""
    if rows < 2:
        return 0
    return max(1, min(MOST, max(int(rows * SHARE), min(LEAST, int(rows * LEAST_SHARE)))))


def split(
    rows: Sequence[Mapping[str, Any]], groups: Sequence[int], seed: int, *, language: str = "en", file: str = ""
) -> tuple[dict[str, list[int]], tuple[Problem, ...]]:
    """Which rows are for training, for validation and for the test, as indices in ascending order.

    Args:
        rows: with `messages`; a `label` is spread evenly.
        groups: for each row, its group.
        seed: of the hash.
        language: of the problems' texts.
        file: that they name.

    Raises:
        DataError: single_row, when there is nothing to divide.
    """
    import numpy as np

    findings = Findings(file, language)
    if len(rows) < 2:
        raise findings.error("single_row")
    keys = np.asarray([int.from_bytes(fingerprint(dict(r))[:8], "little") for r in rows], dtype=np.uint64)
    labels: dict[str, int] = {}
    marks = [labels.setdefault(str(r["label"]), len(labels) + 1) if "label" in r else 0 for r in rows]
    data = Rows(keys, np.asarray(groups, dtype=np.int64), np.asarray(marks, dtype=np.uint64))
    want = size_of(len(rows))
    parts, by_rows = divide(data, seed, {TEST: want, VALIDATION: want})
    found = {name: np.flatnonzero(parts == i).tolist() for i, name in enumerate(NAMES)}
    explain(findings, {name: len(some) for name, some in found.items()}, want, by_rows=by_rows)
    return found, tuple(findings.problems)


@dataclass(frozen=True, slots=True)
class Rows:
    """What the division looks at, each (rows,): a key of the content, the group, the label's digest (0 for none)."""

    keys: NDArray[np.uint64]
    groups: NDArray[np.int64]
    labels: NDArray[np.uint64]


def divide(rows: Rows, seed: int, want: Mapping[int, int]) -> tuple[NDArray[np.uint8], bool]:
    """The part of each row: TRAIN, VALIDATION or TEST.

    A group's place comes from the hash of its first key with the seed: the test set takes groups from the lower end,
    validation from the upper, so neither moves the other, order does not matter and an added row moves few. Each label
    gives its share. No group is in two splits, except that a single group has to be divided by rows.

    Args:
        rows: at least two.
        seed: of the hash.
        want: rows of VALIDATION and TEST; a part that is not named stays empty.

    Returns:
        The parts, and whether a group had to be divided.
    """
    import numpy as np

    order = np.lexsort((rows.keys, rows.groups))
    ordered = rows.groups[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    sizes = np.diff(np.concatenate([starts, [len(order)]]))
    first = order[starts]  # the row with the least key stands for its group
    hashes = _hash(rows.keys[first], seed)
    by_hash = np.lexsort((rows.keys[first], hashes))
    part = np.zeros(len(starts), dtype=np.uint8)
    candidates = _Groups(sizes, rows.labels[first])
    if TEST in want:
        part[candidates.take(by_hash, want[TEST])] = TEST
    if VALIDATION in want:
        left = by_hash[part[by_hash] == TRAIN]
        part[candidates.take(left[::-1], want[VALIDATION])] = VALIDATION
    out = np.empty(len(order), dtype=np.uint8)
    out[order] = np.repeat(part, sizes)
    empty = [p for p in want if not (out == p).any() and not (p == VALIDATION and len(out) < len(want) + 1)]
    if empty:
        _divide_rows(out, _hash(rows.keys, seed), rows.keys, want)
    return out, bool(empty)


def _hash(keys: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Keys mixed with the seed (splitmix64's last steps)."""
    import numpy as np

    mixed = keys + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    for shift, by in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(by)
    return np.asarray(mixed)


class _Groups:
    """Groups with their sizes and labels, (groups,) each."""

    def __init__(self, sizes: NDArray[np.int64], labels: NDArray[np.uint64]) -> None:
        self.sizes, self.labels = sizes, labels

    def take(self, order: NDArray[np.int64], want: int) -> list[int]:
        """The first groups that together have `want` rows; those that are too large are passed over.

        When all are too large the smallest is taken, if half of the rows stay. One group at least is left.
        """
        import numpy as np

        if len(order) < 2:
            return []
        taken: list[int] = []
        names, inverse = np.unique(self.labels[order], return_inverse=True)
        quotas = self._quotas(order, inverse, len(names), want)
        for label, quota in enumerate(quotas):
            mine = order[inverse == label]
            keep = 1 if len(mine) < len(order) else 0  # of each label something stays for training
            taken += self._first(mine, quota, max(0, len(mine) - max(keep, 1)))
        count = int(self.sizes[taken].sum()) if taken else 0
        if count < want and len(names) > 1:
            rest = order[~np.isin(order, taken)]
            taken += self._first(rest, want - count, max(0, len(order) - len(taken) - 1))
        if not taken:
            smallest = order[np.argmin(self.sizes[order])]
            if self.sizes[smallest] * 2 <= self.sizes[order].sum():
                taken.append(int(smallest))
        return taken

    def _first(self, order: NDArray[np.int64], want: int, most: int) -> list[int]:
        taken: list[int] = []
        count = 0
        for group in order[self.sizes[order] <= want].tolist():
            if count == want or len(taken) == most:
                break
            if count + self.sizes[group] <= want:
                taken.append(group)
                count += int(self.sizes[group])
        return taken

    def _quotas(self, order: NDArray[np.int64], inverse: NDArray[np.int64], names: int, want: int) -> list[int]:
        """Rows that each label gives: in proportion, one at least where it has several groups and there is room."""
        import numpy as np

        rows = np.bincount(inverse, weights=self.sizes[order], minlength=names)
        share = rows * want / rows.sum()
        quota = np.floor(share).astype(np.int64)
        if names <= want:
            quota = np.maximum(quota, (np.bincount(inverse, minlength=names) >= RARE).astype(np.int64))
        left = want - int(quota.sum())
        for label in np.argsort(quota - share, kind="stable")[: max(0, left)]:
            quota[label] += 1
        while quota.sum() > want:
            quota[np.argmax(quota)] -= 1
        return [int(q) for q in quota]


def _divide_rows(
    out: NDArray[np.uint8], hashes: NDArray[np.uint64], keys: NDArray[np.uint64], want: Mapping[int, int]
) -> None:
    """Fills an empty test, then an empty validation, with single rows of train: alike rows are better than none."""
    import numpy as np

    for part in (TEST, VALIDATION):
        if part in want and not (out == part).any():
            train = np.flatnonzero(out == TRAIN)
            train = train[np.lexsort((train, keys[train], hashes[train]))]
            count = min(want[part], len(train) - 1)
            if count > 0:
                out[train[:count] if part == TEST else train[-count:]] = part


def explain(findings: Findings, counts: Mapping[str, int], want: int, *, by_rows: bool = False) -> None:
    """Says what small numbers mean for the scores."""
    rows = sum(counts.values())
    told: dict[str, Any] = dict(counts)
    if by_rows:
        findings.add("split_by_rows", "warn", rows=rows)
    if rows < VERY_FEW:
        findings.add("too_few_rows", "warn", rows=rows, **told)
    elif rows < FEW:
        findings.add("few_rows", "warn", rows=rows, **told)
    elif min(counts["test"], counts["validation"]) * 2 < want:
        findings.add("near_duplicates_everywhere", "warn", rows=rows, want=want, **told)
    if not counts["validation"]:
        findings.add("no_validation", "warn", rows=rows, **told)
