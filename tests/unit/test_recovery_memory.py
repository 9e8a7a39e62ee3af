"""Fifty trainings that run out of memory, over phases, methods and sizes: each ends well within three attempts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from autoswift.domain.budget import Budget
from autoswift.domain.plan import Plan
from autoswift.domain.protocols import Symptom
from autoswift.domain.trial import Outcome
from autoswift.recover.diagnose import ladder
from autoswift.recover.ladder import Situation, climb
from autoswift.run.clock import RunClock
from autoswift.run.journal import RunJournal
from autoswift.search.configuration import settings_in_force
from autoswift.search.executors.local import LocalExecutor
from autoswift.search.searcher import Search
from unit.memory_engine import H100, FullDevice, plan_for, seeded, start_settings

PHASES = ("load", "first_step", "first_step", "long_batch", "long_batch", "save", "evaluation")
CASES = 50
QUICK = 9
"""Of them, those that every run of the tests takes: each phase once."""


@dataclass(frozen=True)
class Case:
    plan: Plan
    phase: str
    cap: float
    truth: float
    figures: bool
    answers: int
    needs_downgrade: bool


def case(n: int) -> Case:
    """A case that some place of the ladder solves; which one, and how wrong the memory model is, is drawn."""
    rng = seeded(n)
    phase = PHASES[n % len(PHASES)]
    size = rng.choice(["0.5b", "1.5b", "7b"])
    method = "lora" if phase == "load" else rng.choice(["lora", "lora", "qlora", "full"])
    devices = rng.choice([1, 1, 1, 2])
    micro = rng.choice([1, 2, 3, 4, 6, 8, 16])
    batch = micro * devices * rng.choice([1, 2, 3, 4])
    plan = plan_for(size, method, micro=micro, batch=batch, length=rng.choice([512, 1024, 2048]), devices=devices)
    plan = replace(plan, evaluation=replace(plan.evaluation, generation_batch_size=32))
    truth, figures = rng.choice([0.9, 1.0, 1.05, 1.2, 1.5]), rng.random() < 0.7
    start = start_settings(plan)
    engine = FullDevice(Path("."), plan, cap=0.0, truth=truth)
    symptom = Symptom(name="device_out_of_memory", evidence="", phase=phase)
    names = [name for name in ladder(symptom) if name != "smaller_model"]
    places = list(climb(names, Situation(settings=start, recovery=plan.recovery)))
    places = [one for one in places if engine.real(start | one.changes) < 0.85 * engine.real(start)]
    if phase == "evaluation" or not places:
        return Case(plan, "evaluation", 1e15, truth, figures, rng.choice([1, 4, 16]), False)
    solution = rng.choice(places)
    cap = engine.real(start | solution.changes) * rng.uniform(1.03, 1.2)
    cap = min(cap, engine.real(start) * 0.99)
    plain = [one for one in places if not one.downgrades]
    needed = not any(engine.real(start | one.changes) <= cap for one in plain)
    plan = replace(plan, estimate=replace(plan.estimate, memory_limit_bytes=int(cap)))
    return Case(plan, phase, cap, truth, figures, 64, needed)


def undisturbed(folder: Path, plan: Plan) -> Outcome:
    return run(folder, plan, FullDevice(folder, plan, cap=1e15))[0]


def run(folder: Path, plan: Plan, engine: FullDevice) -> tuple[Outcome, RunJournal]:
    journal = RunJournal(folder)
    executor = LocalExecutor(H100, RunClock(Budget(trials=1, hours=1), now=engine.now), "en")
    found = executor.run(Search(plan), engine, plan, Budget(trials=1, hours=1), journal)
    return found.outcomes[1], journal


@pytest.fixture(scope="module")
def tally() -> Iterator[list[tuple[int, float, float, bool]]]:
    """(attempts, simulated device-seconds wasted, drop of the metric, downgrade) of each case; told at the end."""
    rows: list[tuple[int, float, float, bool]] = []
    yield rows
    if rows:
        lost, drops = sum(row[1] for row in rows), [row[2] for row in rows if row[3]]
        print(
            f"\n{len(rows)} out-of-memory cases (simulated): all within {max(row[0] for row in rows)} attempts, "
            f"{lost:.0f} device-seconds wasted ({lost / len(rows):.1f} a case); {len(drops)} with a downgrade, "
            f"chrF lower by {max(drops, default=0.0):.2f} at most"
        )


def effective(settings: dict[str, Any]) -> int:
    return settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"] * settings["devices"]


@pytest.mark.parametrize(
    "number", [n if n < QUICK else pytest.param(n, marks=pytest.mark.faults) for n in range(CASES)]
)
def test_an_out_of_memory_is_over_within_three_attempts(
    number: int, tmp_path: Path, tally: list[tuple[int, float, float, bool]]
) -> None:
    one = case(number)
    engine = FullDevice(
        tmp_path / "a", one.plan, cap=one.cap, truth=one.truth, phase=one.phase, figures=one.figures,
        answers=one.answers,
    )  # fmt: skip
    outcome, journal = run(tmp_path / "a", one.plan, engine)
    assert outcome.status == "finished", (one, [s for _, s in engine.refused])
    assert 2 <= len(engine.started) <= 3
    before = effective(start_settings(one.plan))
    assert {effective(settings_in_force(one.plan, t)) for t in engine.started} == {before}
    remedies = [e for e in journal.events() if e["kind"] == "remedy"]
    assert len(remedies) == len(engine.started) - 1
    assert all(e["wasted_device_seconds"] >= 0 for e in remedies)
    downgrades = {name for e in remedies for name in e["downgrades"]}
    plain = undisturbed(tmp_path / "b", one.plan)
    drop = plain.metrics["chrf"] - outcome.metrics["chrf"]  # type: ignore[operator]
    wasted = sum(e["wasted_device_seconds"] for e in remedies)
    tally.append((len(engine.started), wasted, drop, bool(downgrades)))
    if not one.needs_downgrade:
        assert not downgrades, "quality was given up where a smaller change would have done"
    if not downgrades & {"qlora", "shorter_length"}:
        assert drop == pytest.approx(0.0, abs=1e-9)
    else:
        words = " ".join(e["decision"]["because"] for e in remedies)
        assert "QLoRA" in words
        assert 0 < drop < 1.0
