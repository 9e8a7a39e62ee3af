"""Kinds of test rows: by label, subject, language, turns and length, so that a mean hides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autoswift.evaluate.behaviour import script
from autoswift.evaluate.labels import normal_label

LEAST_ROWS = 4
"""Rows of a category that is shown: the mean of fewer is an anecdote."""
LEAST_INTERVAL = 8
"""Rows of a category from which its difference has an interval."""
MOST_NAMES = 12
"""Categories of one sort: more are no overview, and by chance alone one of twenty would stand out."""

Row = dict[str, Any]


def categories_of(rows: Sequence[Row], references: Sequence[str], metric: str) -> dict[tuple[str, str], list[int]]:
    """(sort, name) to the indices of its rows; a sort in which all rows are alike is left out.

    Sorts: label (classification), domain (where the rows name one), language (of the question), turns (one, several),
    length (of the reference: the shortest, middle and longest third).
    """
    sorts: dict[str, list[str]] = {}
    if metric == "macro_f1":
        sorts["label"] = [normal_label(r) for r in references]
    if any(row.get("domain") for row in rows):
        sorts["domain"] = [str(row.get("domain") or "") for row in rows]
    sorts["language"] = [script(_asked(row)) for row in rows]
    sorts["turns"] = ["one" if _turns(row) <= 1 else "several" for row in rows]
    sorts["length"] = _thirds([len(r) for r in references])
    found: dict[tuple[str, str], list[int]] = {}
    for sort, names in sorts.items():
        if len(set(names)) < 2:
            continue
        groups: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            if name:
                groups.setdefault(name, []).append(i)
        kept = sorted((g for g in groups.items() if len(g[1]) >= LEAST_ROWS), key=lambda g: (-len(g[1]), g[0]))
        found |= {(sort, name): indices for name, indices in kept[:MOST_NAMES]}
    return found


def _asked(row: Row) -> str:
    return next((str(m["content"]) for m in reversed(row["messages"]) if m["role"] == "user"), "")


def _turns(row: Row) -> int:
    return sum(m["role"] == "user" for m in row["messages"])


def _thirds(lengths: Sequence[int]) -> list[str]:
    if len(set(lengths)) < 3:
        return [""] * len(lengths)
    order = sorted(lengths)
    low, high = order[len(order) // 3], order[2 * len(order) // 3]
    return ["short" if n < low else "long" if n >= high else "middle" for n in lengths]
