"""Near-duplicates: rows that are nearly the same text are found so that they stay in one split.

MinHash over character shingles, one byte kept of each minimum: 128 bytes a row. Four bytes make a band; rows that
share a band are compared. All of it on sorted arrays: an index of dictionaries needs some kilobytes a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from autoswift.understand.characters import HAN, HANGUL, KANA, OTHER, codes_of
from autoswift.understand.text import same_key

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GRAM, CJK_GRAM = 5, 3
"""Characters of a shingle, by the character that it begins with. Shorter ones are shared by unrelated texts, longer
ones miss a changed word: five Latin letters are a word, as are two Chinese characters."""
THRESHOLD = 0.7
"""Jaccard similarity from which two rows count as one text: one word exchanged in a row of fifty characters takes
4 of 48 Chinese shingles (44 / 52 = 0.85) and 9 of 46 Latin ones (37 / 55 = 0.67, another example)."""
PERMUTATIONS = 128
"""The estimate's error is sqrt(0.7 x 0.3 / 128) = 0.04."""
LINK = THRESHOLD - 0.04
"""Estimate from which rows are tied together: one error below, so that few pairs at the threshold are missed."""
TWIN = 0.95
"""Estimate from which a row with the same answer and the same numbers says nothing new: one character in 120."""
BANDS = 32
"""32 bands of 4: a pair at 0.7 meets in some band with probability 1 - (1 - 0.7^4)^32 = 0.9998."""
NEIGHBOURS = 4
"""Members of a bucket that each row is compared with, beside the bucket's first. Comparing all pairs is quadratic
where rows come from one template; its rows are tied together one to the next."""
LONGEST = 20_000
"""Characters of a row that are hashed: two rows that agree so far are alike."""
REACH = 1000
"""Rows of a bucket on either side that a row is compared with when all its pairs are wanted."""
BLOCK = 100_000
"""Characters that are hashed at a time: their hashes (400 kB) stay in the processor's cache."""
PAIRS = 20_000
"""Pairs compared at a time: 20,000 x 128 bytes are 2.5 MB."""
CHANCE = 1 / 256
"""Of two unlike minima to have the same byte."""


def groups(texts: Sequence[str]) -> list[int]:
    """For each text the number of its group: the index of the group's first text."""
    import numpy as np

    if len(texts) < 2:
        return list(range(len(texts)))
    labels = Labels(len(texts))
    link(signatures([same_key(t) for t in texts]), np.arange(len(texts)), labels)
    found: list[int] = labels.label.tolist()
    return found


def signatures(keys: Sequence[str]) -> NDArray[np.uint8]:
    """MinHash signatures of texts (after `same_key`): (texts, PERMUTATIONS), one byte a minimum."""
    import numpy as np

    out = np.empty((len(keys), PERMUTATIONS), dtype=np.uint8)
    begin, size = 0, 0
    cut = [k if len(k) <= LONGEST else k[:LONGEST] for k in keys]
    for i, key in enumerate(cut):
        size += len(key)
        if size >= BLOCK or i == len(cut) - 1:
            out[begin : i + 1] = _block(cut[begin : i + 1])
            begin, size = i + 1, 0
    return out


