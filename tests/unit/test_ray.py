"""The executor `ray` without a cluster: what it asks for, what it says, and how it answers the driver."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_decide import ONLINE, RTX, inputs
from typer.testing import CliRunner

from autoswift.cli.app import app
from autoswift.decide import stages
from autoswift.decide.planner import make_plan as decided_plan
from autoswift.decide.stages import check_plug_ins
from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.trial import Trial
from autoswift.engines.curves import TINY, CurveTable
from autoswift.engines.simulated import Landscape, SimulatedEngine, TableLandscape
from autoswift.errors import EnvironmentMissing, InputError, StageFailed
from autoswift.run.files import dumps, write_atomic
from autoswift.run.journal import RunJournal
from autoswift.run.plugins import load
from autoswift.run.process import Child, is_same_process, reap
from autoswift.search.configuration import settings_in_force
from autoswift.search.executors import ray_cluster, ray_session
from autoswift.search.executors.kuberay import ClusterShape, manifests
from autoswift.search.executors.ray import RayExecutor, recipe
from autoswift.search.executors.ray_cluster import Lost, Nodes, Placed, Result, needs, own_token, start
from autoswift.search.executors.ray_session import AGENT, RaySession
from autoswift.search.history import rebuild
from unit.paced_engine import PacedEngine, context
from unit.plans import make_plan

CPU = Device(kind="cpu", name="test")
CARD = Device(kind="cuda", name="test")


def plan_with(*, address: str = "", share: float = 1.0, devices: int = 1, threads: int = 1) -> Plan:
    plan = make_plan()
    return replace(
        plan,
        training=replace(plan.training, devices=devices, threads=threads),
        search=replace(plan.search, ray_address=address, device_share=share),
    )


def trial(number: int = 1, attempt: int = 1, **fields: Any) -> Trial:
    return Trial(number=number, attempt=attempt, parameters={"learning_rate": 1e-3}, tokens=4000, **fields)


def test_it_is_found_by_its_name() -> None:
    assert load("executors", "ray") is RayExecutor


@pytest.mark.parametrize(
    ("device", "plan", "need"),
    [
        (CPU, plan_with(threads=1), {"CPU": 1}),
        (CPU, plan_with(threads=6, address="a:1"), {"CPU": 6}),
        (CARD, plan_with(threads=0), {"CPU": 1, "GPU": 1}),
        (CARD, plan_with(threads=0, share=0.5), {"CPU": 1, "GPU": 0.5}),
        (CARD, plan_with(threads=4, devices=8), {"CPU": 4, "GPU": 8}),
        (Device(kind="npu", name="910B"), plan_with(threads=0, devices=2), {"CPU": 1, "NPU": 2}),
    ],
)
def test_a_trial_takes_its_threads_and_all_devices_that_share_it(
    device: Device, plan: Plan, need: dict[str, float]
) -> None:
    assert needs(plan, device) == need


def test_a_run_gets_a_token_of_its_own_that_only_its_owner_can_read(tmp_path: Path) -> None:
    seen = set()
    for _ in range(2):
        environment = own_token(tmp_path)
        path = Path(environment["RAY_AUTH_TOKEN_PATH"])
        assert environment["RAY_AUTH_MODE"] == "token"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        seen.add(path.read_text(encoding="ascii"))
    assert len(seen) == 2
    assert min(len(token) for token in seen) >= 64


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:port", "http://head:6379", "head:6379 --x", ""])
def test_an_address_that_is_none_is_refused_before_anything_starts(tmp_path: Path, address: str) -> None:
    if not address:
        assert ray_cluster.ADDRESS.fullmatch("auto")
        assert ray_cluster.ADDRESS.fullmatch("[::1]:6379")
        return
    with pytest.raises(InputError, match="no address"):
        start(plan_with(address=address), CPU, tmp_path)
    assert not (tmp_path / "processes").exists()


def test_a_cluster_without_a_token_must_be_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autoswift_home: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [one for one in os.environ if one.startswith("RAY_")]:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="no token") as caught:
        start(plan_with(address="head:6379"), CPU, tmp_path)
    assert "RAY_AUTH_TOKEN_PATH" in caught.value.fix
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert ray_cluster._given() == {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "secret"}


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentMissing, match="not installed") as caught:
        start(plan_with(), CPU, tmp_path)
    assert "autoswift[ray]" in caught.value.fix
    assert caught.value.exit_code == 2
    monkeypatch.setattr(stages, "find_spec", lambda name: None)
    check_plug_ins(make_plan())
    with pytest.raises(EnvironmentMissing, match="not installed"):  # before anything begins
        check_plug_ins(make_plan(executor="ray"))


def test_an_engine_that_cannot_be_made_again_is_refused() -> None:
    with pytest.raises(StageFailed, match="cannot run on a Ray cluster"):
        recipe(object(), make_plan())  # type: ignore[arg-type]


def agent_argv(folder: Path, one: Trial, **how: Any) -> list[str]:
    """The command of an agent on a paced engine."""
    spec = {
        "paths": [p for p in sys.path if p],
        "engine": recipe(PacedEngine(context(folder, **how)), make_plan()),
        "plan": make_plan(),
        "device": CPU,
        "trial": one,
        "checkpoint": None,
        "stop_file": folder / "stop",
    }
    write_atomic(folder / "spec.json", dumps(spec))
    return [sys.executable, "-P", str(AGENT), str(folder / "spec.json")]


def events_here(folder: Path, one: Trial, **how: Any) -> list[Any]:
    folder.mkdir()
    session = PacedEngine(context(folder, **how)).open(make_plan(), CPU)
    session.submit(one)
    seen: list[Any] = []
    while not seen or seen[-1].kind not in ("finished", "failed"):
        seen += session.events(0.1)
    return seen


@pytest.mark.parametrize("fault", [[], [[1, 1, "device_out_of_memory"]]])
def test_an_agent_reports_what_the_engine_does_here(tmp_path: Path, fault: list[Any]) -> None:
    here = events_here(tmp_path / "here", trial(), faults=fault)
    done = subprocess.run(agent_argv(tmp_path, trial(), faults=fault), capture_output=True, timeout=60, check=True)
    there = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(e["kind"], e["step"], e["metrics"]) for e in there] == [(e.kind, e.step, e.metrics) for e in here]
    assert there[-1]["kind"] == ("failed" if fault else "finished")


def test_an_agent_hands_a_stop_to_its_trial(tmp_path: Path) -> None:
    long = replace(trial(), tokens=400_000)
    argv = agent_argv(tmp_path, long, pause=0.02)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        first = [agent.stdout.readline() for _ in range(5)]
        (tmp_path / "stop").touch()
        rest = agent.stdout.readlines()
    assert agent.returncode == 0
    last = json.loads(rest[-1])
    assert last["kind"] == "finished"
    assert last["artifact"] is not None
    assert len(first) + len(rest) < 500 < 400_000 / 400


@dataclass
class FakeDriver:
    """Says what a test wants and keeps what it was told."""

    messages: deque[Any] = field(default_factory=deque)
    told: list[Mapping[str, Any]] = field(default_factory=list)
    ready: Nodes = field(default_factory=lambda: Nodes(kind="ready", capacity=2, nodes=[{"CPU": 1.0}] * 2))
    ended: bool = False

    def send(self, **message: Any) -> None:
        self.told.append(message)

    def receive(self, timeout: float) -> Any:
        return self.messages.popleft() if self.messages else None

    def end(self) -> None:
        self.ended = True


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver()
    monkeypatch.setattr(ray_session, "start", lambda plan, device, folder: fake)
    return fake


@pytest.fixture
def session(tmp_path: Path, driver: FakeDriver) -> RaySession:
    engine = PacedEngine(context(tmp_path))
    return RaySession(engine, recipe(engine, make_plan()), make_plan(), CPU, RunJournal(tmp_path))


def report(number: int, attempt: int, batch: int, kind: str = "progress", step: int = 1) -> Result:
    line = {
        "kind": "result",
        "batch": batch,
        "number": number,
        "attempt": attempt,
        "events": [{"kind": kind, "trial": number, "time": 1.0, "step": step, "metrics": {"loss": 1.0}}],
    }
    message = ray_cluster._MESSAGE.validate_json(json.dumps(line))
    assert isinstance(message, Result)
    return message


def test_a_verdict_follows_when_its_events_have_been_judged(session: RaySession, driver: FakeDriver) -> None:
    session.submit(trial())
    driver.messages += [report(1, 1, 1), report(1, 1, 2)]
    assert [e.step for e in session.events(0.0)] == [1]
    assert [m["do"] for m in driver.told] == ["trial"]
    session.stop(1)
    session.events(0.0)
    assert driver.told[-1] == {"do": "verdict", "batch": 1, "stop": True}
    assert session.capacity() == 2


def test_a_stop_between_reports_reaches_the_trial_by_its_file(session: RaySession, tmp_path: Path) -> None:
    session.submit(trial())
    session.stop(1)
    assert (tmp_path / "ray" / "trials" / "1-1.stop").exists()
    session.submit(trial(attempt=2))
    assert not (tmp_path / "ray" / "trials" / "1-2.stop").exists()


@pytest.mark.parametrize(
    ("node_lost", "error", "symptom"),
    [
        (True, "The actor died because its node has died.", "node_lost"),
        (True, "OutOfMemoryError: Task was killed due to the node running low on memory.", "host_out_of_memory"),
        (True, "The worker was killed: the node was running low on memory", "host_out_of_memory"),
        (False, "ray::TrialActor.train() the trial's agent ended with code 1", "unknown"),
    ],
)
def test_a_lost_attempt_gets_its_symptom(
    session: RaySession, driver: FakeDriver, node_lost: bool, error: str, symptom: str
) -> None:
    session.submit(trial())
    driver.messages.append(Lost(kind="lost", number=1, attempt=1, node_lost=node_lost, error=error))
    (event,) = session.events(0.0)
    assert (event.kind, event.trial, event.symptom) == ("failed", 1, symptom)


def test_what_a_given_up_attempt_still_says_is_not_the_trials(session: RaySession, driver: FakeDriver) -> None:
    session.submit(trial())
    driver.messages.append(Lost(kind="lost", number=1, attempt=1, node_lost=True, error="gone"))
    session.events(0.0)
    session.submit(trial(attempt=2))
    driver.messages += [report(1, 1, 7, "finished"), Lost(kind="lost", number=1, attempt=1, node_lost=True, error="")]
    assert session.events(0.0) == []
    assert driver.told[-1] == {"do": "verdict", "batch": 7, "stop": False}
    driver.messages.append(report(1, 2, 8, "finished"))
    assert [e.kind for e in session.events(0.0)] == ["finished"]


def test_an_attempt_that_never_ends_is_given_up_after_its_deadline(session: RaySession, driver: FakeDriver) -> None:
    session.submit(trial(deadline=time.time() - ray_session.OVERDUE_SECONDS - 1))
    (event,) = session.events(0.0)
    assert (event.kind, event.symptom) == ("failed", "hang")
    assert driver.told[-1] == {"do": "kill", "number": 1, "attempt": 1}


def test_waiting_for_a_node_costs_no_device(
    session: RaySession, driver: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(ray_session.time, "monotonic", lambda: now)
    session.submit(trial())
    now = 130.0
    assert session.queued_seconds(1) == 30.0
    driver.messages.append(Placed(kind="placed", number=1, attempt=1, node="n"))
    session.events(0.0)
    now = 200.0
    assert session.queued_seconds(1) == 30.0
    driver.messages.append(Lost(kind="lost", number=1, attempt=1, node_lost=True, error="gone"))
    session.events(0.0)
    assert session.queued_seconds(1) == 30.0, "it is asked for when the end is counted"
    rows = [{"event": "proposed", "trial": 1, "time": 0.0, "parameters": {}, "origin": "prior"}]
    rows.append({"event": "started", "trial": 1, "time": 1.0, "attempt": 1, "queued": True})
    assert rebuild(rows)[1].begun == 0.0
    rows += [row | {"time": 31.0} for row in RunJournal(tmp_path).trials() if row["event"] == "placed"]
    for row in rows:
        row.pop("ticks", None)
    assert rebuild(rows)[1].begun == 31.0


def test_the_simulated_engine_is_made_again_elsewhere(tmp_path: Path) -> None:
    land = Landscape(best_rate=2e-3, faults=((1, 1, "device_out_of_memory"),))
    table = TableLandscape(table=CurveTable.load(TINY), corpus="code", seed=1)
    for ground in (land, table):
        engine = SimulatedEngine(tmp_path, ground, time_scale=0.5)
        told = json.loads(dumps(recipe(engine, make_plan())))
        again = SimulatedEngine(**told["arguments"])
        assert (again.folder, again.time_scale) == (tmp_path, 0.5)
        settings = settings_in_force(make_plan(), trial())
        assert again.landscape.nll(settings, 2000) == engine.landscape.nll(settings, 2000)
        assert again.landscape.faults == ground.faults


@pytest.mark.timeout(120)
def test_an_agent_runs_the_simulated_engine(tmp_path: Path) -> None:
    engine = SimulatedEngine(tmp_path, Landscape(best_rate=2e-3))
    made = {"engine": recipe(engine, make_plan()), "paths": sys.path, "plan": make_plan(), "device": CPU}
    spec = tmp_path / "spec.json"
    write_atomic(spec, dumps(made | {"trial": trial(), "checkpoint": None, "stop_file": tmp_path / "stop"}))
    done = subprocess.run(
        [sys.executable, "-P", str(AGENT), str(spec)], capture_output=True, text=True, timeout=100, check=True
    )
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["kind"] == "finished"
    expected = engine.landscape.nll(settings_in_force(make_plan(), trial()), 4000)
    assert last["metrics"]["nll"] == pytest.approx(expected)


def test_capacity_follows_the_living_nodes(session: RaySession, driver: FakeDriver, tmp_path: Path) -> None:
    for alive in (5, 0, 3):
        driver.messages.append(Nodes(kind="capacity", capacity=alive, nodes=[{"CPU": 1.0}] * alive))
        driver.messages.append(Placed(kind="placed", number=1, attempt=1, node="n"))
        session.events(0.0)
        assert session.capacity() == max(1, alive)
    told = [e["capacity"] for e in RunJournal(tmp_path).events() if e["kind"] == "cluster"]
    assert told == [2, 5, 0, 3]


def test_no_more_trials_run_at_once_than_the_user_said() -> None:
    base = inputs()
    for options, at_once in (({}, sys.maxsize), ({"parallel_trials": 3}, 3)):
        made = decided_plan(replace(base, task=replace(base.task, options={"executor": "ray"} | options)))
        assert ray_session.most(made) == at_once


@pytest.mark.parametrize("line", ['{"kind": "eval", "code": "1"}', '{"kind": "placed"}', "[]", "no json"])
def test_what_is_no_message_of_the_driver_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="validation error"):
        ray_cluster._MESSAGE.validate_json(line)


def test_closing_the_session_ends_the_driver(session: RaySession, driver: FakeDriver) -> None:
    session.close()
    assert driver.ended


def test_trials_run_here_unless_a_cluster_is_asked_for() -> None:
    base = inputs()
    for options, executor, address in (
        ({}, "local", ""),
        ({"executor": "ray"}, "ray", ""),
        ({"ray_address": "head:6379"}, "ray", "head:6379"),
    ):
        plan = decided_plan(replace(base, task=replace(base.task, options=dict(options))))
        assert (plan.search.executor, plan.search.ray_address) == (executor, address)
        decision = plan.decision("executor")
        assert decision.because
        assert decision.alternatives


def test_a_part_of_a_card_must_hold_the_trial() -> None:
    base = inputs(RTX, ONLINE)
    plan = decided_plan(base)
    fits = plan.estimate.peak_memory_bytes / RTX.free_bytes

    def with_share(share: float) -> Plan:
        options: dict[str, Any] = {"executor": "ray", "device_share": share}
        return decided_plan(replace(base, task=replace(base.task, options=options)))

    with pytest.raises(InputError, match="device_share"):
        with_share(1.5)
    with pytest.raises(InputError, match="do not fit"):
        with_share(fits * 0.98)
    assert with_share(1.0).search.device_share == 1.0


def test_a_cluster_and_the_local_executor_exclude_each_other() -> None:
    done = CliRunner().invoke(app, ["plan", "a chat bot", "--executor", "local", "--ray-address", "head:6379"])
    assert done.exit_code == 2


def test_processes_of_another_machine_are_not_touched(tmp_path: Path) -> None:
    """On a shared disk a number in the register may be that of somebody else's process here."""
    child = Child([sys.executable, "-c", "import time; time.sleep(60)"], {}, tmp_path, "bystander", tmp_path / "log")
    (entry,) = (tmp_path / "processes").glob("*.json")
    row = json.loads(entry.read_text(encoding="utf-8"))
    entry.write_text(json.dumps(row | {"host": "another-machine"}), encoding="utf-8")
    assert reap(tmp_path) == []
    assert is_same_process(row["pid"], row["created"])
    entry.write_text(json.dumps(row), encoding="utf-8")
    assert reap(tmp_path) == ["bystander"]
    child.wait(10)


