"""Entries as JSON lines, out and in. What comes in is checked field by field; nothing in it is ever carried out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from autoswift.errors import InputError
from autoswift.knowledge.entry import SCHEMA, RunEntry, digest_of, first_fault
from autoswift.knowledge.store import keep_all, read
from autoswift.run.files import dumps, write_atomic
from autoswift.tables import explain

LONGEST_LINE = 2**21
"""Bytes: an entry of 512 trials with full curves has 1.4 MB."""
MOST_LINES = 100_000
"""Of a file: more runs than a team makes, and still read in a minute."""
LARGEST_FILE = 2**28
"""Bytes of a file that is read at all."""
AHEAD_SECONDS = 86_400.0
"""An entry from further in the future would win over every later one of its run; clocks differ by less than a day."""


class _Line(BaseModel):
    """One line of an export."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[2]
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    entry: RunEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import did: entries that are new, that replaced an older state of their run, that were here already."""

    added: int
    updated: int
    unchanged: int


def lines(entries: Sequence[RunEntry]) -> Iterator[str]:
    """Entries as lines of an export, the oldest first."""
    for entry in sorted(entries, key=lambda one: (one.created, one.run_id)):
        yield dumps({"schema_version": SCHEMA, "digest": digest_of(entry), "entry": entry})


def export_to(path: Path | None) -> tuple[str, int]:
    """All whole entries as JSON lines.

    Args:
        path: a file to write them to; None only returns them.

    Returns:
        The text, and the number of entries.

    Raises:
        InputError: when the database cannot be read, or the file not written.
    """
    made = list(lines(read().entries))
    text = "".join(line + "\n" for line in made)
    if path is not None:
        try:
            write_atomic(path, text)
        except OSError as exc:
            raise InputError(*explain("knowledge.write", path=path, evidence=exc.strerror or exc)) from exc
    return text, len(made)


def import_from(path: Path, now: float | None = None) -> Imported:
    """Takes in an export: all of it, or nothing when any line is wrong.

    Of two states of one run the later one (`updated`) stays; the same file again changes nothing.

    Args:
        now: unix seconds.

    Raises:
        InputError: naming file and line of the first thing that is wrong, or when the database cannot be written.
    """
    brought = _read(path, time.time() if now is None else now)
    known = {one.run_id: one for one in read().entries}
    new = [one for one in brought.values() if one.run_id not in known]
    later = [one for one in brought.values() if one.run_id in known and one.updated > known[one.run_id].updated]
    if new or later:
        keep_all([*new, *later])
    return Imported(added=len(new), updated=len(later), unchanged=len(brought) - len(new) - len(later))


def _read(path: Path, now: float) -> dict[str, RunEntry]:
    """The entries of a file by run id.

    Raises:
        InputError: as `import_from`.
    """
    try:
        size = path.stat().st_size
        if not path.is_file() or size > LARGEST_FILE:
            raise InputError(*explain("knowledge.too_large", path=path, limit=LARGEST_FILE // 2**20))
        raw = path.read_bytes()
    except OSError as exc:
        raise InputError(*explain("knowledge.no_file", path=path, evidence=exc.strerror or exc)) from exc
    found: dict[str, RunEntry] = {}
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        fault = ""
        if len(line) > LONGEST_LINE or len(found) >= MOST_LINES:
            fault = f"> {LONGEST_LINE} bytes" if len(line) > LONGEST_LINE else f"> {MOST_LINES} lines"
        else:
            fault, entry = _line(line, now)
            if entry is not None and entry.run_id in found:
                fault = f"run_id: {entry.run_id} twice"
            elif entry is not None:
                found[entry.run_id] = entry
        if fault:
            raise InputError(*explain("knowledge.line", path=path, line=number, evidence=fault))
    if not found:
        raise InputError(*explain("knowledge.nothing", path=path))
    return found


def _line(line: bytes, now: float) -> tuple[str, RunEntry | None]:
    """What is wrong with a line, or its entry."""
    try:
        made = _Line.model_validate_json(line)
    except (ValidationError, ValueError, RecursionError) as exc:
        return first_fault(exc) if isinstance(exc, ValueError) else "nested too deeply", None
    if digest_of(made.entry) != made.digest:
        return "digest: not that of the entry", None
    if max(made.entry.created, made.entry.updated) > now + AHEAD_SECONDS:
        return "updated: in the future", None
    return "", made.entry
