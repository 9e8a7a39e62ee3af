"""Reads a data file into records with line numbers, or says by file and line why it cannot."""

from __future__ import annotations

import re
import stat
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoswift.domain.profile import Problem
from autoswift.run.files import file_sha256
from autoswift.understand import encoding, parse
from autoswift.understand.problems import Findings

MAX_BYTES = 512 * 2**20
"""A file is read whole, and its records take about six times its size: 512 MiB need 3 GiB of memory. Larger files
wait for a streaming reader."""
MAX_RATIO = 100
"""JSON and CSV shrink by 3 to 20 when compressed; beyond 100 the file was made to fill memory."""
RATIO_FROM = 16 * 2**20
"""Small files may be that repetitive by accident; 16 MiB hurt nobody."""
SUFFIXES = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv"}
NULL_SHARE = 0.01
"""A stray NUL is dropped; one byte in a hundred is a file with holes (a broken download)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawData:
    """A file's records before anything was made of them.

    Attributes:
        format: json, jsonl, csv or tsv.
        rows: the records, each as parsed. lines: the line that each begins on, from 1.
        lost: records that could not be read, by reason.
        columns: role to column name, as the user gave it.
    """

    path: str
    sha256: str
    format: str
    encoding: str
    rows: tuple[Any, ...]
    lines: tuple[int, ...]
    lost: dict[str, int]
    columns: dict[str, str]
    problems: tuple[Problem, ...] = ()


def read(path: Path, columns: Mapping[str, str] = {}, *, language: str = "en") -> RawData:
    """Reads a data file.

    Args:
        path: json, jsonl, csv or tsv, also gzipped; what it is called matters less than what it holds.
        columns: role to column name ("user", "assistant", …), where the user says it.
        language: of the problems' texts, zh or en.

    Raises:
        DataError: with each finding by file and line.
    """
    findings = Findings(str(path), language)
    data = _bytes(path, findings)
    suffix = _suffix(path)
    text, name = _text(data, findings)
    parsed = _parse(text, suffix, findings)
    if not parsed.rows:
        raise findings.error("no_rows", where={"line": 1})
    _check_columns(parsed, columns, findings)
    return RawData(
        path=str(path),
        sha256=file_sha256(path),
        format=parsed.format,
        encoding=name,
        rows=tuple(parsed.rows),
        lines=tuple(parsed.lines),
        lost=dict(parsed.lost),
        columns=dict(columns),
        problems=tuple(findings.problems),
    )


def _suffix(path: Path) -> str:
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".gzip"):
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _bytes(path: Path, findings: Findings) -> bytes:
    """The file's bytes, unpacked when gzipped.

    Raises:
        DataError: when it is not there, no plain file, empty, too large, or packed to explode.
    """
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise findings.error("is_folder")
        if not stat.S_ISREG(info.st_mode):
            raise findings.error("not_a_file")
        if info.st_size > MAX_BYTES:
            raise findings.error("too_large", size=info.st_size // 2**20, limit=MAX_BYTES // 2**20)
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise findings.error("no_such_file", path=path) from exc
    except (OSError, ValueError) as exc:
        raise findings.error("unreadable", reason=str(exc)) from exc
    kind = encoding.magic(data)
    if kind and kind[0] == "gzip":
        data = _unpack(data, findings)
        kind = encoding.magic(data)
    if kind:
        names = {"image": "image_as_json", "zip": "archive", "gzip": "archive"}
        raise findings.error(names.get(kind[0], "binary_garbage"), where={"line": 1}, found=kind[1])
    if not data.strip(b"\xef\xbb\xbf \t\r\n"):
        raise findings.error("empty_file")
    return data


def _unpack(data: bytes, findings: Findings) -> bytes:
    """Gunzips, stopping where the size or the ratio is hostile.

    Raises:
        DataError: zip_bomb, binary_garbage (a broken archive).
    """
    limit = min(MAX_BYTES, max(RATIO_FROM, len(data) * MAX_RATIO))
    out = bytearray()
    rest = data
    try:
        while rest:  # a gzip file may hold several members
            unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
            out += unpacker.decompress(rest, limit + 1 - len(out))
            if len(out) > limit or unpacker.unconsumed_tail:
                raise findings.error("zip_bomb", limit=limit // 2**20, ratio=MAX_RATIO)
            if not unpacker.eof:
                raise zlib.error("truncated")
            rest = unpacker.unused_data.lstrip(b"\x00")
    except zlib.error as exc:
        raise findings.error("binary_garbage", where={"line": 1}, found=f"gzip ({exc})") from exc
    return bytes(out)


def _text(data: bytes, findings: Findings) -> tuple[str, str]:
    """The bytes as text, with plain line ends, and their encoding.

    Raises:
        DataError: null_bytes, binary_garbage, html_error_page.
    """
    name = encoding.sniff(data)
    text = data.decode(name, errors="replace")
    if name in ("utf-8", "utf-8-sig", "gb18030", "big5", "cp1252") and "\x00" in text:
        zeros = text.count("\x00")
        if zeros > NULL_SHARE * len(text):
            printable = text.replace("\x00", "")
            raise findings.error(
                "binary_garbage" if encoding.is_binary(printable) else "null_bytes",
                where={"line": 1},
                count=zeros,
                found="data",
            )
        findings.add("null_bytes", "warn", where={"line": 1 + text.count("\n", 0, text.index("\x00"))}, count=zeros)
        text = text.replace("\x00", "")
    if encoding.is_binary(text):
        raise findings.error("binary_garbage", where={"line": 1}, found="data")
    if re.match(r"\s*(?:<!doctype html|<html|<\?xml[^>]*>\s*<html|<head|<body)", text[:2000], re.IGNORECASE):
        raise findings.error("html_error_page", where={"line": 1})
    if name not in ("utf-8", "utf-8-sig"):
        findings.add("encoding_found", "flag", encoding=name)
    broken = text.count("\ufffd") if "\ufffd" in text and not _decodable(data, name) else 0
    if broken:
        line = 1 + text.count("\n", 0, text.index("\ufffd"))
        findings.add("encoding_error", "warn", where={"line": line}, count=broken, encoding=name)
    return text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n"), name


def _decodable(data: bytes, name: str) -> bool:
    try:
        data.decode(name)
    except UnicodeDecodeError:
        return False
    return True


def _parse(text: str, suffix: str, findings: Findings) -> parse.Parsed:
    """Records by content first, by the file's name where the content leaves it open.

    Raises:
        DataError: when it is neither JSON nor a table.
    """
    kind = SUFFIXES.get(suffix)
    start = text.lstrip()[:1]
    if kind is None:
        if suffix in (".txt", ".md", ".text", ".log"):
            raise findings.error("plain_text", where={"line": 1})
        if start not in ("{", "["):
            raise findings.error("unknown_format", suffix=suffix or "-")
        kind = "json"
    if kind in ("csv", "tsv"):
        return parse.delimited(text, findings, "\t" if kind == "tsv" else None)
    if start == "[" and (kind == "json" or not _line_arrays(text)):
        return parse.json_document(text, findings)
    return parse.json_lines(text, findings) if kind == "jsonl" else parse.json_document(text, findings)


def _line_arrays(text: str) -> bool:
    """Whether a .jsonl file that begins with "[" has a whole array on its first line (a dialogue a line)."""
    import json

    first, _, rest = text.lstrip().partition("\n")
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return bool(rest.strip())


def _check_columns(parsed: parse.Parsed, columns: Mapping[str, str], findings: Findings) -> None:
    """Whether the columns that the user names are there, and not too many.

    Raises:
        DataError: no_such_column, too_many_columns.
    """
    there: dict[str, None] = {}
    for row in parsed.rows:
        if isinstance(row, dict):
            there |= dict.fromkeys(row)
            if len(row) > parse.MAX_COLUMNS:
                raise findings.error("too_many_columns", where={"line": 1}, count=len(row), limit=parse.MAX_COLUMNS)
    for role, name in columns.items():
        if name not in there:
            known = ", ".join(list(there)[:20]) or "-"
            raise findings.error("no_such_column", where={"column": name}, role=role, known=known)
