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
class Evidence:
    """One fact that a reason rests on.

    Attributes:
        text: in words. fact, value: the same as data, where it is a figure.
    """

    text: str
    fact: str = ""
    value: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """The nearest change of one fact that turns a decision around. It was found by planning with the fact changed.

    Attributes:
        fact: its place among the plan's inputs, as `autoswift plan --assume FACT=VALUE` takes it.
        op: "<=" or ">=": the decision is another one from `value` on in that direction; "==": at that word.
        value: the first value at which it is.
        becomes: what is decided there.
        text: the same in words.
    """

    fact: str
    op: Literal["<=", ">=", "=="]
    value: Any
    becomes: Any
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """ONE automatic choice.

    Attributes:
        name: the setting that it fixes, in the field's standard term.
        value: what was chosen (a JSON value).
        because: the reason, one or two sentences.
        evidence: the facts and numbers that the reason rests on.
        alternatives: what else was possible, each with why not.
        levers: facts that may turn it around, the likeliest first.
        reverse_when: the nearest change of one of them that does; None where none within reason does.
        source: where the choice comes from.
    """

    name: str
    value: Any
    because: str
    evidence: tuple[Evidence, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    levers: tuple[str, ...] = ()
    reverse_when: Condition | None = None
    source: Source = "rule"
