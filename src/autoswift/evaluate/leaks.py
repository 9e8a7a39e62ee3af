"""Rows of the test set that the training set nearly holds: a score on them would be one of memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoswift.understand import near
from autoswift.understand.text import same_key

EXAMPLES = 5
"""Pairs that are shown."""
SERIOUS = 0.02
"""Share of leaked rows from which the score itself is in doubt: 2 rows in 100 move a mean by 2 points at most."""

Row = Mapping[str, Any]


def text_of(row: Row) -> str:
    """What a row says without its system message, which many rows share."""
    return "\n".join(str(m.get("content") or "") for m in row["messages"] if m.get("role") != "system")


def find_leaks(test: Sequence[Row], train: Sequence[Row]) -> dict[str, Any]:
    """Test rows with a near-duplicate in train (MinHash candidates, then the exact Jaccard similarity of shingles).

    Returns:
        rows (looked at), leaked (how many), share, serious, indices, examples [{test, train, similarity}].
    """
    import numpy as np

    texts = [text_of(row) for row in (*test, *train)]
    pairs: dict[int, tuple[int, float]] = {}
    if test and train:
        marks = near.signatures([same_key(t) for t in texts])
        asked, others = np.arange(len(test)), np.arange(len(test), len(texts))
        left, right = near.sharing(marks, asked, others, near.LINK)
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            if a >= len(test) or b < len(test):
                continue
            alike = 1.0 if texts[a] == texts[b] else near.similarity(texts[a], texts[b])
            if alike >= near.THRESHOLD and alike > pairs.get(a, (0, 0.0))[1]:
                pairs[a] = (b - len(test), alike)
    shown = sorted(pairs, key=lambda a: (-pairs[a][1], a))[:EXAMPLES]
    share = len(pairs) / len(test) if test else 0.0
    return {
        "rows": len(test),
        "leaked": len(pairs),
        "share": share,
        "serious": share > SERIOUS,
        "indices": sorted(pairs),
        "examples": [
            {
                "test": texts[a][:400],
                "train": texts[pairs[a][0] + len(test)][:400],
                "row": pairs[a][0],
                "similarity": pairs[a][1],
            }
            for a in shown
        ],
    }


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's data file; empty where there is none."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
