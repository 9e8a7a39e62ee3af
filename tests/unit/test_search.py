"""The search: reproducible, within budget, resumable as if never broken, and truthful about failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoswift.domain.budget import Budget
from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import SearchOutcome
from autoswift.domain.trial import Outcome
from autoswift.engines.simulated import Landscape, SimulatedEngine
from autoswift.errors import DiskFull
from autoswift.run.clock import RunClock
from autoswift.run.journal import RunJournal
from autoswift.search.executors.local import LocalExecutor
from autoswift.search.history import rebuild
from autoswift.search.searcher import Search, best_of
from unit.plans import make_plan

CPU = Device(kind="cpu", name="test")


def run(
    folder: Path, plan: Plan, landscape: Landscape | None = None, *, capacity: int = 1, budget: Budget | None = None
) -> tuple[SearchOutcome, RunJournal, SimulatedEngine]:
    journal = RunJournal(folder)
    budget = budget or Budget(trials=plan.search.trials)
    engine = SimulatedEngine(folder, landscape, capacity)
    executor = LocalExecutor(CPU, RunClock(budget), "en")
    searcher = Search(plan, rebuild(journal.trials()))
    return executor.run(searcher, engine, plan, budget, journal), journal, engine


def proposals(journal: RunJournal) -> dict[int, Any]:
    return {r["trial"]: r["parameters"] for r in journal.trials() if r["event"] == "proposed"}


def test_it_finds_the_better_learning_rate_and_never_starts_more_than_asked(tmp_path: Path) -> None:
    outcome, journal, engine = run(tmp_path, make_plan(trials=8), Landscape(best_rate=1e-3))
    assert 4 <= len(engine.started) == len(proposals(journal)) <= 8
    assert outcome.best is not None
    rates = {n: p["learning_rate"] for n, p in proposals(journal).items()}
    best = min(rates, key=lambda n: abs(__import__("math").log(rates[n] / 1e-3)))
    assert outcome.best == best
    assert outcome.reason == ("trials" if len(engine.started) == 8 else "gain")


@given(seed=st.integers(0, 2**16), trials=st.integers(1, 7))
@settings(max_examples=15)
def test_same_seed_same_proposals_within_the_space(
    seed: int, trials: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plan = make_plan(trials=trials, seed=seed)
    first, second = (proposals(run(tmp_path_factory.mktemp("r"), plan)[1]) for _ in range(2))
    assert first == second
    assert sorted(first) == list(range(1, len(first) + 1))
    assert min(trials, 4) <= len(first) <= trials
    space = plan.search.space["learning_rate"]
    assert all(space["low"] * 0.99 <= p["learning_rate"] <= space["high"] * 1.01 for p in first.values())


class Dies(Exception):
    """The owner is gone."""


@pytest.mark.parametrize("after_lines", [1, 2, 5, 40, 43, 90, 130])
def test_a_resumed_search_equals_the_unbroken_one(tmp_path: Path, after_lines: int) -> None:
    plan = make_plan(trials=5)
    whole, journal, _ = run(tmp_path / "whole", plan)
    broken = RunJournal(tmp_path / "broken")
    lines = 0

    def die(row: dict[str, Any]) -> None:
        nonlocal lines
        lines += 1
        if lines == after_lines:
            raise Dies

    broken.listen(die)
    executor = LocalExecutor(CPU, RunClock(Budget()), "en")
    with pytest.raises(Dies):
        executor.run(Search(plan), SimulatedEngine(tmp_path / "broken"), plan, Budget(), broken)
    ended_before = {r["trial"] for r in broken.trials() if r["event"] == "ended"}
    resumed, after, engine = run(tmp_path / "broken", plan)
    assert proposals(after) == proposals(journal)
    assert {n: o.metrics["nll"] for n, o in resumed.outcomes.items()} == {
        n: o.metrics["nll"] for n, o in whole.outcomes.items()
    }
    assert resumed.best == whole.best
    assert not ended_before & {t.number for t in engine.started}, "a finished trial was run again"


def test_a_failed_trial_is_failed_and_its_seconds_count(tmp_path: Path) -> None:
    landscape = Landscape(faults=((2, 1, "nan"),))
    outcome, journal, _ = run(tmp_path, make_plan(trials=3), landscape)
    assert outcome.outcomes[2].status == "failed"
    assert outcome.outcomes[2].symptom == "nan"
    assert outcome.outcomes[2].artifact is None
    assert outcome.best in (1, 3)
    assert sum(t.device_seconds for t in rebuild(journal.trials()).values()) == pytest.approx(
        outcome.device_seconds, abs=0.01
    )


def test_out_of_memory_is_retried_with_the_same_effective_batch(tmp_path: Path) -> None:
    landscape = Landscape(faults=((1, 1, "device_out_of_memory"), (1, 2, "device_out_of_memory")))
    outcome, journal, engine = run(tmp_path, make_plan(trials=2), landscape)
    assert outcome.outcomes[1].status == "finished"
    assert [t.attempt for t in engine.started] == [1, 2, 3, 1]
    micro = [t.overrides.get("per_device_train_batch_size") for t in engine.started[:3]]
    assert micro == [None, 2, 1]
    assert [t.overrides.get("gradient_accumulation_steps") for t in engine.started[:3]] == [None, 2, 4]
    kinds = [e["kind"] for e in journal.events()]
    assert kinds.count("symptom") == kinds.count("remedy") == 2
    assert len(outcome.outcomes) == 2, "a retry is not a new trial"


def test_divergence_is_stopped_early_and_named(tmp_path: Path) -> None:
    outcome, _, _ = run(tmp_path, make_plan(trials=1), Landscape(best_rate=1e-6))
    assert outcome.outcomes[1].status == "failed"
    assert outcome.outcomes[1].symptom == "divergence"
    assert outcome.outcomes[1].steps < 40
    assert outcome.best is None


def test_a_healthy_noisy_curve_is_never_stopped() -> None:
    import random

    for seed in range(100):
        noise = random.Random(seed)
        search = Search(make_plan())
        for step in range(1, 60):
            loss = 1 + 2 * step**-0.5 + noise.gauss(0, 0.4)
            assert search.tell(1, step, {"loss": loss}) == "go"


def test_trials_run_side_by_side_where_the_session_holds_several(tmp_path: Path) -> None:
    outcome, journal, _ = run(tmp_path, make_plan(trials=6), capacity=3)
    assert len(outcome.outcomes) == 6
    assert len(proposals(journal)) == 6


def test_device_seconds_end_the_search(tmp_path: Path) -> None:
    outcome, _, engine = run(tmp_path, make_plan(trials=5), budget=Budget(trials=5, device_seconds=0.0))
    assert outcome.reason == "device_seconds"
    assert engine.started == []


def test_a_wall_clock_that_is_over_ends_the_search(tmp_path: Path) -> None:
    outcome, _, engine = run(tmp_path, make_plan(trials=5), budget=Budget(trials=5, hours=1e-9))
    assert outcome.reason == "hours"
    assert engine.started == []
    assert outcome.best is None


def test_a_full_disk_ends_the_run_and_not_just_the_trial(tmp_path: Path) -> None:
    with pytest.raises(DiskFull):
        run(tmp_path, make_plan(trials=3), Landscape(faults=((1, 1, "disk_full"),)))


def test_equal_metrics_are_decided_by_likelihood_and_unfinished_ones_never_win() -> None:
    outcomes = {
        1: Outcome(status="finished", metrics={"chrf": 20.0, "nll": 2.0}, artifact="a"),
        2: Outcome(status="finished", metrics={"chrf": 20.0, "nll": 1.0}, artifact="a"),
        3: Outcome(status="failed", metrics={"chrf": 99.0, "nll": 0.1}),
        4: Outcome(status="finished", metrics={"nll": 0.1}, artifact="a"),
        5: Outcome(status="finished", metrics={"chrf": 99.0}),
    }
    assert best_of(outcomes, "chrf") == 2
    assert best_of({3: outcomes[3], 5: outcomes[5]}, "chrf") is None


def test_a_difference_within_the_standard_error_is_a_tie_and_a_larger_one_is_not() -> None:
    def trial(chrf: float, nll: float) -> Outcome:
        return Outcome(status="finished", metrics={"chrf": chrf, "chrf_stderr": 1.0, "nll": nll}, artifact="a")

    assert best_of({1: trial(20.0, 2.0), 2: trial(19.5, 1.0)}, "chrf") == 2
    assert best_of({1: trial(20.0, 2.0), 2: trial(18.5, 1.0)}, "chrf") == 1


def test_a_trial_whose_answers_were_cut_off_is_better_than_no_result() -> None:
    outcomes = {
        1: Outcome(status="finished", metrics={"loss": 1.0}, artifact="a"),
        2: Outcome(status="finished", metrics={"loss": 2.0, "nll": 1.9}, artifact="a"),
    }
    assert best_of(outcomes, "chrf") == 2
    assert best_of({1: outcomes[1]}, "chrf") == 1
