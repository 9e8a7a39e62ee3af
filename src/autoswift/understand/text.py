"""One text tidied, and what texts have in common that differ in nothing that matters."""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = re.compile(r"[\x00\u200b\u2060\ufeff\ud800-\udfff]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_SPACES_AT_LINE_END = re.compile(r"[ \t\u00a0\u3000]+(?=\n)")
_BLANK_LINES = re.compile(r"\n{4,}")
EXCERPT = 120
"""Characters of an example: two lines on a terminal."""


def has_surrogates(text: str) -> bool:
    """Whether half a character (of an emoji cut in two) stands in a text."""
    return not text.isascii() and bool(_SURROGATES.search(text))


def tidy(text: str) -> str:
    """A text without invisible characters, spaces at line ends and around it, and piles of blank lines."""
    if ("\x00" in text or not text.isascii()) and _INVISIBLE.search(text):
        text = _INVISIBLE.sub("", text)
    text = text.strip()
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    if "\n" in text:
        text = _BLANK_LINES.sub("\n\n\n", _SPACES_AT_LINE_END.sub("", text))
    return text


_PLAIN = re.compile(r"[^\x00-\x7f\u4e00-\u9fff\uff01-\uff5e\u3000、。《》「」『』【】“”‘’—·]")
"""Any character that Unicode's compatibility form may change beyond width."""
_WIDE = re.compile(r"[\uff01-\uff5e]")
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}


def same_key(text: str) -> str:
    """What two texts have in common when only width, case or white space tell them apart."""
    if text.isascii():
        return " ".join(text.split()).lower()
    if _PLAIN.search(text):
        return " ".join(unicodedata.normalize("NFKC", text).split()).casefold()
    if _WIDE.search(text):  # the common Chinese text: the normal form costs ten times as much
        text = text.translate(_NARROW)
    return " ".join(text.split()).lower()


def excerpt(text: str, around: int = 0) -> str:
    """At most `EXCERPT` characters of a text in one line, those about a place in it."""
    begin = max(0, min(around - EXCERPT // 3, len(text) - EXCERPT))
    part = text[begin : begin + EXCERPT]
    part = ("…" if begin else "") + part + ("…" if begin + EXCERPT < len(text) else "")
    return part.replace("\n", "⏎")


def first_difference(a: str, b: str) -> int:
    """The place from which on two texts differ."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
