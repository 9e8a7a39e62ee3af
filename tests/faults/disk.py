"""Every write, fsync, rename and opening of a whole run fails once, with each error that a disk can answer."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoswift.errors import AutoSwiftError, DiskError, DiskFull
from autoswift.run.files import Damaged, damaged_lines, read_sealed
from autoswift.run.record import RunRecord
from autoswift.testing.file_faults import OPERATIONS, FileFaults, Operation
from faults.small_run import begin, carry_out, flaws, small_pipeline, summary

ERRORS = {errno.ENOSPC: DiskFull, errno.EIO: DiskError, errno.EROFS: DiskError}


@dataclass
class Seen:
    """What came of it."""

    cases: int = 0
    stopped: int = 0
    survived: int = 0
    torn_lines: int = 0
    by_operation: Counter[str] = field(default_factory=Counter)


def operations_of_a_run(folder: Path) -> tuple[Counter[str], dict[str, Any]]:
    """How many of each a whole run takes, and what it comes to."""
    with small_pipeline():
        record = begin(folder)
        with FileFaults(folder) as counted:
            carry_out(record)
    return counted.counts, summary(record)


def places(counts: Counter[str], stride: int, offset: int = 0) -> list[tuple[Operation, int]]:
    """Every `stride`-th operation of each kind."""
    return [(kind, at) for kind in OPERATIONS for at in range(1 + offset, counts[kind] + 1, stride)]


def every_operation(
    folder: Path, where: Iterable[tuple[Operation, int]], error: int, whole: dict[str, Any], *, lasting: bool
) -> Seen:
    """One run for each place: it ends with an error in words, nothing it left is corrupt, and it can be resumed."""
    seen = Seen()
    for operation, at in where:
        with small_pipeline():
            record = begin(folder / f"{operation}-{at}-{error}")
            caught: AutoSwiftError | None = None
            with FileFaults(record.folder, operation, at, error=error, lasting=lasting) as faults:
                try:
                    carry_out(record)
                except AutoSwiftError as exc:
                    caught = exc
            assert faults.struck, (operation, at)
            seen.cases += 1
            seen.by_operation[operation] += 1
            if caught is None:  # only what nobody needs may fail unnoticed: who holds the lock
                seen.survived += 1
            else:
                seen.stopped += 1
                in_words(caught, error, record)
            seen.torn_lines += sound(record)
            if caught is not None:
                carry_out(record)  # there is room again
            assert flaws(record) == [], (operation, at)
            assert summary(record) == whole, (operation, at)
    return seen


def in_words(caught: AutoSwiftError, error: int, record: RunRecord) -> None:
    """The error is of its kind, names the place, and says what to do."""
    assert isinstance(caught, ERRORS[error]), repr(caught)
    assert isinstance(caught, DiskFull) == (error == errno.ENOSPC)
    assert str(record.folder) in caught.what
    assert caught.why
    assert "resume" in caught.fix or "writable" in caught.fix
    assert caught.exit_code == 2


def sound(record: RunRecord) -> int:
    """Whatever a broken run left can be read; the number of lines that are torn (nobody relied on them)."""
    for path in [record.folder / "run.json", *record.folder.glob("plan/*.json"), *record.folder.glob("steps/*.json")]:
        try:
            read_sealed(path)
        except Damaged as exc:
            raise AssertionError(f"{path} is corrupt: {exc}") from exc
    assert record.task().sentence == "a support bot"
    return sum(len(damaged_lines(record.folder / f"{name}.jsonl")) for name in ("events", "trials", "training"))
