"""Every built-in training engine passes the same contract; ms-swift with a real training."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from autoswift.domain.plan import ModelChoice, Plan
from autoswift.engines.context import EngineContext
from autoswift.engines.simulated import SimulatedEngine
from autoswift.engines.stages import last_answer
from autoswift.engines.swift import SwiftEngine
from autoswift.evaluate.metrics import score_answers
from autoswift.testing.engine_contract import TrainEngineContract
from support import EXAMPLE, tiny_model
from unit.plans import make_plan


class TestSimulated(TrainEngineContract):
    @pytest.fixture
    def plan(self) -> Plan:
        return make_plan()

    @pytest.fixture
    def engine(self, tmp_path: Path) -> SimulatedEngine:
        return SimulatedEngine(tmp_path)


@pytest.mark.e2e
class TestSwift(TrainEngineContract):
    @pytest.fixture
    def plan(self) -> Plan:
        plan = make_plan(tokens_per_row=200.0)
        model = ModelChoice(
            id="tiny", source="folder", location=str(tiny_model()), model_type="llama", template="chatml", parameters=1
        )
        return replace(plan, model=model)

    @pytest.fixture
    def engine(self, tmp_path: Path) -> SwiftEngine:
        rows = [r for r in json.loads(EXAMPLE.read_text(encoding="utf-8")) if all(m["content"] for m in r["messages"])]
        rows = [{"messages": r["messages"]} for r in rows if r["messages"][-1]["role"] == "assistant"]
        for name, part in (("train", rows[:40]), ("validation", rows[40:42])):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part), encoding="utf-8")
        context = EngineContext(
            folder=tmp_path,
            model=tiny_model(),
            python=Path(sys.executable),
            train=tmp_path / "train.jsonl",
            validation=tmp_path / "validation.jsonl",
            references=tuple(last_answer(r) for r in rows[40:42]),
            score=lambda answers, references: score_answers("chrf", answers, references),
        )
        return SwiftEngine(context)
