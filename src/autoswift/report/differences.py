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
    """The pieces of both texts; put together they are the texts.

    What only one text has at an end where the other was cut is no difference: it may well go on in the same way.
    """
    if len(before) > MOST or len(after) > MOST:
        return (Piece(before),), (Piece(after),)
    one, two = _Excerpt(before), _Excerpt(after)
    steps = SequenceMatcher(a=one.parts, b=two.parts, autojunk=False).get_opcodes()
    left, right = one.opening(), two.opening()
    for number, (kind, a, b, c, d) in enumerate(steps):
        same = kind == "equal" or (
            len(steps) > 1
            and (
                (number == 0 and _beyond(kind, one.cut_before, two.cut_before))
                or (number == len(steps) - 1 and _beyond(kind, one.cut_behind, two.cut_behind))
            )
        )
        _add(left, "".join(one.parts[a:b]), "same" if same else "out")
        _add(right, "".join(two.parts[c:d]), "same" if same else "in")
    _add(left, CUT if one.cut_behind else "", "same")
    _add(right, CUT if two.cut_behind else "", "same")
    return tuple(left), tuple(right)


class _Excerpt:
    """A text that may have been cut from a longer one."""

    def __init__(self, text: str) -> None:
        self.cut_before = text.startswith(CUT)
        self.cut_behind = len(text) > 1 and text.endswith(CUT)
        inner = text[len(CUT) if self.cut_before else 0 : len(text) - len(CUT) if self.cut_behind else None]
        self.parts = _PIECE.findall(inner)

    def opening(self) -> list[Piece]:
        return [Piece(CUT)] if self.cut_before else []


def _beyond(kind: str, old_cut: bool, new_cut: bool) -> bool:
    """Whether a difference at an end may lie beyond the other text's cut."""
    return (kind == "delete" and new_cut) or (kind == "insert" and old_cut) or (kind == "replace" and old_cut | new_cut)


def _add(pieces: list[Piece], text: str, kind: Literal["same", "out", "in"]) -> None:
    if not text:
        return
    if pieces and pieces[-1].kind == kind:
        text = pieces.pop().text + text
    pieces.append(Piece(text, kind))
