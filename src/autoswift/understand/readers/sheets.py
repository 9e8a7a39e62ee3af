"""Spreadsheets: xlsx, xlsm, xlsb, xls and ods, sheet by sheet; the header may stand below a title."""

from __future__ import annotations

import datetime as dt
import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from autoswift.understand.columns import known_column
from autoswift.understand.readers.archives import check
from autoswift.understand.readers.base import MAX_COLUMNS, Job, Stream
from autoswift.understand.readers.delimited import Table, looks_like_header
from autoswift.understand.records import Record
from autoswift.understand.shapes import tells_task

HEADER_WITHIN = 20
"""Rows within which the header is looked for: titles, dates and notes stand above it, a screenful at most."""
_FORMULA = re.compile(rb"<f[ >]")
_SHEET = re.compile(r"xl/worksheets/[^/]+\.xml$")
PIECE = 2**18


@dataclass(slots=True)
class _Sheet:
    """A sheet that holds a table.

    Attributes:
        start: rows that are empty above `rows`. header: index of the header in `rows`, or -1.
    """

    name: str
    rows: list[list[Any]]
    start: int
    header: int
    told: bool


def read(stream: Stream, job: Job) -> Iterator[Record]:
    """The rows of the sheets whose columns are known; of the largest sheet where those of none are.

    Raises:
        DataError: binary_garbage (broken), too_large, encrypted_archive, no_such_column, too_many_columns.
        BombError: it unpacks to too much.
    """
    job.format = "xlsx"
    data = stream.peek(job.limits.document + 1)
    if len(data) > job.limits.document:
        raise job.error("too_large", size=len(data) // 2**20, limit=job.limits.document // 2**20)
    formulas = _formulas(data, job)
    book = _open(data, job)
    sheets = [s for name in book.sheet_names if (s := _sheet(book.get_sheet_by_name(name), name)) is not None]
    wanted = _wanted(sheets, job)
    for sheet in sheets:
        if not any(sheet is w for w in wanted):
            job.add("sheet_skipped", "flag", where={"member": _member(job, sheet.name)}, sheet=sheet.name)
    if formulas:
        job.add("sheet_formulas", "flag", count=formulas)
    outer = job.member
    for sheet in wanted:
        job.member = f"{outer}/{sheet.name}" if outer else sheet.name
        yield from _rows(sheet, job)
    job.member = outer


def _member(job: Job, sheet: str) -> str:
    return f"{job.member}/{sheet}" if job.member else sheet


def _formulas(data: bytes, job: Job) -> int:
    """How many cells are formulas.

    Raises:
        BombError: a sheet unpacks to too much.
    """
    if not data.startswith(b"PK"):
        return 0
    count = unpacked = 0
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                check(entry.compress_size, entry.file_size, job.limits)
            for name in filter(_SHEET.match, archive.namelist()):
                with archive.open(name) as raw:
                    tail = b""
                    while piece := raw.read(PIECE):
                        unpacked += len(piece)
                        check(len(data), unpacked, job.limits)
                        count += len(_FORMULA.findall(tail + piece))
                        tail = piece[-2:]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, ValueError):
        return 0  # the reader proper says what is wrong
    return count


def _open(data: bytes, job: Job) -> Any:
    import python_calamine as calamine

    try:
        return calamine.CalamineWorkbook.from_filelike(io.BytesIO(data))
    except calamine.PasswordError as exc:
        raise job.error("encrypted_archive", where={"member": job.member or "-"}) from exc
    except (calamine.CalamineError, OSError, ValueError) as exc:
        raise job.error("binary_garbage", where={"line": 1}, found=f"spreadsheet: {str(exc)[:80]}") from exc


def _sheet(sheet: Any, name: str) -> _Sheet | None:
    """A sheet with something in it."""
    rows = [list(row) for row in sheet.to_python(skip_empty_area=False)]
    _fill_merged(rows, sheet.merged_cell_ranges or [])
    if sum(any(_filled(c) for c in row) for row in rows) == 0:
        return None
    header = _header(rows)
    names = [str(c).strip() for c in rows[header]] if header >= 0 else []
    return _Sheet(name, rows, 0, header, tells_task(names))


def _filled(cell: Any) -> bool:
    return cell is not None and str(cell).strip() != ""


def _fill_merged(rows: list[list[Any]], ranges: Sequence[Any]) -> None:
    """Cells merged downwards all have the value of the first: a session's number stands once beside its turns."""
    for (top, left), (bottom, right) in ranges:
        if left == right and bottom > top and top < len(rows) and left < len(rows[top]):
            for row in rows[top + 1 : bottom + 1]:
                if left < len(row) and not _filled(row[left]):
                    row[left] = rows[top][left]


def _header(rows: Sequence[Sequence[Any]]) -> int:
    """The index of the header: the first row with known names, else the first full one that reads like one; or -1."""
    filled = [(i, row) for i, row in enumerate(rows) if any(_filled(c) for c in row)][:HEADER_WITHIN]
    width = max(sum(_filled(c) for c in row) for _, row in filled)
    for i, row in filled:
        names = [str(c).strip() for c in row if _filled(c)]
        known = sum(map(known_column, names))
        if known and len(names) >= min(2, width) and all(len(n) <= 40 for n in names):
            return i
    for i, row in filled:
        if sum(_filled(c) for c in row) < max(1, min(2, width)):
            continue  # a title
        below = [[_text(c) for c in r] for r in rows[i + 1 : i + 51]]
        cells = [_text(c) for c in row]
        return i if all(isinstance(c, str) for c in row) and looks_like_header(cells, below) else -1
    return -1


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)


def _wanted(sheets: Sequence[_Sheet], job: Job) -> list[_Sheet]:
    """The sheets to be read."""
    given = list(job.columns.values())
    if given:
        has = [s for s in sheets if s.header >= 0 and all(g in map(_text, s.rows[s.header]) for g in given)]
        if has:
            return has
    told = [s for s in sheets if s.told]
    return told or sorted(sheets, key=lambda s: -len(s.rows))[:1]


def _rows(sheet: _Sheet, job: Job) -> Iterator[Record]:
    """The rows of a sheet under their column names; `line` is the row's number in the sheet."""
    table = Table(job)
    first = sheet.header + 1
    if sheet.header >= 0:
        names = [_text(c).strip() for c in sheet.rows[sheet.header]]
        while names and not names[-1]:
            names.pop()
        if len(names) > MAX_COLUMNS:
            where = {"line": sheet.header + 1}
            raise job.error("too_many_columns", where=where, count=len(names), limit=MAX_COLUMNS)
        table.take_header(names, sheet.header + 1)
    else:
        first = next(i for i, row in enumerate(sheet.rows) if any(_filled(c) for c in row))
        width = max(len(row) for row in sheet.rows)
        job.add("no_header", "warn", where={"line": first + 1})
        table.take_header([f"column_{i}" for i in range(1, min(width, MAX_COLUMNS) + 1)], first + 1)
    header = table.header or []
    for i, row in enumerate(sheet.rows[first:], first + 1):
        cells = [_plain(c) for c in row[: len(header)]]
        if any(_filled(c) for c in cells):
            job.row += 1
            yield Record(dict(zip(header, cells, strict=False)), job.file, i, job.row, job.member)


def _plain(cell: Any) -> Any:
    """A cell as JSON knows it: whole numbers without a point, dates in ISO form."""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return int(cell)
    if isinstance(cell, dt.datetime | dt.date | dt.time):
        return cell.isoformat()
    return str(cell) if isinstance(cell, dt.timedelta) else cell
