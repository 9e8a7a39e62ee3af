"""Characters by kind, for whole batches of texts at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OTHER, DIGIT, LATIN, HAN, KANA, HANGUL, LETTER = range(7)
"""Kinds: neither letter nor digit; digit; Latin letter; Chinese, Japanese, Korean; letter of another script."""
_RANGES = (
    (HAN, 0x3400, 0x4DBF),
    (HAN, 0x4E00, 0x9FFF),
    (HAN, 0xF900, 0xFAFF),
    (KANA, 0x3041, 0x30FF),
    (KANA, 0x31F0, 0x31FF),
    (HANGUL, 0x1100, 0x11FF),
    (HANGUL, 0xAC00, 0xD7AF),
    (LATIN, 0x41, 0x5A),
    (LATIN, 0x61, 0x7A),
    (LATIN, 0xC0, 0x24F),
)
_BEYOND = 0xFFFF
"""Stands for all characters above the first plane: rare Chinese ones and emoji, which a text consists of, too."""


@cache
def _kinds() -> NDArray[np.uint8]:
    """The kind of each character of Unicode's first plane."""
    import unicodedata

    import numpy as np

    kinds = np.full(_BEYOND + 1, OTHER, dtype=np.uint8)
    for code in range(_BEYOND):
        category = unicodedata.category(chr(code))
        if category[0] in "LM":
            kinds[code] = LETTER
        elif category[0] == "N":
            kinds[code] = DIGIT
    for kind, low, high in _RANGES:
        part = kinds[low : high + 1]
        part[part != OTHER] = kind
    kinds[_BEYOND] = LETTER
    return kinds


@dataclass(frozen=True, slots=True)
class Codes:
    """Texts as one array of code points.

    Attributes:
        codes: of all texts, one after the other: (characters,). kinds: of each.
        starts: where each text begins: (texts,). sizes: characters of each.
    """

    codes: NDArray[np.uint32]
    kinds: NDArray[np.uint8]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def count(self, *kinds: int) -> NDArray[np.int64]:
        """Characters of some kinds in each text: (texts,)."""
        import numpy as np

        hit = np.zeros(8, dtype=np.int64)
        hit[list(kinds)] = 1
        running = np.concatenate([[0], np.cumsum(hit[self.kinds])])
        return np.asarray(running[self.starts + self.sizes] - running[self.starts])


def codes_of(texts: Sequence[str]) -> Codes:
    """The texts' characters with their kinds."""
    import numpy as np

    sizes = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    kinds = _kinds()[np.minimum(codes, _BEYOND)]
    return Codes(codes, kinds, np.cumsum(sizes) - sizes, sizes)