@cache
def _multipliers() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Factors (odd) and summands of the permutations."""
    import numpy as np

    random = np.random.Generator(np.random.PCG64(1))
    drawn = random.integers(0, 2**32, (2, PERMUTATIONS), dtype=np.uint32)
    return drawn[0] | np.uint32(1), drawn[1]


def _block(keys: Sequence[str]) -> NDArray[np.uint8]:
    import numpy as np

    hashes, starts = _hashes(keys)
    factor, summand = _multipliers()
    least = np.empty((PERMUTATIONS, len(keys)), dtype=np.uint32)
    mixed = np.empty_like(hashes)
    for j in range(PERMUTATIONS):
        np.multiply(hashes, factor[j], out=mixed)
        np.add(mixed, summand[j], out=mixed)
        np.minimum.reduceat(mixed, starts, out=least[j])
    # Minima have nothing but zeros at the top: the product (by the golden ratio) brings their lower bits there.
    return np.asarray(((least * np.uint32(0x9E3779B1)) >> np.uint32(24)).astype(np.uint8).T)


def _hashes(keys: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The shingles of all texts as hashes, and where each text's begin.

    Letters and digits only count; a text without any is taken as it is, an empty one as a single blank.
    """
    import numpy as np

    texts = codes_of([k or " " for k in keys])
    inside = texts.kinds != OTHER
    owner = np.repeat(np.arange(len(keys)), texts.sizes)
    wordless = np.bincount(owner[inside], minlength=len(keys)) == 0
    inside |= wordless[owner]
    codes, kinds, owner = texts.codes[inside], texts.kinds[inside], owner[inside]
    sizes = np.bincount(owner, minlength=len(keys))
    ends = np.cumsum(sizes)
    cjk = (kinds == HAN) | (kinds == KANA) | (kinds == HANGUL)
    gram = np.where(cjk, CJK_GRAM, GRAM)
    padded = np.concatenate([codes, np.zeros(GRAM - 1, dtype=np.uint32)])
    longer = np.zeros(len(codes), dtype=np.uint32)
    shorter = longer
    for k in range(GRAM):  # a polynomial hash; the multiplier is Knuth's 2^32 / golden ratio
        longer = (longer + padded[k : len(codes) + k]) * np.uint32(0x9E3779B1)
        shorter = longer if k == CJK_GRAM - 1 else shorter
    mixed = np.where(cjk, shorter, longer)
    for shift, by in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):  # murmur3's last step
        mixed = (mixed ^ (mixed >> np.uint32(shift))) * np.uint32(by)
    whole = np.arange(len(codes)) + gram <= ends[owner]
    first = ends - sizes
    whole[first] = True  # a text shorter than a shingle is one (with what follows it) ...
    short = first[sizes < gram[first]]
    mixed[short] = [_short(codes[a:b]) for a, b in zip(short, ends[owner[short]], strict=True)]  # ... without that
    counts = np.bincount(owner[whole], minlength=len(keys))
    return mixed[whole], np.cumsum(counts) - counts


def _short(codes: NDArray[np.uint32]) -> int:
    import zlib

    return zlib.crc32(codes.tobytes())


def shingles(text: str) -> set[int]:
    """The shingles of one text as hashes."""
    return set(_hashes([same_key(text)[:LONGEST]])[0].tolist())


def similarity(a: str, b: str) -> float:
    """Jaccard similarity of two texts' shingles, exactly."""
    left, right = shingles(a), shingles(b)
    return len(left & right) / len(left | right)


