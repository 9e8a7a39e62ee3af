"""The second pass, on arrays: which rows are said twice, which belong together, which are for the test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoswift.errors import DataError
from autoswift.tables import text as say
from autoswift.understand import near
from autoswift.understand.batch import EXAMPLES
from autoswift.understand.clean import REASONS
from autoswift.understand.problems import Findings
from autoswift.understand.split import NAMES, TEST, TRAIN, VALIDATION, Rows, divide, explain, size_of
from autoswift.understand.spool import Spool

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SAME_PROMPT = 0.05
"""Rows with one and the same prompt stay together unless they are more than this share: then it is a fixed
instruction, and keeping it together would leave nothing to divide."""
SAME_SESSION = 0.5
"""A session of more than half of the rows is no session but a column that says the same everywhere."""
OVERLAP_MOST = 0.1
"""Share of a user's own test rows that train may have, too. They are taken out of train; above a tenth the set was
drawn from the same export, and a score on it would be one of memory."""
LEAK_ROUNDS = 10
"""Rounds in which a row of the test that train nearly has is tied to it, and all divided anew; one is the rule."""
DUPLICATE, NEAR, OVERLAP = (REASONS.index(r) + 1 for r in ("duplicate", "near_duplicate", "test_overlap"))
SETS = {VALIDATION: "validation", TEST: "test"}


@dataclass(slots=True)
class Settled:
    """What became of each row.

    Attributes:
        reason: 0 kept, else the number of a reason in `clean.REASONS` plus one: (rows,).
        split: TRAIN, VALIDATION or TEST, for rows kept: (rows,).
        same: for a duplicate the row that it repeats, else -1: (rows,).
        together: rows kept that have a near-duplicate beside them, the first of each group not counted.
        near: as in `DataProfile.near`. own: as in `DataProfile.own_sets`.
    """

    reason: NDArray[np.uint8]
    split: NDArray[np.uint8]
    same: NDArray[np.int64]
    together: NDArray[np.int64]
    near: dict[str, int] = field(default_factory=dict)
    own: dict[str, int] = field(default_factory=dict)


def drop_duplicates(spool: Spool) -> Settled:
    """Marks rows that repeat an earlier one of their part: equal in all but width, case and white space."""
    import numpy as np

    meta = spool.meta
    reason, part = np.array(meta["reason"]), np.array(meta["part"])
    if not (part == TRAIN).any():  # a folder of nothing but test files: they are all that there is
        part[:] = TRAIN
    same = np.full(len(meta), -1, dtype=np.int64)
    kept = np.flatnonzero(reason == 0)
    order = kept[np.lexsort((kept, meta["key2"][kept], meta["key"][kept], part[kept]))]
    if len(order):
        here = (meta["key"][order], meta["key2"][order], part[order])
        first = np.concatenate([[True], ~np.all([x[1:] == x[:-1] for x in here], axis=0)])
        leader = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]
        reason[order[~first]] = DUPLICATE
        same[order[~first]] = leader[~first]
    return Settled(reason, part, same, np.empty(0, dtype=np.int64))


def settle(spool: Spool, settled: Settled, seed: int, findings: Findings) -> None:
    """Groups near-duplicates, takes what a user's own sets hold out of train, and divides the rest.

    Raises:
        DataError: single_row, test_overlap.
    """
    import numpy as np

    meta = spool.meta
    rows = _kept(settled, TRAIN)
    labels = near.Labels(len(rows))
    if len(rows) > 1:
        twins = near.link(spool.marks, rows, labels, np.array(meta["says"][rows]))
        again = twins.label != np.arange(len(rows))
        settled.reason[rows[again]] = NEAR
        settled.same[rows[again]] = rows[twins.label[again]]
        rows, labels = rows[~again], labels.subset(~again)
    own = [part for part in SETS if (_kept(settled, part)).size]
    if own:
        apart = _own_sets(spool, settled, rows, own, findings)
        rows, labels = rows[apart], labels.subset(apart)
    if len(rows) < (1 if own else 2):
        raise findings.error("single_row")
    _count_groups(settled, rows, labels)
    labels.by_key(np.array(meta["session"][rows]), int(len(rows) * SAME_SESSION))
    labels.by_key(np.array(meta["prompt"][rows]), max(2, int(len(rows) * SAME_PROMPT)))
    _divide(spool, settled, rows, labels, seed, findings)


def _kept(settled: Settled, part: int) -> NDArray[np.int64]:
    """The rows kept of a part, ascending."""
    import numpy as np

    return np.flatnonzero((settled.reason == 0) & (settled.split == part))


def _count_groups(settled: Settled, rows: NDArray[np.int64], labels: near.Labels) -> None:
    import numpy as np

    sizes = np.bincount(labels.label, minlength=len(rows))
    many = sizes[sizes > 1]
    if many.size:
        settled.near = {"groups": len(many), "rows": int(many.sum()), "largest": int(many.max())}
        settled.together = rows[labels.label != np.arange(len(rows))]


def _own_sets(
    spool: Spool, settled: Settled, rows: NDArray[np.int64], own: Sequence[int], findings: Findings
) -> NDArray[np.bool_]:
    """Compares a user's own sets with the rows that are to be trained on.

    Returns:
        Which of `rows` may stay.

    Raises:
        DataError: test_overlap, when more than `OVERLAP_MOST` of a set stand in train, too.
    """
    import numpy as np

    stays = np.ones(len(rows), dtype=bool)
    for part in own:
        mine, name = _kept(settled, part), SETS[part]
        overlap, lost = _overlap(spool, mine, rows)
        settled.own |= {name: len(mine), f"overlap_{name}": len(overlap)}
        if len(overlap) > OVERLAP_MOST * len(mine) or lost.all():
            raise _refused(spool, mine, overlap, name, findings)
        stays &= ~lost
    if len(own) == 2:
        held = _kept(settled, VALIDATION)
        _, lost = _overlap(spool, _kept(settled, TEST), held)
        if lost.all():
            raise _refused(spool, held, held, SETS[VALIDATION], findings)
        settled.reason[held[lost]] = OVERLAP
    settled.reason[rows[~stays]] = OVERLAP
    settled.own["removed_from_train"] = int((~stays).sum())
    return stays


def _overlap(
    spool: Spool, mine: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The rows of `mine` that `rows` holds, too, or nearly; and which of `rows` have one of `mine` or its question."""
    import numpy as np

    meta = spool.meta
    left, right = near.sharing(spool.marks, mine, rows, near.LINK)
    keys, prompts = (np.array(meta[name][rows]) for name in ("key", "prompt"))
    equal = np.isin(meta["key"][mine], keys)
    overlap = np.union1d(left, mine[equal])
    _, inverse, counts = np.unique(prompts, return_inverse=True, return_counts=True)
    asked = (prompts != 0) & (counts[inverse] <= max(2, int(len(rows) * SAME_PROMPT)))
    lost = np.isin(rows, right) | np.isin(keys, meta["key"][mine]) | (asked & np.isin(prompts, meta["prompt"][mine]))
    return overlap, lost


