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


@dataclass
class Findings:
    """Collects the problems of one file; texts are `data.<kind>` and `data.<kind>_fix` in the catalogue."""

    file: str
    language: str = "en"
    problems: list[Problem] = field(default_factory=list)
    shown: dict[str, int] = field(default_factory=dict)

    def make(self, kind: str, severity: Severity, *, where: dict[str, Any] | None = None, **values: object) -> Problem:
        """A problem with its texts; `where` gives line, row, column, member; `values` fill the texts."""
        given = {k: printable(v) for k, v in ({"file": Path(self.file).name} | (where or {}) | values).items()}
        return Problem(
            kind=kind,
            severity=severity,
            message=say(f"data.{kind}", self.language, **given),
            fix=say(f"data.{kind}_fix", self.language, **given),
            file=self.file,
            **{k: printable(v) for k, v in (where or {}).items()},  # type: ignore[arg-type]
        )

    def add(self, kind: str, severity: Severity, *, where: dict[str, Any] | None = None, **values: object) -> None:
        """Adds a problem; of one kind at most `SHOWN` are kept."""
        self.shown[kind] = self.shown.get(kind, 0) + 1
        if self.shown[kind] <= SHOWN:
            self.problems.append(self.make(kind, severity, where=where, **values))

    def error(self, kind: str, *, where: dict[str, Any] | None = None, **values: object) -> DataError:
        """The error that ends the reading, with all problems found until then."""
        problem = self.make(kind, "error", where=where, **values)
        return DataError(problem.message, "", problem.fix, (*self.problems, problem))
