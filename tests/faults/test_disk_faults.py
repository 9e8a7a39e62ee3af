"""A disk that is full, fails or turns read-only, at every single operation of a run; and one that is only slow."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest

from autoswift.testing.file_faults import FileFaults
from faults.conftest import Tell
from faults.disk import every_operation, operations_of_a_run, places
from faults.small_run import begin, carry_out, small_pipeline, summary

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from-there-on"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def test_every_operation_fails(error: int, lasting: bool, tmp_path: Path, tell: Tell) -> None:
    counts, whole = operations_of_a_run(tmp_path / "counted")
    seen = every_operation(tmp_path, places(counts, 1), error, whole, lasting=lasting)
    assert seen.cases == sum(counts.values())
    kinds = ", ".join(f"{count} {name}" for name, count in seen.by_operation.items())
    tell(
        f"{seen.cases} operations failed with {errno.errorcode[error]}{' from there on' if lasting else ' once'}"
        f" ({kinds}): {seen.stopped} told in words, {seen.torn_lines} torn lines left out, 0 corrupt, all resumed"
    )


def test_a_slow_disk_changes_nothing_but_the_time(tmp_path: Path, tell: Tell) -> None:
    _, whole = operations_of_a_run(tmp_path / "counted")
    with small_pipeline():
        record = begin(tmp_path / "slow")
        start = time.monotonic()
        with FileFaults(record.folder, delay=0.02) as faults:
            carry_out(record)
        seconds = time.monotonic() - start
    assert seconds > 0.02 * sum(faults.counts.values())
    assert summary(record) == whole
    tell(f"a disk that takes 20 ms longer for each of {sum(faults.counts.values())} operations: the same result")
