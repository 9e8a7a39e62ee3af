"""From text to records with their line numbers: JSON, JSON lines, CSV and TSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from autoswift.understand.problems import Findings

MAX_DEPTH = 32
"""Levels of a record: a conversation with tool calls needs six; deeper ones are generated to break parsers."""
MAX_COLUMNS = 256
"""Columns of a table: chat data has under fifty; more is a table of measurements, which no language model learns."""
MAX_CELL = 16 * 2**20
"""Characters of one CSV cell: ten novels. Python's own limit (131,072) refuses long documents."""
_SPACE = re.compile(r"\s*")


@dataclass
class Parsed:
    """Records as they stand in the file, each with the line it begins on; `lost` counts records that were not."""

    format: str
    rows: list[Any] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)

    def lose(self, reason: str) -> None:
        """Counts a record that could not be read."""
        self.lost[reason] = self.lost.get(reason, 0) + 1


class _Json:
    """A JSON decoder that counts doubled keys and non-finite numbers instead of swallowing them."""

    def __init__(self) -> None:
        self.doubled = 0
        self.infinite = 0
        self.decoder = json.JSONDecoder(object_pairs_hook=self._pairs, parse_constant=self._constant)

    def _pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        self.doubled += len(value) != len(pairs)
        return value

    def _constant(self, name: str) -> None:
        self.infinite += 1

    def note(self, findings: Findings, line: int, before: tuple[int, int]) -> None:
        """Reports what the last record added to the counts."""
        if self.doubled > before[0]:
            findings.add("duplicated_keys", "warn", where={"line": line})
        if self.infinite > before[1]:
            findings.add("nan_infinity", "warn", where={"line": line})

    @property
    def counts(self) -> tuple[int, int]:
        """Doubled keys and non-finite numbers until now."""
        return self.doubled, self.infinite


def too_deep(value: Any, room: int = MAX_DEPTH) -> bool:
    """Whether a value has more than `room` levels."""
    if isinstance(value, dict):
        return room == 0 or any(too_deep(v, room - 1) for v in value.values() if isinstance(v, dict | list))
    if isinstance(value, list):
        return room == 0 or any(too_deep(v, room - 1) for v in value if isinstance(v, dict | list))
    return False


def _accept(parsed: Parsed, value: Any, line: int, findings: Findings) -> None:
    """Takes a record in, unless its nesting is hostile."""
    if too_deep(value):
        parsed.lose("deep_nesting")
        findings.add("deep_nesting", "warn", where={"line": line}, limit=MAX_DEPTH)
    else:
        parsed.rows.append(value)
        parsed.lines.append(line)


def json_lines(text: str, findings: Findings) -> Parsed:
    """JSON lines. A line that is no JSON is removed and reported; a file that is mostly so is an error.

    Raises:
        DataError: corrupt_json_line, when less than half of the lines can be read.
    """
    parsed, reader = Parsed("jsonl"), _Json()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        before = reader.counts
        try:
            value = reader.decoder.decode(line)
        except RecursionError:
            parsed.lose("deep_nesting")
            findings.add("deep_nesting", "warn", where={"line": number}, limit=MAX_DEPTH)
            continue
        except ValueError as exc:
            parsed.lose("corrupt_json_line")
            findings.add("corrupt_json_line", "warn", where={"line": number}, reason=_reason(exc))
            continue
        reader.note(findings, number, before)
        _accept(parsed, value, number, findings)
    bad = sum(parsed.lost.values())
    if bad > len(parsed.rows):
        first = next(p for p in findings.problems if p.kind in ("corrupt_json_line", "deep_nesting"))
        kind = "deep_nesting" if parsed.lost.get("deep_nesting", 0) * 2 > bad else "corrupt_json_lines"
        raise findings.error(kind, where={"line": first.line}, bad=bad, total=bad + len(parsed.rows), limit=MAX_DEPTH)
    return parsed


def _reason(exc: Exception) -> str:
    return f"{exc.msg}, column {exc.colno}" if isinstance(exc, json.JSONDecodeError) else str(exc)[:80]


