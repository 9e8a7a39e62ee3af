"""A search whose trials share one resident worker, through the command line; the worker is killed in the middle."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import psutil
import pytest

from autoswift.run.manifest import flaw
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

pytestmark = pytest.mark.e2e


def workers(run: Path) -> list[psutil.Process]:
    """The resident workers, without their keepers."""
    return [p for p in processes_of(run, "packed_worker.py") if "keeper.py" not in " ".join(p.cmdline())]


def test_a_killed_worker_costs_no_trial(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    cli, run = Cli(tmp_path / "home"), tmp_path / "run"
    owner = cli.start(
        *("run", SENTENCE, "--data", str(small_data(tmp_path)), "--model", str(tiny_model()), "--out", str(run)),
        *("--yes", "--target", "none", "--budget-trials", "3", "--budget-hours", "0.5", *SMALL),
    )
    try:
        wait_for(
            lambda: (
                owner.poll() is not None or any(r["event"] == "progress" and r["trial"] == 2 for r in trial_lines(run))
            ),
            240,
            f"trial 2: {cli.log()[-2000:]}",
        )
        found = workers(run)
        assert len(found) == 1, cli.log()
        found[0].send_signal(signal.SIGKILL)
        wait_for(lambda: owner.poll() is not None or stage_state(run, "search") == "finished", 240, cli.log()[-2000:])
        assert stage_state(run, "search") == "finished", cli.log()
    finally:  # what follows the search is the main job's
        owner.send_signal(signal.SIGINT)
        owner.wait(60)
    plan = json.loads((run / "plan" / "1.json").read_text(encoding="utf-8"))
    decided = next(d for d in plan["decisions"] if d["name"] == "trial_packing")
    assert decided["value"] == plan["search"]["packed"] == 1
    assert decided["reverse_when"]["fact"] == "task.budget.trials"
    rows = lines(run / "trials.jsonl")
    ended = {r["trial"]: r["outcome"] for r in rows if r["event"] == "ended"}
    assert {n: o["status"] for n, o in ended.items()} == dict.fromkeys((1, 2, 3), "finished")
    assert [(r["trial"], r["attempt"]) for r in rows if r["event"] == "started"] == [(1, 1), (2, 1), (3, 1)]
    symptoms = [e["symptom"] for e in lines(run / "events.jsonl") if e["kind"] == "symptom"]
    assert symptoms == ["worker_lost"]
    assert len(list((run / "logs").glob("packed-*.log"))) == 2, "one worker, and the one after it"
    for number in (1, 2, 3):
        steps = [r["step"] for r in rows if r["event"] == "progress" and r["trial"] == number]
        assert steps == sorted(set(steps)), "each step once"
        assert flaw(run / ended[number]["artifact"]) == ""
        command = json.loads((run / f"trials/{number}/attempt-1/command.json").read_text(encoding="utf-8"))
        assert command["argv"][:2] == ["swift", "sft"]
    assert processes_of(run) == []
