"""The run folder: whole or absent, resumed by hash, owned by one, children never left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.domain.artifact import Artifact, StepResult
from autoswift.domain.budget import Budget
from autoswift.domain.task import Task
from autoswift.errors import DiskFull, InputError, RunLocked, RunNotFound
from autoswift.run import record as records
from autoswift.run.clock import RunClock, seconds_spent
from autoswift.run.files import append_line, digest, dumps, read_lines, write_atomic
from autoswift.run.lock import is_owned, owned
from autoswift.run.process import Child, reap
from autoswift.run.record import RunRecord
from autoswift.run.steps import step

ENV = {"PATH": os.environ["PATH"]}


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunRecord:
    monkeypatch.setenv("AUTOSWIFT_HOME", str(tmp_path / "home"))
    return records.create(Task(sentence="x"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)


@given(json_values)
def test_dumps_keeps_every_json_value(value: object) -> None:
    assert json.loads(dumps(value)) == value


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_digest_ignores_the_order_of_keys(value: dict[str, int]) -> None:
    assert digest(value) == digest(dict(reversed(value.items())))


def test_dumps_never_writes_nan() -> None:
    assert dumps({"loss": float("nan"), "rate": float("inf")}) == '{"loss": null, "rate": null}'


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    write_atomic(path, "old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_torn_line_is_left_out_and_not_glued_to(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    append_line(path, {"trial": 1})
    with path.open("a") as f:
        f.write('{"trial": 2, "met')
    append_line(path, {"trial": 3})
    assert [r["trial"] for r in read_lines(path)] == [1, 3]


def test_one_owner_at_a_time_and_a_dead_one_does_not_block(record: RunRecord) -> None:
    code = (
        "import sys,time; from pathlib import Path; from autoswift.run.lock import owned\n"
        "with owned(Path(sys.argv[1])):\n print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(record.folder)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(RunLocked, match=str(other.pid)), owned(record.folder):
            pass
        assert is_owned(record.folder)
        other.kill()
    with owned(record.folder):
        assert is_owned(record.folder)
    assert not is_owned(record.folder)


def test_a_finished_step_is_not_run_again_until_its_inputs_or_artefacts_change(record: RunRecord) -> None:
    calls: list[int] = []

    def work() -> StepResult:
        calls.append(1)
        (record.folder / "made").write_text("x")
        return StepResult(value={"n": len(calls)}, artifacts=(Artifact(path="made", kind="merged"),))

    for _ in range(2):
        assert step(record, record.journal, "merge", {"a": 1}, work).value == {"n": 1}
    assert step(record, record.journal, "merge", {"a": 2}, work).value == {"n": 2}
    (record.folder / "made").unlink()
    assert step(record, record.journal, "merge", {"a": 2}, work).value == {"n": 3}
    assert step(record, record.journal, "merge", {"a": 2}, work, lambda: False).value == {"n": 4}
    states = [e["state"] for e in record.journal.events() if e["kind"] == "stage"]
    assert states.count("finished") == 4
    assert states.count("reused") == 1


def test_a_failed_step_leaves_no_result(record: RunRecord) -> None:
    def work() -> StepResult:
        raise InputError("wrong")

    with pytest.raises(InputError):
        step(record, record.journal, "merge", {}, work)
    assert record.step("merge") is None


def test_runs_are_found_by_id_prefix_and_path(record: RunRecord, tmp_path: Path) -> None:
    other = records.create(Task(sentence="y"), tmp_path / "elsewhere")
    assert records.find(record.id).folder == record.folder
    assert records.find(str(other.folder)).id == other.id
    assert records.find(other.id).folder == other.folder
    assert {r.id for r in records.all_runs()} == {record.id, other.id}
    with pytest.raises(RunNotFound, match="fits"):
        records.find(record.id[:4])
    with pytest.raises(RunNotFound):
        records.find("nothing-like-it")


def test_a_run_needs_an_empty_folder(record: RunRecord, tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="empty"):
        records.create(Task(sentence="y"), used)
    assert (used / "mine.txt").read_text() == "keep"
    assert not (used / "run.json").exists()


def test_the_clock_leaves_out_the_time_between_owners() -> None:
    events = [
        {"kind": "session", "time": 100.0},
        {"kind": "stage", "time": 130.0},
        {"kind": "session", "time": 1000.0},
        {"kind": "waited", "time": 1100.0, "seconds": 99.0},
        {"kind": "stage", "time": 1104.0},
    ]
    assert seconds_spent(events) == 35.0
    clock = RunClock(Budget(hours=1), 35.0)
    assert 3560 < clock.left <= 3565
    clock.exclude(100)
    assert 3660 < clock.left <= 3665


def wait_gone(pid: int, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_a_child_reports_its_code_and_its_killer(record: RunRecord) -> None:
    log = record.folder / "logs" / "child.log"
    child = Child(["sh", "-c", "echo out; exit 7"], ENV, record.folder, "seven", log)
    assert child.wait(10) == 7
    assert child.tail() == "out"
    child = Child(["sh", "-c", "kill -9 $$"], ENV, record.folder, "killed", log)
    assert child.wait(10) == 128 + signal.SIGKILL
    assert not list((record.folder / "processes").iterdir())


def test_ending_a_child_ends_what_it_started(record: RunRecord) -> None:
    note = record.folder / "grandchild"
    script = f"trap '' TERM; sleep 100 & echo $! > {note}; wait"
    child = Child(["sh", "-c", script], ENV, record.folder, "parent", record.folder / "log")
    while not note.exists() or not note.read_text().strip():
        time.sleep(0.02)
    child.end()
    assert wait_gone(int(note.read_text()))


OWNER = """
import sys, time, os
from pathlib import Path
from autoswift.run.process import Child
folder = Path(sys.argv[1])
script = f"echo $$ > {folder}/grandchild; exec sleep 100"
child = Child(["sh", "-c", script], {"PATH": os.environ["PATH"]}, folder, "sleeper", folder / "log")
while not (folder / "grandchild").exists() or not (folder / "grandchild").read_text().strip():
    time.sleep(0.02)
print(child.pid, flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("keeper_dies_too", [False, True])
def test_a_killed_owner_leaves_nothing_running(record: RunRecord, keeper_dies_too: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, str(record.folder)], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        keeper = int(owner.stdout.readline())
        grandchild = int((record.folder / "grandchild").read_text())
        if keeper_dies_too:
            os.kill(keeper, signal.SIGKILL)
        owner.kill()
    if keeper_dies_too:  # then nobody is left to end it but the next owner of the run
        assert psutil.pid_exists(grandchild)
        assert reap(record.folder) == ["sleeper"]
    assert wait_gone(grandchild)
    reap(record.folder)
    assert not list((record.folder / "processes").iterdir())


def test_reaping_spares_a_stranger_with_the_same_number(record: RunRecord) -> None:
    stranger = subprocess.Popen(["sleep", "30"], start_new_session=True)
    try:
        entry = {"pid": stranger.pid, "created": time.time() - 9999, "name": "old", "argv": ["x"]}
        # A number that was reused: the group is younger than the entry by far, but not ours.
        write_atomic(record.folder / "processes" / f"{stranger.pid}.json", dumps(entry | {"created": time.time() + 99}))
        assert reap(record.folder) == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
