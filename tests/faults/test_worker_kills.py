"""Kills of the training process, in a step and in the middle of a checkpoint: it goes on from the last whole one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from autoswift.domain.profile import Device
from autoswift.domain.trial import Trial
from autoswift.run.manifest import flaw
from autoswift.testing.engine_contract import drain
from autoswift.testing.faults import Fault, FaultyEngine
from faults.conftest import Tell
from faults.real import swift_engine, swift_plan

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

LOOP = Path(__file__).with_name("torch_loop.py")
ROOT = Path(__file__).parents[1]
REAL = 10
"""Real trials, each killed twice."""


def loop(folder: Path, kills: int, seed: int = 3) -> dict[str, float]:
    """A hundred kills of a small training in torch; what was seen."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(["src", str(ROOT)])}
    done = subprocess.run(
        [sys.executable, str(LOOP), str(folder), str(kills), str(seed)],
        env=env,
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen: dict[str, float] = json.loads(done.stdout)
    return seen


def test_a_hundred_kills_of_a_small_training(tmp_path: Path, tell: Tell) -> None:
    seen = loop(tmp_path / "loop", 100)
    assert seen["kills"] == 100
    assert seen["in_a_checkpoint"] >= 10
    assert seen["resumed"] >= 50
    assert seen["largest_difference"] <= 1e-6
    tell(
        f"100 kills of a training loop in torch ({seen['in_a_step']} in a step, {seen['in_a_checkpoint']} in a"
        f" checkpoint): curves equal to the unbroken one, largest difference {seen['largest_difference']:.1g}"
    )


def test_kills_of_real_trainings_by_swift(tmp_path: Path, tell: Tell) -> None:
    """Each trial is killed in a step, then in the middle of its second checkpoint, and ends at the third attempt."""
    steps = [3 + number % 4 for number in range(REAL)]
    faults = [Fault(kind="kill", trial=n, attempt=1, step=step) for n, step in enumerate(steps, 1)]
    faults += [Fault(kind="kill", trial=n, attempt=2, where="save", step=step + 1) for n, step in enumerate(steps, 1)]
    plan = swift_plan()
    session = FaultyEngine(swift_engine(tmp_path), faults).open(plan, Device(kind="cpu", name="test"))
    base = Trial(
        number=99,
        attempt=1,
        parameters={"learning_rate": 1e-3},
        tokens=plan.search.trial_tokens,
        overrides={"checkpoint_seconds": 0.001},
    )
    largest, kills, resumed = 0.0, 0, 0
    try:
        session.submit(base)
        whole = {e.step: e.metrics["loss"] for e in drain(session, 99) if e.kind == "progress"}
        for number in range(1, REAL + 1):
            curve: dict[int, float] = {}
            for attempt in (1, 2, 3):
                session.submit(replace(base, number=number, attempt=attempt))
                seen = drain(session, number)
                mine = {e.step: float(e.metrics["loss"] or 0) for e in seen if e.kind == "progress"}
                curve |= mine
                assert seen[-1].kind == ("failed" if attempt < 3 else "finished")
                kills += seen[-1].symptom == "killed"
                resumed += attempt > 1 and min(mine) > 1
                if attempt == 3:
                    assert any(e.symptom == "bad_checkpoint" for e in seen), "the torn one is told of"
                    assert flaw(tmp_path / str(seen[-1].artifact and seen[-1].artifact.path)) == ""
            assert sorted(curve) == sorted(whole)
            largest = max([largest, *(abs(curve[n] - float(whole[n] or 0)) for n in whole)])
    finally:
        session.close()
    assert kills == 2 * REAL
    assert resumed == 2 * REAL
    assert largest <= 1e-6
    tell(
        f"{kills} kills of real trainings by ms-swift ({REAL} in a step, {REAL} in a checkpoint): all went on from the"
        f" last whole checkpoint, largest difference of the curves {largest:.1g}"
    )