# What KubeRay's definition of a RayCluster (ray.io/v1, KubeRay 1.6) requires and knows, where the manifest uses it.
SPEC = {"authOptions", "headGroupSpec", "rayVersion", "workerGroupSpecs"}
HEAD = ({"rayStartParams", "template"}, {"rayStartParams", "template", "serviceType", "resources", "labels"})
WORKERS = (
    {"groupName", "maxReplicas", "minReplicas", "rayStartParams", "template"},
    {"groupName", "maxReplicas", "minReplicas", "rayStartParams", "template", "replicas", "numOfHosts"},
)


@pytest.mark.parametrize("gpus", [0, 4])
def test_the_manifest_is_a_ray_cluster_as_kuberay_defines_it(gpus: int) -> None:
    shape = ClusterShape(image="registry/autoswift:1", workers=3, gpus=gpus)
    volume, network, cluster = list(yaml.safe_load_all(yaml.safe_dump_all(manifests(shape))))
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    spec = cluster["spec"]
    assert set(spec) == SPEC
    assert spec["authOptions"] == {"mode": "token"}
    assert tuple(int(part) for part in spec["rayVersion"].split(".")) >= (2, 52, 0), "older ones know no token"
    head, (workers,) = spec["headGroupSpec"], spec["workerGroupSpecs"]
    for group, (required, known) in ((head, HEAD), (workers, WORKERS)):
        assert required <= set(group) <= known
        assert all(isinstance(v, str) for v in group["rayStartParams"].values())
        _check_pod(group["template"]["spec"], shape)
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"] == 3
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits.get("nvidia.com/gpu", 0) == gpus
    assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert volume["spec"]["accessModes"] == ["ReadWriteMany"]
    assert network["spec"]["podSelector"] == {"matchLabels": {"ray.io/cluster": cluster["metadata"]["name"]}}


def _check_pod(pod: dict[str, Any], shape: ClusterShape) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["image"] == shape.image
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert container["resources"]["requests"] == container["resources"]["limits"]
    mounted = {m["name"] for m in container["volumeMounts"]}
    assert mounted == {v["name"] for v in pod["volumes"]}


@pytest.mark.parametrize(
    ("field_name", "value"), [("name", "Upper"), ("name", "a" * 60), ("image", "a b"), ("image", "")]
)
def test_a_name_that_kubernetes_would_refuse_is_refused(field_name: str, value: str) -> None:
    with pytest.raises(InputError):
        manifests(replace(ClusterShape(image="a:1"), **{field_name: value}))


def test_the_command_prints_what_can_be_applied() -> None:
    done = CliRunner().invoke(app, ["kuberay", "--image", "registry/autoswift:1", "--workers", "2", "--gpus", "8"])
    assert done.exit_code == 0
    assert [one["kind"] for one in yaml.safe_load_all(done.output)] == [
        "PersistentVolumeClaim",
        "NetworkPolicy",
        "RayCluster",
    ]
    assert "*id" not in done.output, "aliases are hard to edit by hand"
