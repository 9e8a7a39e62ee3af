"""What a reader hands on: records in order, each with its place, read as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from autoswift.understand.problems import Findings


@dataclass(frozen=True, slots=True)
class Record:
    """One record as parsed.

    Attributes:
        value: an object, a list (a dialogue), or a string (a text).
        file: path as the user gave it. member: within an archive.
        line: that it begins on, from 1; None where a format has no lines (Parquet).
        row: its number among the records of its file, from 1.
    """

    value: Any
    file: str
    line: int | None
    row: int
    member: str | None = None


class Source(Protocol):
    """A data file, a folder or a list of files, opened.

    Iterating reads from the start again, in bounded memory; the same files give the same records in the same order.
    After one full iteration `lost`, `sha256` and the findings are complete; a second one adds nothing to them.

    Attributes:
        path: as the user gave it.
        format: json, jsonl, csv, tsv, xlsx, parquet, arrow, text, markdown, srt, hub, or `mixed` over several files.
        encoding: of the (first) file; empty where there is none.
        columns: role to column name, as the user gave it.
        findings: problems so far.
        lost: records that could not be read, by reason.
    """

    path: str
    format: str
    encoding: str
    columns: Mapping[str, str]
    findings: Findings
    lost: dict[str, int]

    def __iter__(self) -> Iterator[Record]:
        """The records.

        Raises:
            DataError: with each finding by file and line, when nothing can be made of the rest.
        """
        ...

    @property
    def sha256(self) -> str:
        """Of the file; over the sorted list of (name, hash) when there are several."""
        ...
