"""CSV and its relatives as a stream: the delimiter and the header are found, broken quoting is mended."""

from __future__ import annotations

import csv
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence

from autoswift.understand.columns import known_column
from autoswift.understand.readers.base import MAX_COLUMNS, Job
from autoswift.understand.readers.text import TextStream
from autoswift.understand.records import Record

MAX_CELL = 16 * 2**20
"""Characters of one CSV cell: ten novels. Python's own limit (131,072) refuses long documents."""
DELIMITERS = ",\t;|"
SAMPLE_LINES = 50
"""Lines that delimiter and header are judged by."""
MAX_MENDED = 20
"""Quotes that are never closed, after which a file is given up: each costs reading what follows it again."""
_SENTENCE = re.compile(r"[?？。！!…；;]\s*$|\n|[，。？！]")
_NUMBER = re.compile(r"[-+]?\d[\d.,:/ -]*%?$")


class _Lines:
    """Lines for the csv module, which remembers those of the record being read."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines, self._again = lines, deque[str]()
        self.taken: list[str] = []
        self.number = 0
        self.done = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines, "")
        if not line:
            self.done = True
            raise StopIteration
        self.taken.append(line)
        self.number += 1
        return line

    def forget(self) -> None:
        """The record is complete."""
        self.taken.clear()

    def give_back(self) -> None:
        """All lines of the present record but the first will come again."""
        self._again.extendleft(reversed(self.taken[1:]))
        self.done = False
        self.number -= len(self.taken) - 1
        self.taken.clear()


def read(text: TextStream, job: Job, delimiter: str | None = None) -> Iterator[Record]:
    """The records of a table.

    Args:
        text: the file.
        job: its place and limits.
        delimiter: between cells, where the format says it.

    Raises:
        DataError: too_many_columns, mixed_columns, corrupt_csv.
    """
    csv.field_size_limit(MAX_CELL)
    head = _sample(text)
    declared = re.match(r"\ufeff?sep=([,;|:\t])$", head[0].rstrip("\n")) if head else None
    mark = declared[1] if declared else delimiter if delimiter and delimiter in text.head else find_delimiter(head)
    job.format = "tsv" if mark == "\t" else "csv"
    lines = _Lines(line + "\n" for piece in text.lines() for line in piece)
    table = Table(job)
    if declared:
        next(lines)
        lines.forget()
    sample = _cells(head[1:] if declared else head, mark)
    for cells, line in _rows(lines, mark, job):
        if table.header is None:
            if not any(c.strip() for c in cells):
                continue
            if table.begin(cells, sample[1:], line):
                continue
        record = table.row(cells, line)
        if record is not None:
            yield record
    table.conclude()


def _sample(text: TextStream) -> list[str]:
    """The first whole lines."""
    head = text.head[:200_000]
    lines = head.split("\n")
    if len(lines) > 1 and (not text.whole or len(head) < len(text.head)):
        lines.pop()
    return [line + "\n" for line in lines if line.strip()][:SAMPLE_LINES]


def _cells(lines: Sequence[str], mark: str) -> list[list[str]]:
    """The first rows that are not blank."""
    try:
        return [c for c in csv.reader(iter(lines), delimiter=mark) if any(x.strip() for x in c)]
    except csv.Error:
        return []


def find_delimiter(lines: Sequence[str]) -> str:
    """The delimiter that divides the most lines into the same number of cells, two or more; else the comma."""
    best, found = 0.0, ","
    for mark in DELIMITERS:
        try:
            widths = Counter(len(cells) for cells in csv.reader(iter(lines), delimiter=mark) if cells)
        except csv.Error:
            continue
        several = {w: n for w, n in widths.items() if w > 1}
        if not several:
            continue
        width, count = max(several.items(), key=lambda wn: (wn[1], wn[0]))
        score = count / sum(widths.values()) + min(width, 10) / 1000
        if score > best:
            best, found = score, mark
    return found


def _rows(lines: _Lines, mark: str, job: Job) -> Iterator[tuple[list[str], int]]:
    """Rows of cells, each with the line that it begins on. A quote that is never closed costs its own line only."""
    mended = 0
    while True:
        reader = csv.reader(lines, delimiter=mark)
        try:
            for cells in reader:
                taken = lines.taken
                if len(taken) > 1 and lines.done and sum(x.count('"') for x in taken) % 2:
                    break  # the end came inside quotes
                begin = lines.number - len(taken) + 1
                lines.forget()
                yield cells, begin
            else:
                return
            reason = "a quote is not closed"
        except csv.Error as exc:
            reason = str(exc)
        mended += 1
        where = {"line": lines.number - len(lines.taken) + 1, "row": job.row + 1}
        if mended > MAX_MENDED:
            raise job.error("corrupt_csv", where=where, reason=reason)
        job.add("corrupt_csv_line", "warn", where=where, reason=reason)
        job.lose("corrupt_csv_line")
        lines.give_back()


def looks_like_header(cells: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    """Whether a first row holds column names: known ones, or short and unlike what stands below them.

    A name that comes again below is a label.
    """
    names = [c.strip() for c in cells]
    known = [known_column(n) for n in names if n]
    again = any(n and n in {row[i].strip() for row in below if i < len(row)} for i, n in enumerate(names))
    if any(known) and (all(known) or not again):
        return not any(len(n) > 40 for n in names)
    if not any(names) or again or any(len(n) > 40 or _SENTENCE.search(n) or _NUMBER.match(n) for n in names):
        return False
    filled = [n for n in names if n]
    if len(set(filled)) != len(filled):
        return False
    bodies = [c.strip() for row in below for c in row if c.strip()]
    if not bodies:
        return True
    lengths = sorted(map(len, bodies))
    typical = lengths[len(lengths) // 2]
    word = all(re.fullmatch(r"[A-Za-z_][\w.-]*(?: [\w.-]+){0,2}", n) for n in filled)
    return word or max(map(len, filled)) <= 6 or max(map(len, filled)) * 2 <= typical


class Table:
    """Rows of cells become records.

    Attributes:
        header: the column names, once they are known.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.header: list[str] | None = None
        self.good = self.ragged = 0

    def begin(self, cells: Sequence[str], below: Sequence[Sequence[str]], line: int) -> bool:
        """Takes the first row; whether it was the header.

        Raises:
            DataError: too_many_columns; no_such_column.
        """
        job, given = self.job, self.job.columns.values()
        if len(cells) > MAX_COLUMNS:
            raise job.error("too_many_columns", where={"line": line}, count=len(cells), limit=MAX_COLUMNS)
        names = [c.strip() for c in cells]
        named = any(n in names for n in given) or looks_like_header(cells, below)
        if named:
            self.take_header(names, line)
        else:
            width = max([len(cells), *(len(row) for row in below)])
            self.header = [f"column_{i}" for i in range(1, min(width, MAX_COLUMNS) + 1)]
            job.add("no_header", "warn", where={"line": line})
            job.check_columns(self.header, line)
        return named

    def take_header(self, names: Sequence[str], line: int) -> None:
        """Takes a row that is known to be the header.

        Raises:
            DataError: no_such_column.
        """
        self.header = _unique([n or f"column_{i}" for i, n in enumerate(names, 1)])
        if not self.job.columns_checked:  # of several tables, the first one tells
            self.job.check_columns(self.header, line)

    def row(self, cells: list[str], line: int) -> Record | None:
        """The record of a row; None when it is blank or has too many cells."""
        header, job = self.header or [], self.job
        if len(cells) != len(header):
            while cells and len(cells) > len(header) and not cells[-1].strip():
                cells = cells[:-1]
            if len(cells) > len(header):
                where = {"line": line, "row": job.row + 1}
                job.add("ragged_row", "warn", where=where, cells=len(cells), columns=len(header))
                job.lose("mixed_columns")
                self.ragged += 1
                return None
        if not any(map(str.strip, cells)):
            return None
        job.row += 1
        self.good += 1
        return Record(dict(zip(header, cells, strict=False)), job.file, line, job.row, job.member)

    def conclude(self) -> None:
        """Judges the whole.

        Raises:
            DataError: mixed_columns.
        """
        if self.ragged > self.good:
            where = {"line": 2}
            raise self.job.error("mixed_columns", where=where, bad=self.ragged, total=self.ragged + self.good)


def _unique(names: Sequence[str]) -> list[str]:
    """Names that stand twice get a number."""
    seen: Counter[str] = Counter()
    out = []
    for name in names:
        seen[name] += 1
        out.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return out
