"""Real trainings of the tiny model by ms-swift, for faults that must be seen on the real thing."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from autoswift.domain.plan import ModelChoice, Plan
from autoswift.engines.context import EngineContext
from autoswift.engines.stages import last_answer
from autoswift.engines.swift import SwiftEngine
from autoswift.evaluate.metrics import score_answers
from support import EXAMPLE, tiny_model
from unit.plans import make_plan

STEPS = 8


def swift_context(folder: Path) -> EngineContext:
    """Forty dialogues to train on, two to answer."""
    rows = [r for r in json.loads(EXAMPLE.read_text(encoding="utf-8")) if all(m["content"] for m in r["messages"])]
    rows = [{"messages": r["messages"]} for r in rows if r["messages"][-1]["role"] == "assistant"]
    for name, part in (("train", rows[:40]), ("validation", rows[40:42])):
        path = folder / f"{name}.jsonl"
        if not path.exists():
            path.write_text("".join(json.dumps(r) + "\n" for r in part), encoding="utf-8")
    return EngineContext(
        folder=folder,
        model=tiny_model(),
        python=Path(sys.executable),
        train=folder / "train.jsonl",
        validation=folder / "validation.jsonl",
        references=tuple(last_answer(r) for r in rows[40:42]),
        score=lambda answers, references: score_answers("chrf", answers, references),
    )


def swift_engine(folder: Path) -> SwiftEngine:
    return SwiftEngine(swift_context(folder))


def swift_plan(trials: int = 3, steps: int = STEPS) -> Plan:
    """Trials of a few steps; rates that the tiny model bears."""
    plan = make_plan(trials=trials, tokens_per_row=200.0, trial_tokens=800 * steps, final_tokens=800 * (steps + 2))
    model = ModelChoice(
        id="tiny", source="folder", location=str(tiny_model()), model_type="llama", template="chatml", parameters=1
    )
    evaluation = replace(plan.evaluation, validation_rows=2, max_new_tokens=4)
    search = replace(plan.search, reserve_seconds=0.0)
    return replace(plan, model=model, evaluation=evaluation, search=search)
