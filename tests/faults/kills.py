"""Kills of the controller at random moments, and at every single operation on the disk."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoswift.errors import RunLocked
from autoswift.run.lock import is_owned
from autoswift.run.record import RunRecord
from autoswift.testing.file_faults import FileFaults, Operation
from faults.small_run import begin, carry_out, died_by_itself, flaws, killed_after, small_pipeline, summary


@dataclass
class Tally:
    """What was seen over all runs."""

    kills: int = 0
    runs: int = 0
    during: Counter[str] = field(default_factory=Counter)


def unbroken(folder: Path) -> tuple[dict[str, Any], float]:
    """What the run comes to when nothing happens to it, and its seconds."""
    with small_pipeline():
        carry_out(begin(folder / "warm"))
        start = time.monotonic()
        record = carry_out(begin(folder / "whole"))
        seconds = time.monotonic() - start
    assert flaws(record) == []
    return summary(record), seconds


def controller_kills(folder: Path, wanted: int, seed: int = 0) -> Tally:
    """Kills run after run, each several times, until there have been so many kills; each ends as the unbroken one."""
    whole, seconds = unbroken(folder)
    rng, tally = random.Random(seed), Tally()
    while tally.kills < wanted:
        with small_pipeline():
            record = begin(folder / f"run-{tally.runs}")
            log, kills = folder / f"run-{tally.runs}.log", min(rng.randint(1, 8), wanted - tally.kills)
            while True:
                after = rng.uniform(0.0, seconds) if kills > 0 else 60.0
                if not killed_after(after, lambda record=record: carry_out(record), log):
                    break
                kills -= 1
                tally.kills += 1
                tally.during[str(record.state()["stage"]) or "before the first stage"] += 1
                assert not is_owned(record.folder), "a dead owner blocks"
        tally.runs += 1
        check(record, whole)
    return tally


def killed_at_operations(folder: Path, places: list[tuple[Operation, int]]) -> Tally:
    """Kills at the k-th write (half of it done), fsync, rename or opening; then resumes."""
    whole, _ = unbroken(folder)
    tally = Tally()
    for operation, at in places:
        with small_pipeline():
            record = begin(folder / f"{operation}-{at}")

            def dies(record: RunRecord = record, operation: Operation = operation, at: int = at) -> None:
                with FileFaults(record.folder, operation, at, error="kill"):
                    carry_out(record)

            tally.kills += died_by_itself(dies, folder / "log")
            carry_out(record)
        tally.runs += 1
        check(record, whole)
    return tally


def check(record: RunRecord, whole: dict[str, Any]) -> None:
    """Nothing lost, repeated or left running; the same proposals, results and choice as the unbroken run."""
    assert flaws(record) == [], record.folder
    assert summary(record) == whole, record.folder
    assert not list(record.folder.glob("**/.*.json.????????")), "unfinished files stay"


def refused(record: RunRecord) -> str:
    """What a second controller is told."""
    try:
        carry_out(record)
    except RunLocked as exc:
        return exc.what
    return ""
