"""Clocks that jump, numbers of processes that are used again, checkpoints with their manifests, read-only runs."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoswift.domain.budget import Budget
from autoswift.domain.task import Task
from autoswift.domain.trial import Trial
from autoswift.engines.checkpoints import beginning, identity_of
from autoswift.errors import DiskError, DiskFull, InputError
from autoswift.run import journal as journals
from autoswift.run import record as records
from autoswift.run.clock import RunClock, seconds_spent
from autoswift.run.disk import disk_errors_explained
from autoswift.run.files import append_line, dumps, read_lines, write_atomic
from autoswift.run.identity import identity
from autoswift.run.lock import is_owned, owned
from autoswift.run.manifest import MANIFEST, changed, facts_of, flaw, hashes_of, newest_whole, write_manifest
from autoswift.run.process import Child, reap
from autoswift.run.record import RunRecord
from autoswift.search.history import rebuild
from autoswift.testing.file_faults import FileFaults


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    return records.create(Task(sentence="x"), tmp_path / "run")


class Clocks:
    """A wall clock that can be set, and one that only goes on."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_000_000.0, 50.0

    def go(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@pytest.mark.parametrize("jump", [3600.0, -3600.0, 86_400.0 * 365, -0.5])
def test_a_wall_clock_that_is_set_takes_nothing_from_the_budget(jump: float) -> None:
    clocks = Clocks()
    clock = RunClock(Budget(hours=1), 600.0, now=lambda: clocks.wall, ticks=lambda: clocks.steady)
    clocks.go(100)
    clocks.wall += jump  # set by somebody, or the machine slept and only the wall clock went on
    clocks.go(50)
    assert clock.spent == pytest.approx(750)
    assert clock.left == pytest.approx(2850)
    # What a child is told is a moment of the clock that the child reads.
    assert clock.deadline == pytest.approx(clocks.wall + 2850)


def test_a_simulation_brings_one_clock_for_both() -> None:
    now = [5.0]
    clock = RunClock(Budget(hours=1), now=lambda: now[0])
    now[0] = 65.0
    assert (clock.spent, clock.ticks()) == (60.0, 65.0)


def test_what_earlier_owners_spent_is_counted_by_the_steady_clock(
    record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Clocks()
    monkeypatch.setattr(journals.time, "time", lambda: clocks.wall)
    monkeypatch.setattr(journals.time, "monotonic", lambda: clocks.steady)
    journal = record.journal
    journal.event("session")
    clocks.go(30)
    journal.event("note", text="one")
    clocks.wall -= 7200
    clocks.go(10)
    journal.event("note", text="two")
    rows = journal.events()
    assert seconds_spent(rows) == pytest.approx(40)
    assert [r["jumped"] for r in rows if r["kind"] == "clock"] == [-7200.0], "and it is told"
    assert [r["kind"] for r in rows] == ["session", "note", "clock", "note"]


def test_records_from_before_there_were_ticks_are_counted_by_the_wall_clock() -> None:
    old = [{"kind": "session", "time": 10.0}, {"kind": "note", "time": 40.0}]
    assert seconds_spent(old) == 30.0
    assert seconds_spent([old[0], {"kind": "note", "time": 4.0}]) == 0.0, "never less than nothing"


def test_an_attempt_whose_owner_died_costs_its_seconds_on_all_its_devices() -> None:
    lines = [
        {"event": "proposed", "trial": 1, "time": 0.0, "parameters": {}, "origin": "prior"},
        {"event": "started", "trial": 1, "time": 100.0, "ticks": 5.0, "attempt": 1, "overrides": {}},
        # The wall clock was set back in between.
        {"event": "progress", "trial": 1, "time": 60.0, "ticks": 25.0, "step": 3, "metrics": {"loss": 1.0}},
    ]
    assert rebuild(lines)[1].device_seconds == 20.0
    assert rebuild(lines, devices=4)[1].device_seconds == 80.0
    lost = {"status": "failed", "symptom": "interrupted", "device_seconds": 80.0}
    ended = {"event": "ended", "trial": 1, "time": 61.0, "ticks": 1.0, "attempt": 1, "outcome": lost, "final": False}
    assert rebuild([*lines, ended], devices=4)[1].device_seconds == 80.0, "once written down it is not counted again"


def test_a_remedy_outlives_an_owner_who_died_before_the_next_attempt() -> None:
    failed = {"status": "failed", "symptom": "device_out_of_memory"}
    lines = [
        {"event": "proposed", "trial": 1, "time": 0.0, "parameters": {}, "origin": "prior"},
        {"event": "started", "trial": 1, "time": 1.0, "attempt": 1, "overrides": {}},
        {
            "event": "ended",
            "trial": 1,
            "time": 2.0,
            "attempt": 1,
            "outcome": failed,
            "final": False,
            "overrides": {"micro_batch_limit": 2},
        },
    ]
    trial = rebuild(lines)[1]
    assert trial.overrides == {"micro_batch_limit": 2}
    assert not trial.done


def test_a_number_that_was_used_again_is_another_process(record: RunRecord) -> None:
    stranger = subprocess.Popen(["sleep", "30"], start_new_session=True)
    try:
        entry = {
            "pid": stranger.pid,
            "created": time.time(),  # by the second the same
            "identity": "another-boot:12345",
            "name": "old",
            "argv": ["x"],
        }
        write_atomic(record.folder / "processes" / f"{stranger.pid}.json", dumps(entry))
        assert reap(record.folder) == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_group_without_its_leader_is_ended_only_when_it_carries_the_mark(tmp_path: Path) -> None:
    other = subprocess.Popen(["sh", "-c", "sleep 60 >/dev/null & exec true"], start_new_session=True)
    other.wait()
    (tmp_path / "processes").mkdir()
    row = {"pid": other.pid, "created": time.time(), "identity": "gone:1", "name": "not ours", "argv": []}
    (tmp_path / "processes" / "1.json").write_text(dumps(row), encoding="utf-8")
    try:
        assert reap(tmp_path) == [], "a stranger's group"
    finally:
        os.killpg(other.pid, 9)


@pytest.mark.parametrize(
    "content",
    ["", "{", '{"pid": 1}', '{"pid": "x", "created": 0, "name": "a"}', '{"pid":0,"created":1,"name":"a"}', "[]"],
)
def test_a_damaged_registration_ends_nobody_and_blocks_nothing(content: str, record: RunRecord) -> None:
    folder = record.folder / "processes"
    folder.mkdir()
    (folder / "77.json").write_text(content, encoding="utf-8")
    assert reap(record.folder) == []
    assert list(folder.iterdir()) == []


def test_a_process_is_known_by_more_than_its_number() -> None:
    assert identity(os.getpid()) == identity(os.getpid()) != ""
    later = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert identity(later.pid) not in ("", identity(os.getpid()))
    finally:
        later.communicate(b"\n", timeout=30)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert identity(gone.pid) == ""


def test_a_child_that_cannot_be_registered_does_not_stay(record: RunRecord) -> None:
    env = {"PATH": os.environ["PATH"]}
    script = f"echo $$ > {record.folder}/pid; exec sleep 60"
    with FileFaults(record.folder / "processes", "write", 1), pytest.raises(DiskFull):
        Child(["sh", "-c", script], env, record.folder, "sleeper", record.folder / "log")
    assert reap(record.folder) == []
    alive = subprocess.run(["pgrep", "-f", f"{record.folder}/pid"], capture_output=True, text=True, check=False)
    assert alive.stdout == ""


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [(errno.EIO, DiskError, "does not work"), (errno.EROFS, DiskError, "read-only"), (errno.EDQUOT, DiskFull, "full")],
)
def test_what_a_disk_does_is_said_in_words(number: int, kind: type[DiskError], says: str) -> None:
    with pytest.raises(kind, match=says) as caught, disk_errors_explained("/some/place"):
        raise OSError(number, os.strerror(number))
    assert "/some/place" in caught.value.what
    assert caught.value.exit_code == 2
    assert isinstance(caught.value, DiskFull) == (kind is DiskFull)


def test_a_short_write_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:3]))
    append_line(tmp_path / "a.jsonl", {"text": "退货" * 50})
    write_atomic(tmp_path / "b.json", "x" * 100)
    monkeypatch.undo()
    assert read_lines(tmp_path / "a.jsonl") == [{"text": "退货" * 50}]
    assert (tmp_path / "b.json").read_text() == "x" * 100


