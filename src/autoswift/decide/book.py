"""Where decisions are written as the rules make them, the user's own settings first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from autoswift.domain.decision import Alternative, Decision, Evidence, Source
from autoswift.errors import InputError
from autoswift.tables import explain, text

SOURCING = ("data_source", "teacher_rows", "teacher_requests", "teacher_tokens")
"""Settings of the search for data, which is over when the plan is made."""


_supposing: ContextVar[bool] = ContextVar("supposing", default=False)


@contextmanager
def supposing() -> Iterator[None]:
    """Plans made within are only asked what they decide: their words and alternatives are left empty."""
    before = _supposing.set(True)
    try:
        yield
    finally:
        _supposing.reset(before)


class Book:
    """The decisions so far.

    Attributes:
        silent: nobody reads the reasons: what only fills them need not be worked out.

    Args:
        options: settings that the user fixed, by decision name.
        language: of the texts.
        decided: before the plan.
    """

    def __init__(self, options: Mapping[str, Any], language: str, decided: Sequence[Decision] = ()) -> None:
        self.options = {k: v for k, v in options.items() if k not in SOURCING}
        self.language = language
        self.silent = _supposing.get()
        self.decisions: list[Decision] = list(decided)

    def say(self, key: str, /, **values: object) -> str:
        """A text of the catalogue, `decide.` put before the key."""
        if self.silent:
            return ""
        return text(f"decide.{key}", self.language, **values)

    def fact(self, name: str, value: Any, words: str) -> Evidence:
        """One fact that a reason rests on: its name, its value, and both in words."""
        return Evidence(text=words, fact=name, value=value)

    def add(  # noqa: PLR0913 - a decision's fields
        self,
        name: str,
        value: Any,
        because: str,
        *,
        evidence: Sequence[str | Evidence] = (),
        alternatives: Sequence[tuple[Any, str]] = (),
        levers: Sequence[str] = (),
        source: Source = "rule",
        instead: str = "",
    ) -> Any:
        """Writes a decision and returns the value in force: the user's where they fixed it.

        Args:
            levers: facts that may turn it around (`decide.facts.LEVERS`), the likeliest first.
            instead: how the user changes this one, when not by `--set`.

        Raises:
            InputError: when the user's value is not of the decision's kind, or `--set` does not reach it.
        """
        if instead and name in self.options:
            raise InputError(*explain("decide.derived", name=name, value=self.options[name], instead=instead))
        others = tuple(Alternative(value=v, why_not=w) for v, w in alternatives)
        if name in self.options:
            wanted = _coerced(name, self.options[name], value)
            if wanted != value:
                others = (Alternative(value=value, why_not=self.say("user_overrules", because=because)), *others)
            value, source, because = wanted, "user", self.say("user_fixed")
            levers = ()
        self.decisions.append(
            Decision(
                name=name,
                value=value,
                because=because,
                evidence=tuple(e if isinstance(e, Evidence) else Evidence(text=e) for e in evidence),
                alternatives=others,
                levers=tuple(levers),
                source=source,
            )
        )
        return value

    def finish(self) -> tuple[Decision, ...]:
        """All decisions, in order.

        Raises:
            InputError: when the user fixed a setting that no rule decides.
        """
        names = {d.name for d in self.decisions}
        unknown = sorted(set(self.options) - names)
        if unknown:
            raise InputError(*explain("decide.unknown_setting", name=unknown[0], names=", ".join(sorted(names))))
        return tuple(self.decisions)


def _coerced(name: str, raw: Any, like: Any) -> Any:
    """The user's value as the kind of the rule's own."""
    wrong = InputError(*explain("decide.bad_value", name=name, value=raw, kind=type(like).__name__, like=repr(like)))
    try:
        if isinstance(like, bool):
            words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
            return words[str(raw).lower()]
        if isinstance(like, int):
            if float(raw) != int(float(raw)) or float(raw) < 0:
                raise wrong
            return int(float(raw))
        if isinstance(like, float):
            value = float(raw)
            if not 0 <= value < float("inf"):
                raise wrong
            return value
    except (ValueError, KeyError, OverflowError) as exc:
        raise wrong from exc
    if isinstance(like, str):
        return str(raw)
    raise wrong