def json_document(text: str, findings: Findings) -> Parsed:
    """A JSON array, an object that holds one, columns of equal length, or several values one after the other.

    Raises:
        DataError: not_json, deep_nesting.
    """
    reader, parsed = _Json(), Parsed("json")
    try:
        start = _skip(text, 0)
        if text[start : start + 1] == "[":
            before = reader.counts
            for value, line in _array(text, start, reader):
                reader.note(findings, line, before)
                before = reader.counts
                _accept(parsed, value, line, findings)
            return parsed
        value, end = reader.decoder.raw_decode(text, start)
        if _skip(text, end) < len(text):  # one pretty-printed object after the other
            return _concatenated(text, reader, findings)
    except RecursionError as exc:
        raise findings.error("deep_nesting", where={"line": 1}, limit=MAX_DEPTH) from exc
    except json.JSONDecodeError as exc:
        if text.lstrip()[:1] in "{[" and _mostly_lines(text):
            return json_lines(text, findings)
        raise findings.error("not_json", where={"line": exc.lineno}, reason=_reason(exc)) from exc
    except ValueError as exc:
        raise findings.error("not_json", where={"line": 1}, reason=_reason(exc)) from exc
    _report_counts(reader, findings)
    return _object(text, value, findings)


def _report_counts(reader: _Json, findings: Findings) -> None:
    if reader.doubled:
        findings.add("duplicated_keys", "warn", where={"line": 1})
    if reader.infinite:
        findings.add("nan_infinity", "warn", where={"line": 1})


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _array(text: str, start: int, reader: _Json) -> Iterator[tuple[Any, int]]:
    """The elements of a JSON array with the line each begins on."""
    line, counted = 1 + text.count("\n", 0, start), start
    at = _skip(text, start + 1)
    if text[at : at + 1] == "]":
        end = at + 1
    else:
        while True:
            line, counted = line + text.count("\n", counted, at), at
            value, at = reader.decoder.raw_decode(text, at)
            yield value, line
            at = _skip(text, at)
            if text[at : at + 1] == "]":
                end = at + 1
                break
            if text[at : at + 1] != ",":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
            at = _skip(text, at + 1)
    if _skip(text, end) < len(text):
        raise json.JSONDecodeError("Extra data", text, end)


def _concatenated(text: str, reader: _Json, findings: Findings) -> Parsed:
    """Objects one after the other; one to a line they are JSON lines."""
    if _mostly_lines(text):
        return json_lines(text, findings)
    parsed, at, line, counted = Parsed("jsonl"), _skip(text, 0), 1, 0
    while at < len(text):
        line, counted = line + text.count("\n", counted, at), at
        value, at = reader.decoder.raw_decode(text, at)
        _accept(parsed, value, line, findings)
        at = _skip(text, at)
    _report_counts(reader, findings)
    return parsed


def _mostly_lines(text: str) -> bool:
    """Whether lines stand for themselves as JSON objects: judged by the first twenty that are not blank."""
    lines = [x for x in text[:200_000].split("\n") if x.strip()][:20]
    good = 0
    for x in lines:
        try:
            good += isinstance(json.loads(x), dict)
        except (ValueError, RecursionError):
            continue
    return good * 2 >= len(lines) and good > 0


def _object(text: str, value: Any, findings: Findings) -> Parsed:
    """The rows of a JSON object."""
    parsed = Parsed("json")
    rows, lines = _rows_of(value, text)
    if rows is None:
        raise findings.error("not_rows", where={"line": 1}, found=type(value).__name__)
    for row, line in zip(rows, lines, strict=True):
        _accept(parsed, row, line, findings)
    return parsed


