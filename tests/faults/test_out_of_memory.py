"""Real ms-swift trainings of a tiny model that run out of memory: injected, and once with memory truly capped."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoswift.domain.budget import Budget
from autoswift.domain.plan import ModelChoice, Plan, RecoverySettings
from autoswift.domain.profile import Device
from autoswift.domain.protocols import TrainEngine
from autoswift.domain.trial import Outcome
from autoswift.engines.context import EngineContext
from autoswift.engines.stages import last_answer
from autoswift.engines.swift import SwiftEngine
from autoswift.evaluate.metrics import score_answers
from autoswift.report.incidents import incidents, wasted
from autoswift.run.clock import RunClock
from autoswift.run.journal import RunJournal
from autoswift.search.configuration import settings_in_force
from autoswift.search.executors.local import LocalExecutor
from autoswift.search.searcher import Search
from autoswift.testing.faults import Fault, FaultyEngine
from support import EXAMPLE, tiny_model
from unit.plans import make_plan

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

WORDS = "the model reads a row of ordinary words and learns to say the next one "
CPU = Device(kind="cpu", name="cpu")


def tiny_plan(**training: Any) -> Plan:
    """Six steps of four rows."""
    plan = make_plan(trials=1, tokens_per_row=200.0, trial_tokens=4800, answer_seconds=5.0)
    model = ModelChoice(
        id="tiny", source="folder", location=str(tiny_model()), model_type="llama", template="chatml",
        parameters=3_000_000, layers=2, hidden=128, heads=4, kv_heads=4, intermediate=256, vocabulary=8000, head_dim=32,
    )  # fmt: skip
    evaluation = replace(plan.evaluation, validation_rows=2, max_new_tokens=4)
    estimate = replace(plan.estimate, memory_limit_bytes=8 * 2**30)
    return replace(
        plan, model=model, training=replace(plan.training, **training), evaluation=evaluation, estimate=estimate,
        search=replace(plan.search, space={}), recovery=RecoverySettings(),
    )  # fmt: skip


def swift(folder: Path, *, python: Path | None = None, long: bool = False) -> SwiftEngine:
    rows = [r for r in json.loads(EXAMPLE.read_text(encoding="utf-8")) if all(m["content"] for m in r["messages"])]
    rows = [{"messages": r["messages"]} for r in rows if r["messages"][-1]["role"] == "assistant"]
    if long:
        for row in rows:
            row["messages"] = [{"role": "user", "content": "?"}, {"role": "assistant", "content": WORDS * 25}]
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", rows[:40]), ("validation", rows[40:42])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part), encoding="utf-8")
    context = EngineContext(
        folder=folder,
        model=tiny_model(),
        python=python or Path(sys.executable),
        train=folder / "train.jsonl",
        validation=folder / "validation.jsonl",
        references=tuple(last_answer(r) for r in rows[40:42]),
        score=lambda answers, references: score_answers("chrf", answers, references),
    )
    return SwiftEngine(context)


def run(folder: Path, plan: Plan, engine: TrainEngine) -> tuple[Outcome, RunJournal]:
    journal, budget = RunJournal(folder), Budget(trials=1, hours=1)
    found = LocalExecutor(CPU, RunClock(budget), "en").run(Search(plan), engine, plan, budget, journal)
    return found.outcomes[1], journal


def attempts(plan: Plan, journal: RunJournal) -> list[dict[str, Any]]:
    from autoswift.domain.trial import Trial

    rows = [r for r in journal.trials() if r["event"] == "started"]
    trials = [Trial(number=1, attempt=r["attempt"], parameters={}, tokens=r["tokens"], overrides=r["overrides"])
              for r in rows]  # fmt: skip
    return [settings_in_force(plan, one) for one in trials]


def batch(one: dict[str, Any]) -> int:
    return int(one["per_device_train_batch_size"] * one["gradient_accumulation_steps"])


CASES = {
    "first_step": Fault(kind="out_of_memory", attempt=None, where="step", step=1,
                        unless={"per_device_train_batch_size": 2}),
    "long_batch": Fault(kind="out_of_memory", attempt=None, where="step", step=3,
                        unless={"per_device_train_batch_size": 1}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
def test_a_real_training_recovers_from_an_injected_out_of_memory(name: str, tmp_path: Path) -> None:
    plan = tiny_plan(per_device_train_batch_size=4)
    outcome, journal = run(tmp_path / "a", plan, FaultyEngine(swift(tmp_path / "a"), [CASES[name]]))
    seen = attempts(plan, journal)
    assert len(seen) <= 3
    assert {batch(one) for one in seen} == {4}
    told = incidents(journal.events(), journal.trials(), "en")
    print(f"{name}: {len(seen)} attempts, {wasted(told):.1f} device-seconds wasted, {outcome.metrics}")
    assert outcome.status == "finished"
    assert wasted(told) > 0
    plain, _ = run(tmp_path / "b", plan, swift(tmp_path / "b"))
    assert outcome.metrics["nll"] == pytest.approx(plain.metrics["nll"], rel=0.02)


def test_a_worker_whose_memory_is_truly_capped_recovers(tmp_path: Path) -> None:
    """No injection: the kernel refuses the process more address space than the smaller micro-batch needs."""
    plan = tiny_plan(per_device_train_batch_size=4, max_length=512)
    plan = replace(plan, search=replace(plan.search, trial_tokens=1600))
    free, _ = _peak(tmp_path / "free", plan)
    halved = replace(plan, training=replace(plan.training, per_device_train_batch_size=1,
                                            gradient_accumulation_steps=4))  # fmt: skip
    least, _ = _peak(tmp_path / "least", halved)
    assert free > 1.1 * least, f"{free / 2**20:.0f} MiB against {least / 2**20:.0f}: nothing to save"
    cap = int(least + 0.3 * (free - least))
    folder = tmp_path / "capped"
    outcome, journal = run(folder, plan, swift(folder, python=_capped(tmp_path / "python", cap), long=True))
    seen = attempts(plan, journal)
    symptoms = [e for e in journal.events() if e["kind"] == "symptom"]
    assert outcome.status == "finished", symptoms
    assert 2 <= len(seen) <= 3
    assert {batch(one) for one in seen} == {4}
    assert symptoms[0]["symptom"] == "host_out_of_memory", symptoms
    assert seen[-1]["per_device_train_batch_size"] < 4


def _peak(folder: Path, plan: Plan) -> tuple[int, Outcome]:
    """Address space at most that a training takes: what the cap counts."""
    path = folder / "peak"
    folder.mkdir(parents=True)
    outcome, _ = run(folder, plan, swift(folder, python=_measured(folder / "python", path), long=True))
    assert outcome.status == "finished", outcome
    return max(int(line) for line in path.read_text(encoding="ascii").split()), outcome


def _script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def _capped(path: Path, cap: int) -> Path:
    """An interpreter that may have so much address space."""
    body = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_AS, ({cap}, {cap}))"
    return _script(
        path, f"#!{sys.executable}\n{body}; os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])\n"
    )


def _measured(path: Path, out: Path) -> Path:
    """An interpreter whose peak of address space is written down."""
    body = f"""#!{sys.executable}
import subprocess, sys
child = subprocess.Popen([{sys.executable!r}, *sys.argv[1:]])
peak = 0
while child.poll() is None:
    try:
        text = open(f"/proc/{{child.pid}}/status").read()
        peak = max(peak, 1024 * int(text.split("VmPeak:")[1].split()[0]))
    except (OSError, IndexError, ValueError):
        pass
    try:
        child.wait(0.05)
    except subprocess.TimeoutExpired:
        pass
open({str(out)!r}, "a").write(f"{{peak}}\\n")
sys.exit(child.returncode)
"""
    return _script(path, body)
