"""JSON documents as a stream: an array, an array under some key, columns, or values one after the other.

An array of any length is read element by element; only an object whose rows are not in an array is read whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from autoswift.understand import shapes
from autoswift.understand.names import split_name
from autoswift.understand.readers.base import MAX_COLUMNS, MAX_DEPTH, Job
from autoswift.understand.readers.cursor import Cursor
from autoswift.understand.readers.jsonlines import Decoder, checked, reason
from autoswift.understand.readers.text import TextStream
from autoswift.understand.records import Record

WHOLE = 32 * 2**20
"""Characters up to which an object is read whole to see where its rows are; of a longer one the first array of
objects is taken."""
MAX_KEYS = 5
"""Levels of keys that rows are looked for under: {"data": {"items": […]}} has two."""
_BLANK = "\ufeff\x1a \t\n"
Path = tuple[str, ...]


class Elements:
    """The elements of an array (the cursor stands behind its bracket), or values one after the other, as records.

    A broken element is left out where the next one can be found, by the key that the elements before began with.
    Where it cannot, what follows is lost, and said so.
    """

    def __init__(self, cursor: Cursor, job: Job, *, array: bool = True) -> None:
        self.cursor, self.job, self.end = cursor, job, "]" if array else ""
        self.decoder = Decoder()
        self.good = self.bad = self.deep = 0
        self.first: tuple[int, str] = (1, "")
        self._begins: re.Pattern[str] | None = None

    def __iter__(self) -> Iterator[Record]:
        """The records.

        Raises:
            DataError: not_json, deep_nesting: less than half of it can be used; too_many_columns.
        """
        cursor, job = self.cursor, self.job
        while (following := cursor.look()) != self.end:
            if following in (",", ""):
                if not following:
                    self._cut_off()
                    break
                cursor.take()
                self._loose()
                continue
            line = cursor.settle()
            try:
                value, text = cursor.value(self.decoder)
            except json.JSONDecodeError as exc:
                if self._broken(exc):
                    continue
                break
            except RecursionError:
                self._too_deep(line)
            else:
                value = self._look_after(value, text, line)
                if value is not None:
                    yield Record(value, job.file, line, job.row, job.member)
            if self.end and not self._separated():
                break
        cursor.take()
        self._conclude()

    def _look_after(self, value: Any, text: str, line: int) -> Any:
        """The value as a record, counted; None when it is none."""
        if self.decoder.doubled or self.decoder.infinite:
            self.decoder.note(self.job, line)
        value = checked(value, text, self.job, line)
        if value is None:
            if text != "null":
                self.bad, self.deep = self.bad + 1, self.deep + 1
            return None
        if isinstance(value, dict):
            if len(value) > MAX_COLUMNS:
                raise self.job.error("too_many_columns", where={"line": line}, count=len(value), limit=MAX_COLUMNS)
            if self._begins is None and value:
                self._begins = re.compile(rf"[\n,]\s{{0,80}}(\{{\s{{0,80}}{re.escape(json.dumps(next(iter(value))))})")
        self.good += 1
        self.job.row += 1
        return value

    def _separated(self) -> bool:
        """Whether a comma or the end follows the element; a missing comma is let pass."""
        following = self.cursor.look()
        if following == ",":
            self.cursor.take()
            if self.cursor.look() == "]":
                self._loose()
            return True
        if following in ("{", "["):
            self._loose()
            return True
        if following in ("]", ""):
            return True
        return self._broken(json.JSONDecodeError("Expecting ',' delimiter", self.cursor.buffer, self.cursor.at))

    def _loose(self) -> None:
        self.job.add("loose_commas", "flag", where={"line": self.cursor.settle()})

    def _cut_off(self) -> None:
        """The text ends inside the array, after a whole element."""
        self.job.add("truncated", "warn", where={"line": self.cursor.settle()}, rows=self.good)
        self.first = self.first if self.first[1] else (self.cursor.line, "the array is not closed")

    def _broken(self, exc: json.JSONDecodeError) -> bool:
        """Reports an element that is no JSON; whether the next one was found."""
        line = self.cursor.fault_line(exc)
        column = exc.pos - self.cursor.buffer.rfind("\n", 0, exc.pos)
        why = f"{exc.msg}, column {column}"
        self.job.add("corrupt_json_line", "warn", where={"line": line, "row": self.job.row + 1}, reason=why)
        self.job.lose("corrupt_json_line")
        self.bad += 1
        self.first = self.first if self.first[1] else (line, why)
        self.cursor.settle()
        if self._begins is None or not self.cursor.find(self._begins, max(self.cursor.at, exc.pos)):
            self.job.add("rest_lost", "warn", where={"line": line}, rows=self.good)
            return False
        return True

    def _too_deep(self, line: int) -> None:
        self.cursor.skip_value()
        self.job.add("deep_nesting", "warn", where={"line": line, "row": self.job.row + 1}, limit=MAX_DEPTH)
        self.job.lose("deep_nesting")
        self.bad, self.deep = self.bad + 1, self.deep + 1
        self.first = self.first if self.first[1] else (line, "too deep")

    def _conclude(self) -> None:
        if self.bad and self.bad >= self.good:
            kind = "deep_nesting" if self.deep * 2 > self.bad else "not_json"
            raise self.job.error(kind, where={"line": self.first[0]}, reason=self.first[1], limit=MAX_DEPTH)


def read(text: TextStream, job: Job) -> Iterator[Record]:
    """The records of a JSON document.

    Raises:
        DataError: not_json, not_rows, deep_nesting, too_many_columns.
    """
    job.format = "json"
    cursor = Cursor(text.pieces(), job.limits.record)
    start = cursor.look()
    if start == "[":
        while cursor.look() == "[":  # arrays one after the other are let pass
            cursor.take()
            yield from Elements(cursor, job)
        _behind(cursor, job)
    elif start == "{":
        yield from _object(cursor, job)
    else:
        decoder = Decoder()
        try:
            value, _ = cursor.value(decoder)
        except json.JSONDecodeError as exc:
            raise job.error("not_json", where={"line": cursor.fault_line(exc)}, reason=reason(exc)) from exc
        raise job.error("not_rows", where={"line": 1}, found=type(value).__name__)


def _behind(cursor: Cursor, job: Job) -> None:
    if cursor.look():
        job.add("text_behind", "warn", where={"line": cursor.settle()})


def _object(cursor: Cursor, job: Job) -> Iterator[Record]:
    """The rows of a document that is an object."""
    while len(cursor.buffer) < WHOLE and cursor.more():
        pass
    first, whole = cursor.line, cursor.buffer
    try:
        value, end = Decoder().raw_decode(whole, cursor.at)
    except RecursionError as exc:
        raise job.error("deep_nesting", where={"line": first}, limit=MAX_DEPTH) from exc
    except json.JSONDecodeError as exc:
        yield from _rest_of_broken(cursor, job, exc) if cursor.final else _first_array(cursor, job)
        return
    behind = whole[end:].strip(_BLANK)
    if behind[:1] in ("{", ",") and behind:
        yield from Elements(cursor, job, array=False)
        return
    yield from _rows(value, whole[:end], job, first)
    if behind:
        job.add("text_behind", "warn", where={"line": first + whole.count("\n", 0, whole.rindex(behind))})


def _rest_of_broken(cursor: Cursor, job: Job, exc: json.JSONDecodeError) -> Iterator[Record]:
    """What can be saved of an object that is cut off or broken: the rows before, in its first array of objects.

    Raises:
        DataError: not_json, when there are none.
    """
    broken = job.error("not_json", where={"line": exc.lineno + cursor.line - 1}, reason=reason(exc))
    any_row = False
    try:
        for record in _first_array(cursor, job):
            if not any_row and (not isinstance(record.value, dict) or shapes.is_turn(record.value)):
                raise broken
            any_row = True
            yield record
    except json.JSONDecodeError:
        pass
    if not any_row:
        raise broken from exc


def _first_array(cursor: Cursor, job: Job, depth: int = 0) -> Iterator[Record]:
    """The elements of the first array of objects or arrays, in the order of the text.

    Raises:
        json.JSONDecodeError: when there is none and the text is broken.
        DataError: not_rows, when there is none.
    """
    decoder = Decoder()
    cursor.take()
    while cursor.look() not in ("}", ""):
        cursor.value(decoder)
        if cursor.look() != ":":
            raise json.JSONDecodeError("Expecting ':' delimiter", cursor.buffer, cursor.at)
        cursor.take()
        following = cursor.look()
        if following == "[":
            cursor.take()
            if cursor.look() in ("{", "["):
                yield from Elements(cursor, job)
                return
            cursor.skip_value(depth=1)
        elif following == "{" and depth < MAX_KEYS:
            before = job.row
            yield from _first_array(cursor, job, depth + 1)
            if job.row > before:
                return
        elif following == "{":
            cursor.skip_value()
        else:
            cursor.value(decoder)
        if cursor.look() == ",":
            cursor.take()
    cursor.take()
    if depth == 0 and not job.row:
        raise job.error("not_rows", where={"line": 1}, found="dict")


def _rows(value: Any, whole: str, job: Job, first: int) -> Iterator[Record]:
    """The rows of an object that could be read whole; `first` is the line that its text begins on.

    Raises:
        DataError: as `Elements`.
    """
    paths = _arrays(value)
    if isinstance(value, dict) and shapes.is_record(value):
        paths = []
    elif len(paths) > 1 and not all(split_name(p[-1]) for p in paths):
        paths = [max(paths, key=lambda p: len(_at(value, p)))]
    if paths:
        for path in paths:
            job.member = path[-1] if len(paths) > 1 else job.member
            cursor = _cursor_at(whole, path, job, first)
            yield from Elements(cursor, job)
        return
    for row, line in _unrolled(value, whole, job, first):
        checked_row = checked(row, whole if line else json.dumps(row), job, line or first)
        if checked_row is None:
            raise job.error("deep_nesting", where={"line": line or first}, limit=MAX_DEPTH)
        if isinstance(row, dict) and len(row) > MAX_COLUMNS:
            raise job.error("too_many_columns", where={"line": first}, count=len(row), limit=MAX_COLUMNS)
        job.row += 1
        yield Record(checked_row, job.file, line, job.row, job.member)


def _arrays(value: Any, depth: int = 0) -> list[Path]:
    """The key paths of arrays that hold objects or arrays only, those nearest to the root."""
    if not isinstance(value, dict) or depth == MAX_KEYS:
        return []
    here: list[Path] = [
        (k,) for k, v in value.items() if isinstance(v, list) and v and all(isinstance(x, dict | list) for x in v)
    ]
    if here:
        return here
    return [(k, *p) for k, v in value.items() for p in _arrays(v, depth + 1)]


def _at(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        value = value[key]
    return value


def _cursor_at(whole: str, path: Path, job: Job, first: int) -> Cursor:
    """A cursor behind the bracket of the array under a path of keys (the last one, where a key stands twice)."""
    cursor, decoder = Cursor(iter([whole]), job.limits.record), Decoder()
    cursor.line = first
    places: list[tuple[int, int]] = []
    for key in path:
        cursor.look()
        cursor.take()
        found = None
        while cursor.look() not in ("}", ""):
            name, _ = cursor.value(decoder)
            cursor.look()
            cursor.take()
            cursor.look()
            if name == key:
                found = cursor.at, cursor.settle()
            cursor.skip_value() if cursor.buffer[cursor.at] in "[{" else cursor.value(decoder)
            if cursor.look() == ",":
                cursor.take()
        places.append(found or (cursor.at, cursor.line))
        cursor.go(*places[-1])
    cursor.take()
    return cursor


def _unrolled(value: Any, whole: str, job: Job, first: int) -> Iterator[tuple[Any, int | None]]:
    """The rows of an object without an array of objects: columns, rows by their names, or one record."""
    inner = value
    for _ in range(MAX_KEYS):
        rows = _columns(inner)
        if rows is not None:
            yield from ((row, None) for row in rows)
            return
        if not (isinstance(inner, dict) and len(inner) == 1 and isinstance(next(iter(inner.values())), dict)):
            break
        inner = next(iter(inner.values()))
    decoder = Decoder()
    decoder.decode(whole.strip(_BLANK))
    decoder.note(job, first)
    yield value, first


def _columns(value: Any) -> list[Any] | None:
    """The rows of columns of equal length, or of rows under their names; None when it is neither."""
    if not isinstance(value, dict):
        return None
    lists = [v for v in value.values() if isinstance(v, list)]
    if len(lists) > 1 and len(lists) == len(value) and len({len(v) for v in lists}) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*lists, strict=True)]
    inner = list(value.values())
    if len(inner) > 1 and all(isinstance(x, dict) for x in inner):
        shared = set(inner[0]) & set(inner[1])
        if shared and all(str(k).isdigit() for k in shared):  # pandas' column orientation: {"question": {"0": …}}
            keys = [k for k in inner[0] if all(k in x for x in inner)]
            return [{c: value[c][k] for c in value} for k in keys]
        if shared:
            return inner
    return None
