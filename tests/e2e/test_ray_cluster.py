"""Searches on real Ray clusters: the same proposals as here, lost nodes survived, nothing left running."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from autoswift.domain.budget import Budget
from autoswift.domain.profile import Device
from autoswift.domain.protocols import SearchOutcome
from autoswift.run.clock import RunClock
from autoswift.run.journal import RunJournal
from autoswift.run.plugins import load
from autoswift.search.executors.ray_cluster import cores
from autoswift.search.searcher import Search
from support import SMALL, Cli, lines, processes_of, small_data, tiny_model, wait_for
from unit.paced_engine import PacedEngine, context
from unit.plans import make_plan

pytest.importorskip("ray")
CHILD = Path(__file__).parents[1] / "ray_child.py"
TOKEN = "1f" * 32
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}


def search(folder: Path, executor: str, trials: int, listen: Any = None, **how: Any) -> SearchOutcome:
    """A search on as many cores as there are, so that one trial runs at a time."""
    plan = make_plan(trials=trials)
    plan = replace(plan, training=replace(plan.training, threads=cores()))
    journal, budget = RunJournal(folder), Budget(trials=trials)
    if listen:
        journal.listen(listen)
    runner = load("executors", executor)(Device(kind="cpu", name="test"), RunClock(budget), "en")
    outcome = runner.run(Search(plan), PacedEngine(context(folder, **how)), plan, budget, journal)
    assert isinstance(outcome, SearchOutcome)
    return outcome


def proposals(folder: Path) -> list[tuple[int, Any]]:
    return [(r["trial"], r["parameters"]) for r in lines(folder / "trials.jsonl") if r["event"] == "proposed"]


def starts(folder: Path) -> list[tuple[int, int]]:
    """What really began, as the engine wrote it down."""
    return [(r["trial"], r["attempt"]) for r in lines(folder / "starts.jsonl")]


def knock(address: str, token: str | None) -> str:
    """What somebody hears who tries to join with another token, or none."""
    given = {"RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | QUIET | LOOPBACK | given
    argv = [sys.executable, str(CHILD), "knock", address]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=100).stdout.strip()


def family() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that live; numbers that were given anew are not theirs."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.mark.e2e
def test_both_executors_propose_the_same_and_nothing_stays(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    fault = [[2, 1, "device_out_of_memory"]]
    seen: dict[str, Any] = {"listening": set()}

    def look(row: Mapping[str, Any]) -> None:
        if row["kind"] == "placed" and "processes" not in seen:
            seen["processes"] = family()
            driver = json.loads((there / "ray" / "driver.json").read_text(encoding="utf-8"))
            secret = [Path(driver["temporary"]), there / "ray" / "token"]
            seen["modes"] = [stat.S_IMODE(one.stat().st_mode) for one in secret]
            for process in seen["processes"]:
                with suppress(psutil.NoSuchProcess):
                    seen["listening"] |= {c.laddr.ip for c in process.net_connections("tcp") if c.status == "LISTEN"}

    for folder in (here, there):
        folder.mkdir()
    before = {p.pid for p in family()}
    local = search(here, "local", 3, faults=fault)
    ray = search(there, "ray", 3, look, faults=fault)
    assert proposals(there) == proposals(here)
    assert starts(there) == starts(here) == [(1, 1), (2, 1), (2, 2), (3, 1)]
    overrides = [r["overrides"] for r in lines(there / "starts.jsonl")]
    assert overrides == [r["overrides"] for r in lines(here / "starts.jsonl")]
    assert overrides[2], "an attempt after out-of-memory is not the same again"
    assert ray.best == local.best
    assert {n: (o.status, o.metrics["nll"]) for n, o in ray.outcomes.items()} == {
        n: (o.status, o.metrics["nll"]) for n, o in local.outcomes.items()
    }
    assert {ip.removeprefix("::ffff:") for ip in seen["listening"]} == {"127.0.0.1"}
    assert len(seen["processes"]) >= 5, "driver, GCS, raylet, a worker, an agent"
    assert {p.pid for p in family()} <= before
    assert not alive(seen["processes"])
    assert not list((there / "processes").glob("*"))
    assert seen["modes"] == [0o700, 0o600]
    assert not (there / "ray" / "token").exists()
    assert not Path(json.loads((there / "ray" / "driver.json").read_text())["temporary"]).exists()


@dataclass
class Nodes:
    """A cluster of one-core nodes, each a process of this machine."""

    process: subprocess.Popen[str]
    address: str
    ids: list[str]

    def kill(self, node: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"kill {node}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "killed\n"


@contextmanager
def cluster(count: int) -> Iterator[Nodes]:
    environment = os.environ | QUIET | LOOPBACK | {"RAY_AUTH_TOKEN": TOKEN}
    argv = [sys.executable, str(CHILD), "nodes", str(count)]
    with subprocess.Popen(argv, env=environment, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            yield Nodes(process, said["address"], said["nodes"])
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def owner(folder: Path, trials: int, pause: float, **variables: str) -> subprocess.Popen[bytes]:
    """A process that searches in a run folder."""
    argv = [sys.executable, str(CHILD), "search", str(folder), str(trials), str(pause), "ray"]
    with (folder / "owner.log").open("ab") as log:
        return subprocess.Popen(argv, env=os.environ | variables, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def placed(folder: Path) -> dict[int, str]:
    """Trial number to the node that it runs on."""
    return {e["trial"]: e["node"].split()[1] for e in lines(folder / "events.jsonl") if e["kind"] == "placed"}


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(1000)  # one minute or two on a quiet machine
def test_a_node_that_dies_loses_no_trial_and_runs_none_twice(tmp_path: Path) -> None:
    with cluster(3) as nodes:
        assert knock(nodes.address, None).startswith(("AuthenticationError", "ConnectionError", "RuntimeError"))
        assert "let in" not in knock(nodes.address, "00" * 32)
        given = QUIET | LOOPBACK | {"RAY_AUTH_TOKEN": TOKEN, "TEST_RAY_ADDRESS": nodes.address}
        with owner(tmp_path, 6, 0.25, **given) as process:
            wait_for(lambda: len(placed(tmp_path)) >= 3, 120, "three trials on three nodes")
            running = placed(tmp_path)
            assert len(set(running.values())) == 3
            hit, node = next((n, one) for n, one in running.items() if not nodes.ids[0].startswith(one))
            nodes.kill(next(one for one in nodes.ids if one.startswith(node)))
            assert process.wait(400) == 0, (tmp_path / "owner.log").read_text()
    ended = [r for r in lines(tmp_path / "trials.jsonl") if r["event"] == "ended"]
    good = [r["trial"] for r in ended if r["outcome"]["status"] == "finished"]
    assert sorted(good) == [1, 2, 3, 4, 5, 6]
    assert [
        (r["trial"], r["outcome"]["symptom"], r["final"]) for r in ended if r["trial"] not in good or not r["final"]
    ] == [(hit, "node_lost", False)]
    assert sorted(starts(tmp_path)) == sorted([(n, 1) for n in range(1, 7)] + [(hit, 2)])
    assert sorted(r["trial"] for r in lines(tmp_path / "ends.jsonl")) == [1, 2, 3, 4, 5, 6]
    assert [n for n, _ in proposals(tmp_path)] == [1, 2, 3, 4, 5, 6], "a repeat is no new trial"
    assert [e["capacity"] for e in lines(tmp_path / "events.jsonl") if e["kind"] == "cluster"] == [3, 2]
    assert processes_of(tmp_path) == []


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(1000)  # one minute or two on a quiet machine
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_owner_that_is_ended_leaves_nothing_and_can_be_resumed(tmp_path: Path, how: signal.Signals) -> None:
    process = owner(tmp_path, 4, 0.1)
    wait_for(lambda: any(r["event"] == "ended" for r in lines(tmp_path / "trials.jsonl")), 120, "the first end")
    wait_for(lambda: len(starts(tmp_path)) > len(lines(tmp_path / "ends.jsonl")), 60, "a running trial")
    relatives = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(how)
    process.wait(60)
    wait_for(lambda: not alive(relatives), 30, "the end of all")
    assert processes_of(tmp_path) == []
    done = {r["trial"] for r in lines(tmp_path / "trials.jsonl") if r["event"] == "ended" and r["final"]}
    begun = len(starts(tmp_path))
    assert owner(tmp_path, 4, 0.02).wait(400) == 0, (tmp_path / "owner.log").read_text()
    assert not done & {n for n, _ in starts(tmp_path)[begun:]}, "a trial that had ended was run again"
    assert len(starts(tmp_path)) == len(set(starts(tmp_path)))
    assert json.loads((tmp_path / "owner.log").read_text().splitlines()[-1])["trials"] == 4
    assert processes_of(tmp_path) == []


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(1000)  # one minute or two on a quiet machine
def test_a_whole_run_with_the_real_engine_on_a_cluster_of_its_own(tmp_path: Path) -> None:
    cli, out = Cli(tmp_path / "home"), tmp_path / "run"
    cli.home.mkdir()
    done = cli(
        *("run", "customer service chat bot", "--data", str(small_data(tmp_path)), "--model", str(tiny_model())),
        *("--executor", "ray", "--budget-trials", "2", "--target", "none", "--yes", "--out", str(out), *SMALL),
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    plan = json.loads(sorted((out / "plan").glob("*.json"))[-1].read_text(encoding="utf-8"))
    assert plan["search"]["executor"] == "ray"
    ended = {r["trial"]: r["outcome"] for r in lines(out / "trials.jsonl") if r["event"] == "ended"}
    assert {o["status"] for o in ended.values()} == {"finished"}
    assert all((out / o["artifact"]).is_dir() for o in ended.values())
    assert {e["trial"] for e in lines(out / "events.jsonl") if e["kind"] == "placed"} >= set(ended)
    assert processes_of(out) == []
