"""Every built-in training engine passes the same contract; ms-swift with a real training."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from autoswift.domain.plan import ModelChoice, Plan
from autoswift.domain.profile import Device
from autoswift.domain.trial import Trial
from autoswift.engines.context import EngineContext
from autoswift.engines.curves import CurveTable
from autoswift.engines.packed.engine import PackedEngine
from autoswift.engines.simulated import SimulatedEngine, TableLandscape
from autoswift.engines.stages import last_answer
from autoswift.engines.swift import SwiftEngine
from autoswift.evaluate.metrics import score_answers
from autoswift.testing.engine_contract import TrainEngineContract, drain
from support import EXAMPLE, tiny_model
from unit.curve_tables import write
from unit.plans import make_plan


class TestSimulated(TrainEngineContract):
    @pytest.fixture
    def plan(self) -> Plan:
        return make_plan()

    @pytest.fixture
    def engine(self, tmp_path: Path) -> SimulatedEngine:
        return SimulatedEngine(tmp_path)


class TestSimulatedByTable(TrainEngineContract):
    """Recorded curves instead of a formula."""

    @pytest.fixture
    def plan(self) -> Plan:
        return make_plan()

    @pytest.fixture
    def engine(self, tmp_path: Path) -> SimulatedEngine:
        table = CurveTable.load(write(tmp_path / "curves.npz"))
        return SimulatedEngine(tmp_path, TableLandscape(table=table, corpus="first"))


class TestSimulatedOnTheRealClock(TestSimulated):
    """The same trials, a simulated second in a millisecond."""

    @pytest.fixture
    def engine(self, tmp_path: Path) -> SimulatedEngine:
        return SimulatedEngine(tmp_path, time_scale=1e-3)


def on_tiny(folder: Path) -> EngineContext:
    """A run folder with the tiny model, 40 rows to train on and 2 to answer."""
    rows = [r for r in json.loads(EXAMPLE.read_text(encoding="utf-8")) if all(m["content"] for m in r["messages"])]
    rows = [{"messages": r["messages"]} for r in rows if r["messages"][-1]["role"] == "assistant"]
    for name, part in (("train", rows[:40]), ("validation", rows[40:42])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part), encoding="utf-8")
    return EngineContext(
        folder=folder,
        model=tiny_model(),
        python=Path(sys.executable),
        train=folder / "train.jsonl",
        validation=folder / "validation.jsonl",
        references=tuple(last_answer(r) for r in rows[40:42]),
        score=lambda answers, references: score_answers("chrf", answers, references),
    )


@pytest.mark.e2e
class TestSwift(TrainEngineContract):
    """A process a trial."""

    @pytest.fixture
    def plan(self) -> Plan:
        plan = make_plan(tokens_per_row=200.0)
        model = ModelChoice(
            id="tiny", source="folder", location=str(tiny_model()), model_type="llama", template="chatml", parameters=1
        )
        return replace(plan, model=model)

    @pytest.fixture
    def engine(self, tmp_path: Path) -> SwiftEngine:
        return SwiftEngine(on_tiny(tmp_path))

    @pytest.mark.slow
    def test_a_continued_trial_is_the_longer_trial(self, engine: SwiftEngine, plan: Plan) -> None:
        """From a short trial's checkpoint of before its rate fell, the losses are those of the long trial alone."""
        per_step = plan.search.tokens_per_row * plan.training.effective_batch_size
        short, long = int(per_step * 5), int(per_step * 10)
        plan = replace(plan, search=replace(plan.search, trial_tokens=long, rungs=(short, long)))
        device = Device(kind="cpu", name="cpu")
        parameters = {"learning_rate": 1e-3}
        curves: dict[int, dict[int, float | None]] = {}
        session = engine.open(plan, device)
        try:
            session.submit(Trial(number=1, attempt=1, parameters=parameters, tokens=short))
            first = drain(session, 1)[-1]
            session.submit(
                Trial(number=1, attempt=2, parameters=parameters, tokens=long), Path(first.evidence["resume"])
            )
            again = drain(session, 1)
            session.submit(Trial(number=2, attempt=1, parameters=parameters, tokens=long))
            alone = drain(session, 2)
        finally:
            session.close()
        for number, events in ((1, again), (2, alone)):
            assert events[-1].kind == "finished"
            curves[number] = {e.step: e.metrics["loss"] for e in events if e.kind == "progress"}
        assert min(curves[1]) > min(curves[2]) == 1
        assert max(curves[1]) == max(curves[2])
        assert curves[1] == pytest.approx({step: curves[2][step] for step in curves[1]}, abs=1e-5)


@pytest.mark.slow
class TestPacked(TestSwift):
    """The same trials in the resident worker; tests/unit/test_packed_session.py has the quick ones."""

    @pytest.fixture
    def engine(self, tmp_path: Path) -> PackedEngine:  # type: ignore[override]
        return PackedEngine(on_tiny(tmp_path))
