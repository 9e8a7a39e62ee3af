"""What each reader is given: limits, a stream of bytes that can be looked into, and where to report."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from autoswift.domain.profile import Severity
from autoswift.errors import DataError
from autoswift.understand.problems import Findings

MAX_COLUMNS = 256
"""Columns of a table: chat data has under fifty; more is a table of measurements, which no language model learns."""
MAX_DEPTH = 32
"""Levels of a record: a conversation with tool calls needs six; deeper ones are generated to break parsers."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is read before a file is refused.

    Attributes:
        entries: files in an archive or a folder. The largest public data sets come in some thousand parts.
        unpacked: bytes that one archive may unpack to; ten times the largest file that fine-tuning is done with.
        ratio: of unpacked to packed size. JSON and CSV shrink by 3 to 20; beyond 100 it was made to fill memory.
        ratio_from: bytes up to which the ratio is not looked at: small files may be that repetitive by accident.
        document: bytes of a file that cannot be read piece by piece (a spreadsheet, a packed Parquet file, a JSON
            object); its records take about six times that in memory.
        record: characters of one record: a hundred novels.
    """

    entries: int = 10_000
    unpacked: int = 50 * 2**30
    ratio: int = 100
    ratio_from: int = 4 * 2**20
    document: int = 512 * 2**20
    record: int = 64 * 2**20


class BombError(Exception):
    """An archive unpacks to more than it may."""


class DamagedError(Exception):
    """A packed file is cut off or broken; the text says how."""


class Readable(Protocol):
    """Bytes that come one after the other."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; empty at the end."""
        ...


class Stream:
    """Bytes that can be looked at before they are read.

    Attributes:
        path: of the plain file that holds exactly these bytes, if there is one.
        damage: why the bytes end before their time (a packed file that is cut off), or nothing.
    """

    def __init__(self, raw: Readable, path: Path | None = None) -> None:
        self._raw, self._ahead, self.path, self.damage = raw, b"", path, ""

    def peek(self, size: int) -> bytes:
        """The next bytes, `size` of them unless the stream ends before."""
        parts, there = [self._ahead], len(self._ahead)
        while there < size and (more := self._next(size - there)):
            parts.append(more)
            there += len(more)
        self._ahead = b"".join(parts)
        return self._ahead[:size]

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes, all for -1; empty at the end."""
        if size < 0:
            data, self._ahead = self._ahead, b""
            return data + self._next(-1)
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        return self._next(size)

    def _next(self, size: int) -> bytes:
        if self.damage:
            return b""
        try:
            return self._raw.read(size)
        except DamagedError as exc:
            self.damage = str(exc)
            return b""


Report = Callable[[str, Severity, dict[str, Any], dict[str, object]], None]


@dataclass(kw_only=True)
class Job:
    """One file (or one member of an archive) to be read.

    Attributes:
        file: as the user gave it, with the path inside the folder. member: within an archive, a sheet of a workbook.
        suffix: of the name, in lower case, without that of the compression.
        format: as in `records.Source`; the reader fills it in. encoding: likewise.
        columns: role to column name, as the user gave it. columns_checked: whether they were found.
        lost: counts a record that could not be read by its reason.
        row: records until now, those that could not be read among them.
    """

    file: str
    member: str | None
    suffix: str
    findings: Findings
    report: Report
    limits: Limits
    columns: dict[str, str]
    language: str
    lost: Callable[[str], None]
    format: str = ""
    encoding: str = ""
    row: int = 0
    columns_checked: bool = False

    def add(self, kind: str, severity: Severity, *, where: dict[str, Any] | None = None, **values: object) -> None:
        """Reports a problem of this file; `where` gives line, row, column."""
        self.report(kind, severity, self._where(where), values)

    def lose(self, reason: str) -> None:
        """Counts a record that could not be read; it has a number like the others."""
        self.row += 1
        self.lost(reason)

    def error(self, kind: str, *, where: dict[str, Any] | None = None, **values: object) -> DataError:
        """The error that ends the reading of this file."""
        return self.findings.error(kind, where=self._where(where), text="", **values)

    def check_columns(self, names: Sequence[str], line: int | None) -> None:
        """Whether the columns that the user named are among those on the line.

        Raises:
            DataError: no_such_column.
        """
        self.columns_checked = True
        for role, name in self.columns.items():
            if name not in names:
                close = ", ".join(difflib.get_close_matches(name, names, 3)) or "-"
                known = ", ".join(list(names)[:20]) or "-"
                where = {"line": line, "column": name}
                raise self.error("no_such_column", where=where, role=role, known=known, close=close)

    def _where(self, where: dict[str, Any] | None) -> dict[str, Any]:
        place: dict[str, Any] = {"file": self.file}
        if self.member is not None:
            place["member"] = self.member
        return place | (where or {})
