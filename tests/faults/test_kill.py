"""`kill -9` of the owner, or of the child that does the work, at each stage: it ends well, nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from support import (
    SENTENCE,
    SMALL,
    Cli,
    lines,
    processes_of,
    small_data,
    stage_state,
    tiny_model,
    trial_lines,
    wait_for,
)

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

WORKERS = {"search": "swift.cli.sft", "train": "swift.cli.sft", "merge": "swift.cli.export", "serving": "llamacpp.py"}


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    (tmp_path / "home").mkdir()
    return Cli(tmp_path / "home")


@pytest.fixture
def out(cli: Cli, tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "run"
    cli("stop", str(tmp_path / "run"))


def arguments(out: Path, tmp_path: Path) -> list[str]:
    data = small_data(tmp_path)
    given = ["--data", str(data), "--model", str(tiny_model()), "--out", str(out), "--yes"]
    # A process a trial: the one that is killed shall be the one that the trial is.
    own = ["--set", "trial_packing=0"]
    return ["run", SENTENCE, *given, "--budget-trials", "3", "--budget-hours", "0.5", *own, *SMALL]


def ended(out: Path, *, final: bool = True) -> dict[int, dict[str, Any]]:
    rows = [r for r in trial_lines(out) if r["event"] == "ended" and r["final"] is final]
    return {r["trial"]: r["outcome"] for r in rows}


def reached(out: Path, stage: str) -> bool:
    """The stage is in the middle of its work."""
    progress = [r for r in trial_lines(out) if r["event"] == "progress"]
    if stage == "search":  # one trial has finished, the second one trains
        return any(r["trial"] == 2 for r in progress)
    if stage == "train":
        return any(r["trial"] == 0 for r in progress)
    if stage == "merge":
        return bool(processes_of(out, WORKERS["merge"]))
    return stage_state(out, "deploy") == "finished" and stage_state(out, "loadtest") == "started"


def workers(out: Path, stage: str) -> list[psutil.Process]:
    """The processes that do the stage's work; their keepers only carry the words in their arguments."""
    return [p for p in processes_of(out, WORKERS[stage]) if "keeper.py" not in " ".join(p.cmdline())]


def left_behind(out: Path) -> list[str]:
    """What still runs for the run, apart from a served model and its supervisor."""
    served = out / "serve"
    found = []
    for process in processes_of(out):
        try:
            line = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if str(served) not in line and "llamacpp" not in line:
            found.append(line)
    return found


def check_done(out: Path) -> None:
    state = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert state["state"] == "done", state
    finished = ended(out)
    assert sorted(finished) == [0, 1, 2, 3]
    assert all(o["status"] == "finished" for o in finished.values())
    proposed = [r["trial"] for r in trial_lines(out) if r["event"] == "proposed"]
    assert sorted(proposed) == [0, 1, 2, 3], "a trial was proposed twice or a further one begun"
    assert httpx.get(state["result"]["address"] + "/models", timeout=10).status_code == 200
    assert left_behind(out) == []


@pytest.mark.parametrize("stage", ["search", "train", "merge", "serving"])
def test_the_owner_is_killed(stage: str, cli: Cli, out: Path, tmp_path: Path) -> None:
    owner = cli.start(*arguments(out, tmp_path))
    wait_for(lambda: owner.poll() is not None or reached(out, stage), 400, f"{stage}: {cli.log()[-2000:]}")
    assert owner.poll() is None, cli.log()
    if stage == "search":
        second = cli("resume", str(out), "--yes")
        assert second.returncode == 2
        assert str(owner.pid) in second.stderr
        assert "Traceback" not in second.stderr
    finished = ended(out)
    owner.send_signal(signal.SIGKILL)
    owner.wait(10)
    wait_for(lambda: left_behind(out) == [], 15, f"the end of {left_behind(out)}")
    steps = {p.name: p.read_bytes() for p in (out / "steps").iterdir()}
    resumed = cli("resume", str(out), "--yes", timeout=600)
    assert resumed.returncode == 0, resumed.stderr
    check_done(out)
    for number, outcome in finished.items():
        assert ended(out)[number] == outcome
    started = [(r["trial"], r["attempt"]) for r in trial_lines(out) if r["event"] == "started"]
    assert len(started) == len(set(started))
    for number in finished:
        assert [t for t, _ in started].count(number) == 1, "a finished trial was run again"
    for name, content in steps.items():
        assert (out / "steps" / name).read_bytes() == content, f"{name} was done again"


@pytest.mark.parametrize("stage", ["search", "train", "merge", "serving"])
def test_the_worker_is_killed(stage: str, cli: Cli, out: Path, tmp_path: Path) -> None:
    owner = cli.start(*arguments(out, tmp_path))
    wait_for(lambda: owner.poll() is not None or reached(out, stage), 400, f"{stage}: {cli.log()[-2000:]}")
    victims = wait_for(lambda: workers(out, stage), 20, f"a {WORKERS[stage]} process")
    for victim in victims:
        os.kill(victim.pid, signal.SIGKILL)
    code = owner.wait(600)
    if code != 0:  # the load test may have met a server that was just coming up again
        assert stage == "serving", cli.log()
        resumed = cli("resume", str(out), "--yes", timeout=600)
        assert resumed.returncode == 0, resumed.stderr
    check_done(out)
    symptoms = [e for e in lines(out / "events.jsonl") if e["kind"] == "symptom"]
    if stage != "serving":
        assert [s["symptom"] for s in symptoms] == ["killed"]
    if stage in ("search", "train"):
        number = 2 if stage == "search" else 0
        assert ended(out, final=False)[number]["symptom"] == "killed"
        remedies = [e for e in lines(out / "events.jsonl") if e["kind"] == "remedy"]
        assert [r["trial"] for r in remedies] == [number]


def test_ctrl_c_ends_everything_and_resume_goes_on(cli: Cli, out: Path, tmp_path: Path) -> None:
    owner = cli.start(*arguments(out, tmp_path))
    wait_for(lambda: owner.poll() is not None or reached(out, "search"), 400, cli.log()[-2000:])
    owner.send_signal(signal.SIGINT)
    assert owner.wait(30) == 130
    assert "resume" in cli.log()
    assert processes_of(out) == []
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["state"] == "interrupted"
    assert cli("resume", str(out), "--yes", timeout=600).returncode == 0
    check_done(out)
