"""Near-duplicates: rows that are nearly the same text are found so that they stay in one split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoswift.understand.clean import same_key

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GRAM = 5
"""Characters of a shingle: shorter ones are shared by unrelated texts, longer ones miss a changed word in Chinese."""
THRESHOLD = 0.7
"""Jaccard similarity from which two rows count as one text: one word exchanged in a row of fifty characters takes
6 of 46 shingles, which leaves 40 / 52 = 0.77; two exchanged words (34 / 58 = 0.59) make it another example."""
PERMUTATIONS = 128
"""The estimate's error is sqrt(0.7 x 0.3 / 128) = 0.04."""
BANDS = 32
"""32 bands of 4: a pair at 0.7 meets in some band with probability 1 - (1 - 0.7^4)^32 = 0.9998."""
NEIGHBOURS = 4
"""Members of a bucket that each row is compared with. Comparing all pairs is quadratic where rows come from one
template; its rows are tied together one to the next."""
LONGEST = 20_000
"""Characters of a row that are hashed: two rows that agree so far are alike."""


def groups(texts: Sequence[str]) -> list[int]:
    """For each text the number of its group: the index of the group's first text.

    MinHash (datasketch) over character 5-grams, then banding. datasketch's own index returns whole buckets, which is
    quadratic on data made from templates, so the buckets are sorted and compared here.
    """
    parent = list(range(len(texts)))
    if len(texts) < 2:
        return parent
    import numpy as np

    marks = _signatures(texts)
    rows = PERMUTATIONS // BANDS
    for band in range(BANDS):
        keys = np.ascontiguousarray(marks[:, band * rows : (band + 1) * rows])
        order = np.lexsort(keys.T)
        same = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
        bucket = np.concatenate([[0], np.cumsum(~same)])
        for lag in range(1, NEIGHBOURS + 1):
            left, right = order[:-lag][bucket[lag:] == bucket[:-lag]], order[lag:][bucket[lag:] == bucket[:-lag]]
            for a, b in _alike(marks, left, right):
                _unite(parent, a, b)
    return [_root(parent, i) for i in range(len(texts))]


def _alike(marks: NDArray[np.uint64], left: NDArray[np.int64], right: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The pairs whose estimated similarity reaches the threshold; in chunks, so that memory stays bounded."""
    found: list[tuple[int, int]] = []
    for at in range(0, len(left), 20_000):  # 20,000 x 128 comparisons: 2.5 MB
        a, b = left[at : at + 20_000], right[at : at + 20_000]
        close = (marks[a] == marks[b]).mean(axis=1) >= THRESHOLD
        found += zip(a[close].tolist(), b[close].tolist(), strict=True)
    return found


def _signatures(texts: Sequence[str]) -> NDArray[np.uint64]:
    """MinHash signatures, one row a text: (texts, PERMUTATIONS)."""
    import numpy as np
    from datasketch import MinHash

    empty = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=int)  # shingles come hashed
    out = np.empty((len(texts), PERMUTATIONS), dtype=np.uint64)
    for i, text in enumerate(texts):
        one = empty.copy()
        one.update_batch(shingles(text))
        out[i] = one.hashvalues
    return out


def shingles(text: str) -> list[int]:
    """The 5-grams of a text, hashed to 32 bits; white space, width and case do not count, repeats do no harm."""
    import numpy as np

    plain = re.sub(r"\s+", "", same_key(text))[:LONGEST].ljust(GRAM)
    codes = np.frombuffer(plain.encode("utf-32-le", "replace"), dtype=np.uint32).astype(np.uint64)
    mixed = np.zeros(len(codes) - GRAM + 1, dtype=np.uint64)
    for k in range(GRAM):  # a polynomial hash; the multiplier is Knuth's 2^64 / golden ratio
        mixed = (mixed + codes[k : len(codes) - GRAM + 1 + k]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    hashed: list[int] = (mixed >> np.uint64(32)).tolist()
    return hashed


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def _unite(parent: list[int], a: int, b: int) -> None:
    a, b = _root(parent, a), _root(parent, b)
    if a != b:
        parent[max(a, b)] = min(a, b)


def join(first: Sequence[int], keys: Sequence[object], largest: int) -> list[int]:
    """Groups joined where rows share a key; a key of more than `largest` rows (a fixed instruction) joins none."""
    parent = list(range(len(first)))
    for i, g in enumerate(first):
        _unite(parent, i, g)
    members: dict[object, list[int]] = {}
    for i, key in enumerate(keys):
        members.setdefault(key, []).append(i)
    for rows in members.values():
        if 1 < len(rows) <= largest:
            for i in rows[1:]:
                _unite(parent, rows[0], i)
    return [_root(parent, i) for i in range(len(first))]
