"""Which reader a file is for: by what it holds first, by its name where that leaves it open."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from autoswift.understand import encoding
from autoswift.understand.readers import delimited, document, jsonlines
from autoswift.understand.readers.base import Job, Stream
from autoswift.understand.readers.files import SHEETS
from autoswift.understand.readers.text import TextStream
from autoswift.understand.records import Record

_BEGINS = re.compile(r"\{\s*[\"}]|\[\s*[\[{\"]")
"""How JSON of records begins; "[2024-01-01] …" and "{name} …" are text."""
JUDGED = 20
"""Lines by which JSON lines are told from one JSON document."""


def read(stream: Stream, job: Job) -> Iterator[Record]:
    """The records of one file.

    Raises:
        DataError: nothing can be made of it.
    """
    kind = encoding.magic(stream.peek(512))
    if kind == ("binary", "Parquet"):
        from autoswift.understand.readers import parquet

        yield from parquet.read(stream, job)
    elif kind == ("binary", "Arrow") or (job.suffix in (".arrow", ".feather") and stream.peek(4) == b"\xff" * 4):
        from autoswift.understand.readers import parquet

        yield from parquet.read_arrow(stream, job)
    elif (kind and kind[0] == "zip" and job.suffix in SHEETS) or kind == ("binary", "Office 97"):
        from autoswift.understand.readers import sheets

        yield from sheets.read(stream, job)
    elif kind and kind[0] == "zip":
        raise job.error("unknown_format", where={"line": 1}, suffix=job.suffix or "-")
    elif kind:
        name = "image_as_json" if kind[0] == "image" else "binary_garbage"
        raise job.error(name, where={"line": 1}, found=kind[1])
    else:
        yield from _of_text(TextStream(stream, job), job)


def _of_text(text: TextStream, job: Job) -> Iterator[Record]:
    suffix = job.suffix
    begin = text.head[:10_000].lstrip("\ufeff \t\r\n")
    named = suffix in (".json", ".jsonl", ".ndjson")
    table = suffix in (".csv", ".tsv", ".tab")
    if begin[:1] in ("{", "[") and (named or (_BEGINS.match(begin) and (not table or _share_of_lines(text) == 1))):
        return _of_json(text, job, begin[:1])
    if named:
        lines = suffix != ".json" or _share_of_lines(text) >= 0.5
        return jsonlines.read(text, job) if lines else document.read(text, job)
    if table:
        return delimited.read(text, job, None if suffix == ".csv" else "\t")
    from autoswift.understand.readers import plain

    return plain.read(text, job)


def _of_json(text: TextStream, job: Job, start: str) -> Iterator[Record]:
    lines = _first_lines(text)
    if start == "[":
        whole = [_parses(x, list) for x in lines[:2]]
        several = len(whole) == 2 and all(whole)
        return jsonlines.read(text, job) if several else document.read(text, job)
    enough = 0.01 if job.suffix in (".jsonl", ".ndjson") else 0.5
    if len(lines) > 1 and (_share_of_lines(text) >= enough or _meant_as_lines(lines)):
        return jsonlines.read(text, job)
    return document.read(text, job)


def _first_lines(text: TextStream) -> list[str]:
    """The first lines that are not blank; the last one only when it is whole."""
    lines = text.head[:2_000_000].split("\n", 4 * JUDGED)
    if len(lines) > 4 * JUDGED or not text.whole:
        lines.pop()
    return [x for x in lines if x.strip("\ufeff \t\x1a")][:JUDGED]


def _share_of_lines(text: TextStream) -> float:
    """Of the first lines, those that are JSON objects by themselves."""
    lines = _first_lines(text)
    return sum(_parses(x, dict) for x in lines) / len(lines) if lines else 0.0


def _meant_as_lines(lines: list[str]) -> bool:
    """Whether lines that are no JSON were meant as objects: nearly each begins with a brace and goes on."""
    begun = sum(x.lstrip("\ufeff \t").startswith("{") and len(x.strip()) > 1 for x in lines)
    return begun >= 0.8 * len(lines)


def _parses(line: str, kind: type) -> bool:
    try:
        return isinstance(json.loads(line.strip("\ufeff \t\x1a")), kind)
    except (ValueError, RecursionError):
        return False