def test_a_run_on_a_disk_mounted_read_only_can_be_looked_at(record: RunRecord) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    record.journal.event("note", text="x")
    with owned(record.folder):
        pass
    folder = str(record.folder)
    if subprocess.run(["mount", "--bind", folder, folder], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True, capture_output=True)
        assert record.task().sentence == "x"
        assert not is_owned(record.folder)
        with pytest.raises(DiskError, match="read-only"), owned(record.folder):
            pass
        with pytest.raises(DiskError, match="read-only"):
            record.journal.event("note", text="y")
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_one_damaged_run_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSWIFT_HOME", str(tmp_path / "home"))
    good, bad = records.create(Task(sentence="a")), records.create(Task(sentence="b"))
    path = bad.folder / "run.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"b"', '"c"'), encoding="utf-8")
    assert [r.folder for r in records.all_runs()] == [good.folder, bad.folder]
    assert bad.id == bad.folder.name
    with pytest.raises(InputError, match="damaged"):
        bad.task()
    from autoswift.cli.show import run_row

    assert [run_row(r)["state"] for r in records.all_runs()] == ["new", "damaged"]


def test_what_a_killed_owner_had_not_finished_is_removed(record: RunRecord) -> None:
    for name in (".run.json.ab12cd_9", "steps/.merge.json.12345678", "plan/.1.json.abcdefgh"):
        (record.folder / name).parent.mkdir(exist_ok=True)
        (record.folder / name).write_text("{", encoding="utf-8")
    assert record.mend() == []
    assert sorted(p.name for p in record.folder.iterdir()) == ["plan", "run.json", "steps"]


