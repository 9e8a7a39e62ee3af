"""The public fault injection: what a wrapped engine shows its executor, and what is put on a real child's command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Event
from autoswift.domain.trial import Trial
from autoswift.engines.simulated import SimulatedEngine
from autoswift.testing.engine_contract import TrainEngineContract, drain
from autoswift.testing.faults import PLUGIN, VARIABLE, Fault, FaultyEngine
from unit.plans import make_plan

CPU = Device(kind="cpu", name="test")


class TestWithoutFaults(TrainEngineContract):
    """A wrapper that has nothing to do is the engine."""

    @pytest.fixture
    def plan(self) -> Plan:
        return make_plan()

    @pytest.fixture
    def engine(self, tmp_path: Path) -> FaultyEngine:
        return FaultyEngine(SimulatedEngine(tmp_path), [])


def one_trial(folder: Path, *faults: Fault, attempt: int = 1, **overrides: object) -> list[Event]:
    session = FaultyEngine(SimulatedEngine(folder), faults).open(make_plan(), CPU)
    session.submit(Trial(number=1, attempt=attempt, parameters={}, tokens=4000, overrides=overrides))
    seen = drain(session, 1)
    assert session.capacity() == 1
    session.close()
    return seen


@pytest.mark.parametrize(
    ("fault", "symptom", "step"),
    [
        (Fault(kind="out_of_memory", step=4), "device_out_of_memory", 4),
        (Fault(kind="nan", step=6), "nan", 6),
        (Fault(kind="kill", step=1), "killed", 1),
        (Fault(kind="hang", step=2), "hang", 2),
        (Fault(kind="out_of_memory", where="load"), "device_out_of_memory", 0),
        (Fault(kind="out_of_memory", where="evaluation"), "device_out_of_memory", 10),
        (Fault(kind="disk_full", where="save"), "disk_full", 10),
        (Fault(kind="error", symptom="nccl_timeout", text="NCCL watchdog", step=3), "nccl_timeout", 3),
    ],
    ids=lambda v: f"{v.kind}-{v.where}" if isinstance(v, Fault) else None,
)
def test_a_fault_is_what_the_executor_sees(fault: Fault, symptom: str, step: int, tmp_path: Path) -> None:
    seen = one_trial(tmp_path, fault)
    assert [e.kind for e in seen].count("failed") == 1
    last = seen[-1]
    assert (last.kind, last.symptom) == ("failed", symptom)
    assert last.evidence["text"] == fault.words
    assert last.evidence["phase"] == ("first_step" if fault.where == "step" and fault.step == 1 else fault.where)
    reported = [e.step for e in seen if e.kind == "progress"]
    assert max(reported, default=0) <= max(0, step - (fault.where == "step"))
    assert not any(e.kind == "finished" for e in seen)


def test_faults_belong_to_their_trial_attempt_and_settings(tmp_path: Path) -> None:
    fault = Fault(kind="out_of_memory", attempt=None, unless={"per_device_train_batch_size": 2}, step=2)
    assert one_trial(tmp_path, fault)[-1].kind == "failed"
    assert one_trial(tmp_path, fault, attempt=2, micro_batch_limit=2)[-1].kind == "finished"
    assert one_trial(tmp_path, Fault(kind="nan", trial=2))[-1].kind == "finished"
    assert one_trial(tmp_path, Fault(kind="nan", attempt=2))[-1].kind == "finished"
    assert one_trial(tmp_path, Fault(kind="nan", trial=None))[-1].symptom == "nan"


def test_a_short_hang_only_takes_its_time(tmp_path: Path) -> None:
    assert one_trial(tmp_path, Fault(kind="hang", seconds=0.01))[-1].kind == "finished"


@dataclass(frozen=True)
class Context:
    folder: Path
    python: Path


class Engine:
    def __init__(self, context: Context) -> None:
        self.context = context

    def open(self, plan: Plan, device: Device) -> str:
        return f"its own session on {device.name}"


def test_a_real_child_gets_the_plug_in_on_its_command_line(tmp_path: Path) -> None:
    """Through the interpreter that its context names; the code that starts it knows nothing of it."""
    shown = f"import json, os, sys; print(json.dumps([sys.argv[1:], os.environ.get('{VARIABLE}')]))"
    engine = Engine(Context(folder=tmp_path / "it's", python=Path(sys.executable)))
    wrapped = FaultyEngine(engine, [Fault(kind="kill", step=3)])  # type: ignore[arg-type]
    assert wrapped.open(make_plan(), CPU) == "its own session on test"

    def started(*arguments: str) -> list[object]:
        argv = [str(engine.context.python), "-c", shown, *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]})
        found: list[object] = json.loads(done.stdout)
        return found

    words, place = started("--lr", "1", "--external_plugins", "ours.py", "--callbacks", "autoswift")
    assert words == [
        *("--lr", "1", "--external_plugins", "ours.py", str(PLUGIN), "--callbacks", "autoswift", "autoswift_faults")
    ]
    (kept,) = json.loads(Path(str(place)).read_text(encoding="utf-8"))
    assert (kept["kind"], kept["step"], kept["text"]) == ("kill", 3, "the process was killed (injected)")
    assert started("merge")[0] == ["merge"], "other commands stay as they are"


def test_production_code_has_no_word_of_fault_injection() -> None:
    source = PLUGIN.parents[2]
    found = [
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if "testing" not in path.parts and any(w in path.read_text(encoding="utf-8") for w in (VARIABLE, "faults.json"))
    ]
    assert found == []
