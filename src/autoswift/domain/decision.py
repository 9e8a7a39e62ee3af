"""One automatic choice, with everything that explains it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Source = Literal["rule", "formula", "measurement", "knowledge", "user"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """What could have been chosen instead, and why it was not."""

    value: Any
    why_not: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """ONE automatic choice.

    Attributes:
        name: the setting that it fixes, in the field's standard term.
        value: what was chosen (a JSON value).
        because: the reason, one or two sentences.
        evidence: the facts and numbers that the reason rests on.
        alternatives: what else was possible, each with why not.
        reverse_when: the fact that would turn it around.
        source: where the choice comes from.
    """

    name: str
    value: Any
    because: str
    evidence: tuple[str, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    reverse_when: str = ""
    source: Source = "rule"
