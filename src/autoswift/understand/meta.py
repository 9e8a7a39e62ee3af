"""What is kept in memory of each row: numbers and digests, some hundred bytes."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from autoswift.understand.characters import HAN, HANGUL, KANA, LATIN, LETTER, Codes
from autoswift.understand.redact import WORDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FLAGS = (
    "pii",
    *(f"pii_{kind}" for kind in WORDS),
    "prompt_injection",
    "too_long_rows",
    "label_leak",
    "csv_formula_injection",
    "path_traversal",
    "degenerate_answers",
    *(f"degenerate_{kind}" for kind in ("repeated", "looping", "wordless", "same_as_question")),
)
"""Marks that a row has by itself, in the order of their bits."""
MASKED = tuple(WORDS)
CJK_TOKENS, OTHER_TOKENS = 0.8, 0.3
"""Tokens a character where no tokenizer is at hand: a little above what current vocabularies need."""
_STOPS = "。！？!?\n"
_SENTENCE = re.compile(r"[。！？!?\n]+|\.\s")
HEAD = 8
"""Characters from which on the first or last sentence of an answer may be boilerplate: "您好！" is manners."""


@cache
def dtype() -> np.dtype[np.void]:
    """What is kept of a row in memory: some hundred bytes."""
    import numpy as np

    digests = ("key", "key2", "prompt", "says", "label", "session")
    counts = ("head", "tail", "short", "size", "chars", "cjk", "seen", "tokens", "row", "flags")
    more = [
        ("line", "<i8"),
        ("file", "<u4"),
        ("turns", "<u4"),
        ("answers", "<u4"),
        ("tools", "<u4"),
        ("tidied", "<u2"),
        ("masked", "<u2"),
    ]
    kinds = [("reason", "u1"), ("part", "u1"), ("script", "u1"), ("system", "u1")]
    return np.dtype([*((n, "<u8") for n in digests), *((n, "<u4") for n in counts), *more, *kinds])


def digest(text: str) -> int:
    """64 bits of a text, never 0."""
    import hashlib

    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little") or 1


def ends(text: str) -> tuple[str, str]:
    """The first and the last sentence of a text, where they are long enough and not all of it."""
    first = _SENTENCE.search(text)
    if first is None or first.end() >= len(text):
        return "", ""
    body = text.rstrip(_STOPS)
    head, tail = text[: first.end()].strip(), text[max(map(body.rfind, _STOPS)) + 1 :].strip()
    return head if len(head) >= HEAD else "", tail if len(tail) >= HEAD else ""


def leaves(path: str) -> bool:
    """Whether the path of a picture leads out of the data's folder."""
    return path.startswith(("/", "~")) or ".." in path.replace("\\", "/").split("/")


def tokens(codes: Codes, characters: NDArray[np.int64]) -> NDArray[np.int64]:
    """Estimated tokens of texts of so many characters, of which `codes` has the kinds: (texts,)."""
    import numpy as np

    cjk = codes.count(HAN, KANA, HANGUL)
    estimate = cjk * CJK_TOKENS + np.maximum(characters - cjk, 0) * OTHER_TOKENS
    return np.asarray(np.ceil(estimate).astype(np.int64))


SCRIPTS = ("", "zh", "latin", "ja", "ko", "other", "mixed")
"""What a row is written in, as far as its letters say."""
LETTERS_LEAST = 12
"""Letters from which on a row is in a language: below it is a name, a number, a greeting."""
WORD, HAN_PER_WORD = 5, 1.7
"""Letters of a Latin word, and Chinese characters that say as much (as in `language`)."""
LOW, HIGH = 0.35, 0.8
"""Share of Latin words between which a row is in both."""


def scripts(codes: Codes) -> NDArray[np.uint8]:
    """The script of each text, as an index of `SCRIPTS`: (texts,)."""
    import numpy as np

    han, kana, hangul, latin, other = (codes.count(kind) for kind in (HAN, KANA, HANGUL, LATIN, LETTER))
    share = (latin / WORD) / np.maximum(latin / WORD + han / HAN_PER_WORD, 1e-9)
    found = np.where(share < LOW, 1, np.where(share > HIGH, 2, 6))
    found[other > latin + han] = 5
    found[hangul > han + latin] = 4
    found[(kana > 0.15 * (han + kana)) & (kana + han > latin)] = 3
    found[han + kana + hangul + latin + other < LETTERS_LEAST] = 0
    return found.astype(np.uint8)
