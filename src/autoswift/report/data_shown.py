"""What is shown of a data file, as values: texts are in the reader's language, numbers are plain."""

from __future__ import annotations

from dataclasses import dataclass

from autoswift.report.differences import Piece


@dataclass(frozen=True, slots=True)
class Example:
    """One row that a step was about.

    Attributes:
        place: where it stands, in words.
        before, after: its text in pieces; after is empty where the row was left out or only marked.
        cells: the columns of a row that was left out as it came, instead of before.
    """

    place: str
    before: tuple[Piece, ...] = ()
    after: tuple[Piece, ...] = ()
    cells: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One reason for which rows were left out, changed or marked.

    Attributes:
        kind: its name in the profile. name: readable. severity: error, warn or flag.
        count: rows (pieces, for personal data masked). share: of the rows read (of those used, where they are used).
        why: what it means. todo: what to do. idle: there is nothing to do.
        parts: kinds that it consists of, with their numbers.
    """

    kind: str
    name: str
    count: int
    share: str
    why: str = ""
    todo: str = ""
    idle: bool = False
    severity: str = "flag"
    parts: tuple[tuple[str, int], ...] = ()
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of problem that no step covers, with the places where it was found."""

    kind: str
    severity: str
    message: str
    fix: str = ""
    count: int = 1
    places: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Everything that is shown of a data file; texts are in the reader's language.

    Attributes:
        name: of the file. story: sentences that say what happened. verdict: ok, look (at something) or bad.
        facts: label and value. columns: role, its meaning, the column, an example.
        samples: place, and (role, name, text) of what it says.
        splits: name, rows, share, meaning. labels: name, rows, share of the most frequent, rows by split.
        bins: (low, high, rows) of the lengths in tokens. marks: name and value of each quantile.
        files: name, address, meaning.
    """

    name: str
    language: str
    verdict: str
    story: tuple[str, ...]
    rows: int = 0
    kept: int = 0
    left_out: int = 0
    facts: tuple[tuple[str, str], ...] = ()
    columns: tuple[tuple[str, str, str, str], ...] = ()
    samples: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = ()
    splits: tuple[tuple[str, int, str, str], ...] = ()
    labels: tuple[tuple[str, int, float, tuple[int, ...]], ...] = ()
    more_labels: int = 0
    notes: tuple[str, ...] = ()
    removed: tuple[Step, ...] = ()
    changed: tuple[Step, ...] = ()
    marked: tuple[Step, ...] = ()
    findings: tuple[Finding, ...] = ()
    bins: tuple[tuple[float, float, int], ...] = ()
    marks: tuple[tuple[str, float], ...] = ()
    counted: str = ""
    files: tuple[tuple[str, str, str], ...] = ()

    @property
    def changes(self) -> int:
        """Corrections made."""
        return sum(step.count for step in self.changed)

    @property
    def marks_made(self) -> int:
        """Marks set."""
        return sum(step.count for step in self.marked)
