"""JSON lines: one value a line, and a line that is none is left out and named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from autoswift.errors import DataError
from autoswift.understand.readers.base import MAX_COLUMNS, MAX_DEPTH, Job
from autoswift.understand.readers.text import TextStream
from autoswift.understand.records import Record

HOPELESS = 1000
"""Lines after which a file of which none could be read is given up: a long file is not read to its end for nothing."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANK = "\ufeff \t\r\n\v\f\x1a"
"""Around a line: also a mark between joined files and the end-of-file character of old editors."""


class Decoder:
    """A JSON decoder that notes doubled keys and non-finite numbers instead of swallowing them."""

    def __init__(self, *, strict: bool = True) -> None:
        self.doubled = self.infinite = False
        decoder = json.JSONDecoder(object_pairs_hook=self._pairs, parse_constant=self._constant, strict=strict)
        self.scan: Callable[[str, int], tuple[Any, int]] = vars(decoder)["scan_once"]  # without decode's preparations
        self.decode = decoder.decode
        self.raw_decode = decoder.raw_decode

    def _pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            self.doubled = True
        return value

    def _constant(self, name: str) -> None:
        self.infinite = True

    def note(self, job: Job, line: int) -> None:
        """Reports what the last record was found to have."""
        where = {"line": line, "row": job.row + 1}
        if self.doubled:
            job.add("duplicated_keys", "warn", where=where)
        if self.infinite:
            job.add("nan_infinity", "warn", where=where)
        self.doubled = self.infinite = False


def too_deep(value: Any, room: int = MAX_DEPTH) -> bool:
    """Whether a value has more than `room` levels."""
    if isinstance(value, dict):
        return room == 0 or any(too_deep(v, room - 1) for v in value.values() if isinstance(v, dict | list))
    if isinstance(value, list):
        return room == 0 or any(too_deep(v, room - 1) for v in value if isinstance(v, dict | list))
    return False


def reason(exc: Exception) -> str:
    """Why a text is no JSON."""
    return f"{exc.msg}, column {exc.colno}" if isinstance(exc, json.JSONDecodeError) else str(exc)[:80]


def without(value: Any, pattern: re.Pattern[str]) -> Any:
    """A value in whose texts nothing matches the pattern any more."""
    if isinstance(value, str):
        return pattern.sub("", value)
    if isinstance(value, list):
        return [without(v, pattern) for v in value]
    if isinstance(value, dict):
        return {pattern.sub("", k): without(v, pattern) for k, v in value.items()}
    return value


def checked(value: Any, text: str, job: Job, line: int) -> Any:
    """A record with what its text lets suspect looked after: NULs and lone surrogates dropped; None when too deep.

    Args:
        value: not None.
        text: the JSON that it was written as (or more than that).
        job: takes the problems.
        line: that it begins on.
    """
    if text.count("[") + text.count("{") > MAX_DEPTH and too_deep(value):
        job.add("deep_nesting", "warn", where={"line": line, "row": job.row + 1}, limit=MAX_DEPTH)
        job.lose("deep_nesting")
        return None
    if "\\u" not in text:
        return value
    if "\\u0000" in text and "\x00" in (whole := json.dumps(value, ensure_ascii=False).replace("\\u0000", "\x00")):
        job.add("null_bytes", "warn", where={"line": line, "row": job.row + 1}, count=whole.count("\x00"))
        value = without(value, re.compile("\x00"))
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            job.add("lone_surrogates", "warn", where={"line": line, "row": job.row + 1})
            value = without(value, _SURROGATE)
    return value


def read(text: TextStream, job: Job) -> Iterator[Record]:
    """The records of JSON lines.

    Raises:
        DataError: corrupt_json_lines or deep_nesting, when less than half of the lines can be read;
            too_many_columns.
    """
    job.format = "jsonl"
    file, member, decoder = job.file, job.member, Decoder()
    scan, slow = decoder.scan, _Slow(job, decoder)
    number = 0
    for lines in text.lines():
        for line in lines:
            number += 1
            try:
                value, end = scan(line, 0)
            except (ValueError, RecursionError, StopIteration):
                end = -1
            if end != len(line) and (value := slow.patient(line, number)) is _NOTHING:
                continue
            if decoder.doubled or decoder.infinite:
                decoder.note(job, number)
            if "\\u" in line or line.count("[") + line.count("{") > MAX_DEPTH:
                value = checked(value, line, job, number)
                if value is None:
                    slow.deep(number)
                    continue
            if value.__class__ is dict and len(value) > MAX_COLUMNS:
                raise job.error("too_many_columns", where={"line": number}, count=len(value), limit=MAX_COLUMNS)
            job.row += 1
            slow.good += 1
            yield Record(value, file, number, job.row, member)
    slow.conclude()


_NOTHING = object()


class _Slow:
    """What is seldom needed: lines with blanks around them, and lines that cannot be read, which it counts."""

    def __init__(self, job: Job, decoder: Decoder) -> None:
        self.job, self.decoder = job, decoder
        self.good = self.count = self.too_deep = self.first = 0

    def patient(self, line: str, number: int) -> Any:
        """The value of a line that is no bare JSON object, or `_NOTHING`.

        Raises:
            DataError: when it is one of very many that cannot be read and none was good.
        """
        line = line.strip(_BLANK)
        if not line:
            return _NOTHING
        try:
            return self.decoder.decode(line.removesuffix(","))
        except (ValueError, RecursionError) as exc:
            self.decoder.doubled = self.decoder.infinite = False
            self._note(exc, number)
            return _NOTHING

    def _note(self, exc: Exception, line: int) -> None:
        where = {"line": line, "row": self.job.row + 1}
        if isinstance(exc, RecursionError):
            self.job.add("deep_nesting", "warn", where=where, limit=MAX_DEPTH)
            self.job.lose("deep_nesting")
            self.deep(line)
            return
        self.job.add("corrupt_json_line", "warn", where=where, reason=reason(exc))
        self.job.lose("corrupt_json_line")
        self._one(line)
        if not self.good and self.count >= HOPELESS:
            raise self.error()

    def deep(self, line: int) -> None:
        """Counts a line that was reported as nested too deep."""
        self.too_deep += 1
        self._one(line)

    def _one(self, line: int) -> None:
        self.count += 1
        self.first = self.first or line

    def conclude(self) -> None:
        """Judges the whole.

        Raises:
            DataError: when most of it cannot be read.
        """
        if self.count > self.good:
            raise self.error()

    def error(self) -> DataError:
        """The error for a file that is mostly broken."""
        kind = "deep_nesting" if self.too_deep * 2 > self.count else "corrupt_json_lines"
        total = self.count + self.good
        return self.job.error(kind, where={"line": self.first}, bad=self.count, total=total, limit=MAX_DEPTH)
