"""A quick sample of what tests/faults does in full: kills, failing disks, flipped bits, torn checkpoints."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from autoswift.errors import RunLocked
from autoswift.run.lock import owned
from autoswift.testing.file_faults import OPERATIONS, FileFaults
from faults import flips
from faults.disk import every_operation, operations_of_a_run, places
from faults.kills import controller_kills, killed_at_operations
from faults.small_run import begin, carry_out, flaws, small_pipeline


def sample(counts: dict[str, int], each: int) -> list[tuple[str, int]]:
    """So many operations of each kind, spread over the run."""
    found = []
    for kind in OPERATIONS:
        step = max(1, counts[kind] // each)
        found += [(kind, at) for at in range(1 + step // 2, counts[kind] + 1, step)][:each]
    return found


def test_killed_at_random_a_run_ends_as_the_unbroken_one(tmp_path: Path) -> None:
    assert controller_kills(tmp_path, 6, seed=1).kills == 6


def test_killed_at_any_operation_on_the_disk_a_run_ends_as_the_unbroken_one(tmp_path: Path) -> None:
    counts, _ = operations_of_a_run(tmp_path / "counted")
    assert len(places(counts, 1)) == sum(counts.values())
    chosen = sample(counts, 1)
    assert killed_at_operations(tmp_path, chosen).kills == len(chosen)


@pytest.mark.parametrize(
    ("error", "lasting"), [(errno.ENOSPC, True), (errno.EIO, False), (errno.EROFS, True)], ids=["full", "EIO", "EROFS"]
)
def test_a_failing_disk_is_told_corrupts_nothing_and_the_run_resumes(error: int, lasting: bool, tmp_path: Path) -> None:
    counts, whole = operations_of_a_run(tmp_path / "counted")
    chosen = sample(counts, 1)
    seen = every_operation(tmp_path, chosen, error, whole, lasting=lasting)
    assert seen.cases == len(chosen)
    assert seen.stopped > 0


def test_flipped_bits_are_noticed_or_harmless(tmp_path: Path, autoswift_home: Path) -> None:
    for seen in (flips.records(tmp_path, 20), flips.checkpoints(tmp_path, 20), flips.knowledge(autoswift_home, 16)):
        assert sum(seen.noticed.values()) >= 5
        assert sum(seen.noticed.values()) + sum(seen.harmless.values()) == sum(seen.cases.values())


def test_every_write_of_a_run_goes_through_the_checked_ones(tmp_path: Path) -> None:
    """Files of the run folder that are opened for writing: those of the run room, and the engine's own checkpoints."""
    opened: list[str] = []
    real = os.open
    with small_pipeline(), FileFaults(tmp_path) as seen:
        record = begin(tmp_path / "run")
        counting = os.open

        def watched(path: object, flags: int, *rest: object, **more: object) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR):
                opened.append(os.path.relpath(str(path), record.folder))
            return counting(path, flags, *rest, **more)  # type: ignore[arg-type]

        os.open = watched  # type: ignore[assignment]
        try:
            carry_out(record)
        finally:
            os.open = counting
    assert os.open is real
    # Each that was opened through the run room was written and synced; the engine's JSON files are its own.
    assert seen.counts["write"] >= len([name for name in opened if name != "lock"])
    assert seen.counts["fsync"] >= seen.counts["write"]
    assert {name.split("/")[0] for name in opened if "/" in name} <= {"steps", "plan", "processes"}


def test_a_second_controller_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    with small_pipeline():
        record = begin(tmp_path / "run")
        with owned(record.folder), pytest.raises(RunLocked, match=str(os.getpid())):
            carry_out(record)
        (record.folder / "lock").write_text("4242", encoding="utf-8")  # what a dead owner left
        assert carry_out(record).state()["state"] == "done"
        assert flaws(record) == []


def test_a_lock_file_that_was_removed_does_not_make_two_owners(tmp_path: Path) -> None:
    with owned(tmp_path):
        (tmp_path / "lock").unlink()
        # The first one's file is gone: this is a new one, and its holder is the owner.
        with owned(tmp_path), pytest.raises(RunLocked), owned(tmp_path):
            pass


def test_a_good_end_that_could_not_be_written_is_told_and_written_by_a_resume(tmp_path: Path) -> None:
    counts, whole = operations_of_a_run(tmp_path / "counted")
    last = [(kind, counts[kind]) for kind in ("open", "rename", "fsync")]
    seen = every_operation(tmp_path, last, errno.ENOSPC, whole, lasting=True)
    assert seen.stopped == len(last)