def _refused(
    spool: Spool, mine: NDArray[np.int64], overlap: NDArray[np.int64], name: str, findings: Findings
) -> DataError:
    """The error for a set that train has, too, with the first rows that it has."""
    meta = spool.meta
    lines = [str(int(meta["line"][i]) if meta["line"][i] > 0 else int(meta["row"][i])) for i in overlap[:EXAMPLES]]
    return findings.error(
        "test_overlap",
        where=spool.place(int(overlap[0])) if len(overlap) else None,
        name=say(f"data.kind.{name}", findings.language),
        overlap=len(overlap),
        total=len(mine),
        share=f"{100 * len(overlap) / len(mine):.1f}",
        limit=f"{100 * OVERLAP_MOST:.0f}",
        lines=", ".join(lines),
    )


def _divide(
    spool: Spool, settled: Settled, rows: NDArray[np.int64], labels: near.Labels, seed: int, findings: Findings
) -> None:
    """Divides rows by group; a held-back row that train nearly has, missed until now, is tied to it first."""
    import numpy as np

    meta = spool.meta
    want = size_of(len(rows))
    wanted = {part: want for part in SETS if SETS[part] not in settled.own}
    keys, marks = np.array(meta["key"][rows]), np.array(meta["label"][rows])
    by_rows = False
    for _ in range(LEAK_ROUNDS):
        if len(rows) < 2 or not wanted:
            break
        split, by_rows = divide(Rows(keys, labels.label, marks), seed, wanted)
        settled.split[rows] = split
        if by_rows:
            break
        left, right = near.sharing(spool.marks, rows[split != TRAIN], rows, near.LINK)
        leaks = settled.split[left] != settled.split[right]
        if not leaks.any():
            break
        labels.unite(np.searchsorted(rows, left[leaks]), np.searchsorted(rows, right[leaks]))
    counts = {name: int(_kept(settled, i).size) for i, name in enumerate(NAMES)}
    explain(findings, counts, want if wanted else 0, by_rows=by_rows)