def _rows_of(value: Any, text: str) -> tuple[list[Any] | None, list[int]]:
    if not isinstance(value, dict):
        return None, []
    lists = {k: v for k, v in value.items() if isinstance(v, list)}
    tables = {k: v for k, v in lists.items() if v and all(isinstance(x, dict | list) for x in v)}
    is_turns = any(
        {"role", "from", "content", "value", "speaker"} & x.keys()
        for v in tables.values()
        for x in v[:1]
        if isinstance(x, dict)
    )
    if len(tables) == 1 and not is_turns:
        ((key, rows),) = tables.items()
        at = max(0, text.find(f'"{key}"'))
        start = text.find("[", at)
        try:
            return rows, [line for _, line in _array_lines(text, start)]
        except ValueError:
            return rows, [1] * len(rows)
    lengths = {len(v) for v in lists.values()}
    if len(lists) > 1 and len(lists) == len(value) and len(lengths) == 1:  # columns
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)], [1] * lengths.pop()
    inner = list(value.values())
    if len(inner) > 1 and all(isinstance(x, dict) for x in inner):
        shared = set(inner[0]) & set(inner[1])
        numbered = all(str(k).isdigit() for k in shared)
        if shared and numbered:  # pandas' column orientation: {"question": {"0": …}}
            keys = [k for k in inner[0] if all(k in x for x in inner)]
            return [{c: value[c][k] for c in value} for k in keys], [1] * len(keys)
        if shared:  # id → row
            return inner, [1] * len(inner)
    return [value], [1]


def _array_lines(text: str, start: int) -> list[tuple[Any, int]]:
    """As `_array`, for an array inside an object (what follows it is not looked at)."""
    found: list[tuple[Any, int]] = []
    try:
        found.extend(_array(text, start, _Json()))
    except json.JSONDecodeError as exc:
        if exc.msg != "Extra data":
            raise
    return found


def delimited(text: str, findings: Findings, delimiter: str | None = None) -> Parsed:
    """CSV or TSV with a header row; without one when the first row reads like data.

    Raises:
        DataError: too_many_columns, no_rows.
    """
    csv.field_size_limit(MAX_CELL)
    mark = delimiter or _delimiter(text)
    parsed = Parsed("tsv" if mark == "\t" else "csv")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            begin, line = line, reader.line_num + 1
            if not any(c.strip() for c in cells):
                continue
            if header is None:
                header = _header(cells, findings, begin)
                if not _named(cells):
                    _table_row(parsed, header, cells, begin, findings)
                continue
            _table_row(parsed, header, cells, begin, findings)
    except csv.Error as exc:
        raise findings.error("corrupt_csv", where={"line": reader.line_num}, reason=str(exc)) from exc
    ragged = parsed.lost.get("mixed_columns", 0)
    if ragged > len(parsed.rows):
        raise findings.error("mixed_columns", where={"line": 2}, bad=ragged, total=ragged + len(parsed.rows))
    return parsed


def _delimiter(text: str) -> str:
    """The separator that the first line has most of."""
    first = next((x for x in text.split("\n", 20) if x.strip()), "")
    return max(",\t;|", key=lambda c: (first.count(c), -",\t;|".index(c)))


def _named(cells: list[str]) -> bool:
    """Whether a first row reads like column names: short, distinct, none with the marks of a sentence."""
    names = [c.strip() for c in cells]
    short = all(len(n) <= 40 and not re.search(r"[?？。！!]$|\n", n) for n in names)
    return short and len(set(names)) == len(names) and any(names)


def _header(cells: list[str], findings: Findings, line: int) -> list[str]:
    """Column names of a table.

    Raises:
        DataError: too_many_columns.
    """
    if len(cells) > MAX_COLUMNS:
        raise findings.error("too_many_columns", where={"line": line}, count=len(cells), limit=MAX_COLUMNS)
    if _named(cells):
        return [c.strip() or f"column_{i}" for i, c in enumerate(cells, 1)]
    findings.add("no_header", "warn", where={"line": line})
    return [f"column_{i}" for i in range(1, len(cells) + 1)]


def _table_row(parsed: Parsed, header: list[str], cells: list[str], line: int, findings: Findings) -> None:
    while len(cells) > len(header) and not cells[-1].strip():
        cells = cells[:-1]
    if len(cells) > len(header):
        parsed.lose("mixed_columns")
        findings.add("ragged_row", "warn", where={"line": line}, cells=len(cells), columns=len(header))
        return
    parsed.rows.append(dict(zip(header, cells, strict=False)))
    parsed.lines.append(line)
