"""What changed between two short texts, in pieces that can be drawn."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

_PIECE = re.compile(r"[A-Za-z0-9_]+|\s+|.", re.DOTALL)
"""A Latin word, white space, or one character: a Chinese character stands for itself, as a reader compares them."""
CUT = "…"
"""Begins or ends an excerpt of a longer text: what stands beside it differs only because it was cut elsewhere."""
MOST = 2000
"""Characters compared: examples are far shorter; longer texts are shown whole, without marks."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text: the same in both, taken out (only before), or put in (only after)."""

    text: str
    kind: Literal["same", "out", "in"] = "same"


def differences(before: str, after: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """The pieces of both texts; put together they are the texts."""
    if len(before) > MOST or len(after) > MOST:
        return (Piece(before),), (Piece(after),)
    old, new = _PIECE.findall(before), _PIECE.findall(after)
    steps = SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes()
    left: list[Piece] = []
    right: list[Piece] = []
    for number, (kind, a, b, c, d) in enumerate(steps):
        cut = (number == 0 and _cut(before, after, 0)) or (number == len(steps) - 1 and _cut(before, after, -1))
        same = kind == "equal" or (cut and len(steps) > 1)
        _add(left, "".join(old[a:b]), "same" if same else "out")
        _add(right, "".join(new[c:d]), "same" if same else "in")
    return tuple(left), tuple(right)


def _cut(before: str, after: str, end: int) -> bool:
    return any(text[end:][:1] == CUT for text in (before, after))


def _add(pieces: list[Piece], text: str, kind: Literal["same", "out", "in"]) -> None:
    if not text:
        return
    if pieces and pieces[-1].kind == kind:
        text = pieces.pop().text + text
    pieces.append(Piece(text, kind))