def checkpoint(folder: Path, step: int, **facts: object) -> Path:
    place = folder / f"checkpoint-{step}"
    place.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt"):
        (place / name).write_bytes(os.urandom(500))
    (place / "trainer_state.json").write_text("{}", encoding="utf-8")
    write_manifest(place, step=step, **facts)
    return place


def test_a_checkpoint_is_what_its_manifest_says(tmp_path: Path) -> None:
    place = checkpoint(tmp_path, 5, trial=2)
    assert flaw(place) == ""
    assert facts_of(place) == {"step": 5, "trial": 2}
    assert sorted(hashes_of(place)) == ["model.safetensors", "optimizer.pt", "trainer_state.json"]
    (place / "README.md").write_text("beside", encoding="utf-8")
    assert flaw(place) == "", "what came later is no flaw"
    os.truncate(place / "optimizer.pt", 499)
    assert "499 bytes, not 500" in flaw(place)
    (place / "optimizer.pt").unlink()
    assert "missing" in flaw(place)
    (place / MANIFEST).unlink()
    assert "never complete" in flaw(place)
    assert "not there" in flaw(tmp_path / "checkpoint-6")


def test_the_newest_whole_one_is_taken_and_the_torn_ones_are_named(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-200").mkdir()
    (tmp_path / "checkpoint-100" / "model.safetensors").write_bytes(b"half")
    found, flaws = newest_whole(tmp_path.glob("checkpoint-*"))
    assert found == tmp_path / "checkpoint-10"
    assert sorted(Path(name).name for name in flaws) == ["checkpoint-100", "checkpoint-200"]


def test_an_attempt_goes_on_from_what_the_one_before_left_whole(tmp_path: Path) -> None:
    settings = {"learning_rate": 1e-3, "max_steps": 50, "method": "lora"}
    same = identity_of(settings)
    kept = tmp_path / "trials" / "3" / "attempt-1" / "output"
    checkpoint(kept, 10, settings=same)
    torn = checkpoint(kept, 20, settings=same)
    (torn / "optimizer.pt").write_bytes(b"x")
    checkpoint(tmp_path / "trials" / "3" / "attempt-2" / "output", 30, settings=identity_of(settings | {"seed": 1}))
    checkpoint(kept, 50, settings=same)  # its last one: nothing would be left to train

    def begins(attempt: int, given: Path | None = None, **more: object) -> tuple[Path | None, str]:
        trial = Trial(number=3, attempt=attempt, parameters={}, tokens=1)
        return beginning(tmp_path, trial, settings | more, given)

    assert begins(1) == (None, "")
    found, words = begins(3)
    assert found == kept / "checkpoint-10"
    assert "checkpoint-20" in words
    assert begins(3, learning_rate=5e-4)[0] is None, "with other settings it begins anew"
    given = Path("trials/3/attempt-1/output/checkpoint-10")
    assert begins(1, given) == (tmp_path / given, "")
    assert begins(1, Path("trials/3/attempt-1/output/checkpoint-20"))[0] is None, "a torn one is not gone on from"


def test_a_full_disk_leaves_a_checkpoint_unsealed(tmp_path: Path) -> None:
    place = tmp_path / "checkpoint-1"
    place.mkdir()
    (place / "model.safetensors").write_bytes(b"abc")
    with FileFaults(tmp_path, "write", 1), pytest.raises(DiskFull):
        write_manifest(place)
    assert "never complete" in flaw(place)
    write_manifest(place)
    assert flaw(place) == ""
    assert json.loads((place / MANIFEST).read_text(encoding="utf-8"))["version"] == 1


def test_a_checkpoint_of_an_engine_without_manifests_is_taken_as_it_is(tmp_path: Path) -> None:
    place = checkpoint(tmp_path, 3)
    assert changed(place) == ""
    os.truncate(place / "optimizer.pt", 1)
    assert "1 bytes" in changed(place)
    (place / MANIFEST).unlink()
    assert changed(place) == ""
    assert "not there" in changed(tmp_path / "gone")
