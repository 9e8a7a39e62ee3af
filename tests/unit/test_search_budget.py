"""Budgets are kept, kills lose nothing, and ten thousand trials leave no trace in memory: on a simulated clock."""

from __future__ import annotations

import gc
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoswift.domain.budget import Budget
from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import SearchOutcome
from autoswift.engines.simulated import Landscape, SimulatedEngine
from autoswift.run.clock import RunClock
from autoswift.run.journal import RunJournal
from autoswift.search.executors.local import LocalExecutor
from autoswift.search.history import rebuild
from autoswift.search.searcher import Search
from unit.plans import make_plan

CPU = Device(kind="cpu", name="test")
CASES = 200 if os.environ.get("AUTOSWIFT_TEST_ALL") else 40
"""Random budgets; all of them in the slow tier."""


class MemoryJournal(RunJournal):
    """The journal's lines, kept instead of written: what is on the disk is not looked at here."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.lines: list[dict[str, Any]] = []

    def trial(self, event: str, number: int, **fields: Any) -> None:
        from autoswift.run.files import plain

        self.lines.append({"time": 0.0, "event": event, "trial": number} | plain(fields))

    def event(self, kind: str, **fields: Any) -> None:
        del kind, fields

    def trials(self) -> list[dict[str, Any]]:
        return self.lines


def searched(plan: Plan, budget: Budget, engine: SimulatedEngine, journal: RunJournal) -> SearchOutcome:
    clock = RunClock(budget, now=engine.now)
    executor = LocalExecutor([CPU] * plan.search.lanes, clock, "en")
    return executor.run(Search(plan, rebuild(journal.trials())), engine, plan, budget, journal)


@given(
    trials=st.integers(1, 12),
    hours=st.floats(0.02, 3.0),
    device_seconds=st.none() | st.floats(5.0, 4000.0),
    step_seconds=st.floats(0.2, 30.0),
    capacity=st.integers(1, 4),
    rungs=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=CASES, deadline=None)
def test_no_budget_is_overspent_by_more_than_a_report(
    tmp_path_factory: pytest.TempPathFactory,
    trials: int,
    hours: float,
    device_seconds: float | None,
    step_seconds: float,
    capacity: int,
    rungs: bool,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("b")
    plan = make_plan(trials=trials, seed=seed, rungs=(1_600, 5_200, 16_000) if rungs else (), reserve_seconds=0.0)
    plan = replace(plan, estimate=replace(plan.estimate, stage_seconds={"search": 1.0, "train": 0.0}))
    plan = replace(plan, search=replace(plan.search, promote=True))
    engine = SimulatedEngine(folder, Landscape(step_seconds=step_seconds), capacity, own_clock=True)
    budget = Budget(trials=trials, hours=hours, device_seconds=device_seconds)
    found = searched(plan, budget, engine, MemoryJournal(folder))
    assert len({t.number for t in engine.started}) <= trials
    assert engine.now() <= budget.seconds + step_seconds + 1e-6
    if device_seconds is not None:
        # Trials side by side end at their own next report each.
        assert found.device_seconds <= device_seconds + capacity * step_seconds + 1e-6
    assert found.reason in ("trials", "hours", "device_seconds", "gain")


class Killed(Exception):
    """The owner is gone."""


KILLS = 100 if os.environ.get("AUTOSWIFT_TEST_ALL") else 20


@pytest.mark.parametrize("rungs", [(), (1_600, 5_200, 16_000)], ids=["full", "rungs"])
def test_a_search_killed_anywhere_ends_as_the_unbroken_one(tmp_path: Path, rungs: tuple[int, ...]) -> None:
    plan = make_plan(trials=7, rungs=rungs)
    budget = Budget(trials=7)
    whole_journal = MemoryJournal(tmp_path)
    whole = searched(plan, budget, SimulatedEngine(tmp_path / "w", own_clock=True), whole_journal)
    rng = random.Random(7)
    for kill in range(KILLS // 2):
        journal, folder = MemoryJournal(tmp_path), tmp_path / f"k{kill}"
        at = rng.randrange(1, len(whole_journal.lines))
        with pytest.raises(Killed):
            searched(plan, budget, SimulatedEngine(folder, own_clock=True), dying(journal, at))
        engine = SimulatedEngine(folder, own_clock=True)
        ended = {(r["trial"], r["attempt"]) for r in journal.lines if r["event"] == "ended"}
        found = searched(plan, budget, engine, journal)
        assert found.best == whole.best
        assert {n: o.metrics["nll"] for n, o in found.outcomes.items()} == {
            n: o.metrics["nll"] for n, o in whole.outcomes.items()
        }
        assert proposed(journal) == proposed(whole_journal)
        assert not ended & {(t.number, t.attempt) for t in engine.started}, "what ended was run again"


def dying(journal: MemoryJournal, at: int) -> MemoryJournal:
    """A journal on the same lines whose owner dies when the line `at` was written."""
    lines = 0
    keep = journal.trial

    def trial(event: str, number: int, **fields: Any) -> None:
        nonlocal lines
        keep(event, number, **fields)
        lines += 1
        if lines == at:
            raise Killed

    dead = MemoryJournal(journal.folder)
    dead.lines = journal.lines
    dead.trial = trial  # type: ignore[method-assign]
    return dead


def proposed(journal: MemoryJournal) -> dict[tuple[int, Any], Any]:
    return {(r["trial"], r.get("tokens")): r["parameters"] for r in journal.lines if r["event"] == "proposed"}


@pytest.mark.slow
@pytest.mark.timeout(900)  # 28 ms a trial, most of it the sampler's
def test_ten_thousand_trials_leave_memory_and_handles_as_they_were(tmp_path: Path) -> None:
    """What grows is the record of the trials itself, not what is held beside it."""
    plan = make_plan(trials=10_000, trial_tokens=4_000)
    search = Search(plan)
    search.finished = lambda: None  # type: ignore[method-assign] - the study is never worth stopping here
    engine = SimulatedEngine(tmp_path, Landscape(), own_clock=True)
    process = psutil.Process()
    seen: list[tuple[int, int]] = []

    class Watched(MemoryJournal):
        def trial(self, event: str, number: int, **fields: Any) -> None:
            del fields
            if event == "ended" and number % 1_000 == 0:
                gc.collect()
                seen.append((process.memory_info().rss, process.num_fds()))

    journal = Watched(tmp_path)
    executor = LocalExecutor(CPU, RunClock(Budget(trials=10_000, hours=1e6), now=engine.now), "en")
    executor.run(search, engine, plan, Budget(trials=10_000, hours=1e6), journal)
    assert len(seen) == 10
    # A trial's outcome is 1 to 2 kB that the search must know: 10,000 of them are under 20 MB.
    assert seen[-1][0] - seen[1][0] <= 0.05 * seen[1][0] + 20e6
    assert len({fds for _, fds in seen}) == 1
