"""Findings about a data file, in the reader's language, and the errors made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoswift.domain.profile import Problem, Severity
from autoswift.errors import DataError
from autoswift.tables import text as say

SHOWN = 20
"""Single lines named per kind; the rest is counted: nobody reads the two-hundredth."""


def printable(value: object) -> object:
    """A value that any terminal and JSON can take: lone surrogates and control characters replaced."""
    if isinstance(value, str):
        value = value.encode("utf-8", "replace").decode("utf-8")
        return "".join(c if c.isprintable() else "\ufffd" for c in value)[:300]
    return value


def whole(path: object) -> str:
    """A path as text that can be written: bytes of its name that are no UTF-8 replaced."""
    return str(path).encode("utf-8", "replace").decode("utf-8")


@dataclass
class Findings:
    """Collects the problems of one file; texts are `data.<kind>` and `data.<kind>_fix` in the catalogue."""

    file: str
    language: str = "en"
    problems: list[Problem] = field(default_factory=list)
    shown: dict[str, int] = field(default_factory=dict)

    def make(
        self, kind: str, severity: Severity, *, where: dict[str, Any] | None = None, text: str = "", **values: object
    ) -> Problem:
        """A problem with its texts.

        Args:
            kind: names the texts.
            severity: error stops, warn goes on and says so, flag keeps the rows and marks them.
            where: line, row, column, member; file, where it is another one than `self.file`.
            text: names other texts than those of the kind.
            values: fill the texts.
        """
        text = text or kind
        place = {"file": self.file} | {k: v for k, v in (where or {}).items() if v is not None}
        name = Path(place["file"]).name or place["file"]
        name = f"{name} ({place['member']})" if "member" in place else name
        shown = {"line": "?", "row": "?"} | place | values | {"file": name}
        given = {k: printable(v) for k, v in shown.items()}
        return Problem(
            kind=kind,
            severity=severity,
            message=say(f"data.{text}", self.language, **given),
            fix=say(f"data.{text}_fix", self.language, **given),
            **{k: whole(v) if k == "file" else printable(v) for k, v in place.items()},  # type: ignore[arg-type]
        )

    def add(
        self, kind: str, severity: Severity, *, where: dict[str, Any] | None = None, text: str = "", **values: object
    ) -> None:
        """Adds a problem; of one kind at most `SHOWN` are kept."""
        if self._room(kind):
            self.problems.append(self.make(kind, severity, where=where, text=text, **values))

    def take(self, problem: Problem) -> None:
        """Adds a problem that is made already."""
        if self._room(problem.kind):
            self.problems.append(problem)

    def _room(self, kind: str) -> bool:
        self.shown[kind] = self.shown.get(kind, 0) + 1
        return self.shown[kind] <= SHOWN

    def error(self, kind: str, *, where: dict[str, Any] | None = None, text: str = "", **values: object) -> DataError:
        """The error that ends the reading, with all problems found until then."""
        problem = self.make(kind, "error", where=where, text=text, **values)
        return DataError(problem.message, "", problem.fix, (*self.problems, problem))