def estimates(marks: NDArray[np.uint8], a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
    """Estimated similarities of pairs of rows of `marks`; in chunks, so that memory stays bounded."""
    import numpy as np

    out = np.empty(len(a))
    for at in range(0, len(a), PAIRS):
        end = at + PAIRS
        out[at:end] = (marks[a[at:end]] == marks[b[at:end]]).mean(axis=1)
    return (out - CHANCE) / (1 - CHANCE)


class Labels:
    """Groups of rows: `label` is the index of each one's first member."""

    def __init__(self, size: int) -> None:
        import numpy as np

        self.label: NDArray[np.int64] = np.arange(size)

    def unite(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        """Joins the groups of each pair."""
        import numpy as np

        while len(a):
            left, right = self.label[a], self.label[b]
            apart = left != right
            if not apart.any():
                return
            a, b, left, right = a[apart], b[apart], left[apart], right[apart]
            np.minimum.at(self.label, np.maximum(left, right), np.minimum(left, right))
            while True:
                next_label = self.label[self.label]
                if (next_label == self.label).all():
                    break
                self.label = next_label

    def subset(self, kept: NDArray[np.bool_]) -> Labels:
        """The groups of some of the rows, numbered among these."""
        import numpy as np

        _, first, inverse = np.unique(self.label[kept], return_index=True, return_inverse=True)
        out = Labels(0)
        out.label = first[inverse]
        return out

    def by_key(self, keys: NDArray[np.uint64], largest: int) -> None:
        """Joins rows that share a key other than 0; a key of more than `largest` rows joins none."""
        import numpy as np

        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        bucket = np.cumsum(first) - 1
        sizes = np.bincount(bucket)
        leader = order[first][bucket]
        joined = (sizes[bucket] > 1) & (sizes[bucket] <= largest) & (ordered != 0)
        self.unite(leader[joined], order[joined])


def link(
    marks: NDArray[np.uint8], rows: NDArray[np.int64], near: Labels, says: NDArray[np.uint64] | None = None
) -> Labels:
    """Joins near-duplicates.

    Args:
        marks: signatures. rows: which of them are looked at.
        near: groups of `rows`, by their place there; pairs from `LINK` on are joined in it.
        says: for each of `rows` what it says beyond its wording (the answer, the numbers).

    Returns:
        Groups of pairs from `TWIN` on that say the same.
    """
    import numpy as np

    twins = Labels(len(rows))
    for a, b in _candidates(marks, rows):
        open_pair = near.label[a] != near.label[b]
        same = (
            (says[a] == says[b]) & (twins.label[a] != twins.label[b]) if says is not None else np.zeros_like(open_pair)
        )
        asked = open_pair | same
        a, b, same = a[asked], b[asked], same[asked]
        alike = estimates(marks, rows[a], rows[b])
        near.unite(a[alike >= LINK], b[alike >= LINK])
        twin = same & (alike >= TWIN)
        twins.unite(a[twin], b[twin])
    return twins


def _candidates(
    marks: NDArray[np.uint8], rows: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of places in `rows` that share a band: each row with its bucket's first and its next neighbours."""
    import numpy as np

    bands = marks.view(np.uint32)
    for band in range(BANDS):
        keys = _two_bands(bands, rows, band)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order] >> np.uint64(32)
        first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        leader = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
        member = np.flatnonzero(~first)
        yield order[leader[member]], order[member]
        for lag in range(1, NEIGHBOURS + 1):
            reach = member[member - lag > leader[member]]  # the bucket's first was met above
            yield order[reach - lag], order[reach]


def sharing(
    marks: NDArray[np.uint8], asked: NDArray[np.int64], others: NDArray[np.int64], least: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of a row of `asked` and one of `others` that share a band and are at least so similar, estimated.

    Returns:
        Indices into `marks`: (pairs,), (pairs,); a pair may stand there more than once, a row beside itself, too.
    """
    import numpy as np

    bands = marks.view(np.uint32)
    left, right = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for band in range(BANDS):
        met = np.zeros(2**16, dtype=bool)  # most rows share no band with those asked for: sorting them is spared
        met[bands[asked, band] & np.uint32(0xFFFF)] = True
        likely = others[met[bands[others, band] & np.uint32(0xFFFF)]]
        keys = _two_bands(bands, likely, band)
        order = np.argsort(keys, kind="stable")
        ordered, wanted = keys[order], _two_bands(bands, asked, band)
        place = np.searchsorted(ordered, wanted)
        bucket = wanted >> np.uint64(32) << np.uint64(32)
        low = np.maximum(np.searchsorted(ordered, bucket), place - REACH)
        high = np.minimum(np.searchsorted(ordered, bucket | np.uint64(0xFFFFFFFF), "right"), place + REACH)
        counts = high - low
        for at in range(0, len(asked), 256):  # 256 x 2 x REACH pairs are 4 MB
            part, many = asked[at : at + 256], counts[at : at + 256]
            a = np.repeat(part, many)
            offset = np.arange(len(a)) - np.repeat(np.cumsum(many) - many, many)
            b = likely[order[np.repeat(low[at : at + 256], many) + offset]]
            alike = estimates(marks, a, b) >= least
            left.append(a[alike])
            right.append(b[alike])
    return np.concatenate(left), np.concatenate(right)


def _two_bands(bands: NDArray[np.uint32], rows: NDArray[np.int64], band: int) -> NDArray[np.uint64]:
    """A band's key with the next band's below it: a bucket sorted so brings those together that share both."""
    import numpy as np

    after = bands[rows, (band + 1) % BANDS].astype(np.uint64)
    return np.asarray((bands[rows, band].astype(np.uint64) << np.uint64(32)) | after)


def join(first: Sequence[int], keys: Sequence[object], largest: int) -> list[int]:
    """Groups joined where rows share a key; a key of more than `largest` rows (a fixed instruction) joins none."""
    import numpy as np

    numbers: dict[object, int] = {}
    coded = np.fromiter((numbers.setdefault(k, len(numbers) + 1) for k in keys), dtype=np.uint64, count=len(keys))
    labels = Labels(len(first))
    labels.unite(np.arange(len(first)), np.asarray(first, dtype=np.int64))
    labels.by_key(coded, largest)
    found: list[int] = labels.label.tolist()
    return found
