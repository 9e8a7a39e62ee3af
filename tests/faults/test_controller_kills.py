"""`kill -9` of the controller: at random moments, at every operation on the disk, and with real trainings."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from autoswift.run.process import reap
from faults.conftest import Tell
from faults.disk import operations_of_a_run, places
from faults.kills import Tally, check, controller_kills, killed_at_operations
from faults.real import swift_engine, swift_plan
from faults.small_run import begin, carry_out, flaws, killed_after, small_pipeline, summary

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]


def test_two_hundred_kills_at_random_moments(tmp_path: Path, tell: Tell) -> None:
    tally = controller_kills(tmp_path, 200, seed=11)
    assert tally.kills == 200
    assert len(tally.during) >= 3, "the kills meet several stages"
    met = ", ".join(f"{name} {count}" for name, count in sorted(tally.during.items()))
    tell(
        f"{tally.kills} kill -9 of the controller at random moments ({met}): all {tally.runs} runs ended as unbroken"
        " ones: 0 trials lost, repeated or left running"
    )


def test_a_kill_at_every_operation_on_the_disk(tmp_path: Path, tell: Tell) -> None:
    counts, _ = operations_of_a_run(tmp_path / "counted")
    tally = killed_at_operations(tmp_path, places(counts, 1))
    assert tally.kills == sum(counts.values())
    tell(
        f"{tally.kills} kills, one at each write (half done), fsync, rename and opening of a run: all ended as unbroken"
    )


def test_twenty_kills_while_real_trainings_run(tmp_path: Path, tell: Tell) -> None:
    with small_pipeline(swift_engine, swift_plan):
        start = time.monotonic()
        whole = carry_out(begin(tmp_path / "whole", 3))
        seconds = time.monotonic() - start
    assert flaws(whole) == []
    rng, tally = random.Random(5), Tally()
    while tally.kills < 20:
        with small_pipeline(swift_engine, swift_plan):
            record = begin(tmp_path / f"run-{tally.runs}", 3)
            kills = min(rng.randint(3, 7), 20 - tally.kills)
            while killed_after(
                rng.uniform(0.0, seconds / 3) if kills > 0 else 1800.0,
                lambda record=record: carry_out(record),
                tmp_path / "log",
            ):
                kills -= 1
                tally.kills += 1
        tally.runs += 1
        ours, theirs = summary(record), summary(whole)
        assert flaws(record) == []
        assert ours.pop("results").keys() == theirs["results"].keys()
        for number, (status, nll) in summary(record)["results"].items():
            assert (status, nll) == (
                theirs["results"][number][0],
                pytest.approx(theirs["results"][number][1], abs=1e-6),
            )
        assert ours.pop("tuned") == pytest.approx(theirs.pop("tuned"), abs=1e-6)
        assert ours == {name: value for name, value in theirs.items() if name in ours}
        assert reap(record.folder) == []
    tell(f"{tally.kills} kill -9 of the controller with real trainings in {tally.runs} runs: the same trials and best")


def test_the_comparison_sees_a_lost_and_a_repeated_trial(tmp_path: Path) -> None:
    """What these tests rely on would notice."""
    with small_pipeline():
        record = carry_out(begin(tmp_path / "run"))
    whole = summary(record)
    path = record.folder / "trials.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lost = [line for line in lines if b'"event": "ended", "trial": 3' not in line]
    assert len(lost) == len(lines) - 1
    path.write_bytes(b"".join(lost))
    assert any("trial 3" in words for words in flaws(record))
    with pytest.raises(AssertionError):
        check(record, whole)
    path.write_bytes(b"".join([*lines, lines[0]]))
    assert any("proposed 2 times" in words for words in flaws(record))
