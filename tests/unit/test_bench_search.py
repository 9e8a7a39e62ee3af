"""The search benchmark counts right: costs add up, what is not reached is censored, a better search scores better."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoswift.domain.trial import Outcome, Proposal
from autoswift.engines.curves import CurveTable
from unit.curve_tables import write

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import search as bench
import search_methods as methods
import search_stats as stats
from search_ground import Ground, Meter
from search_ours import adversarial, drive, remembered


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("table") / "curves.npz")


@pytest.fixture(scope="module")
def table(path: Path) -> CurveTable:
    return CurveTable.load(path)


def meter(table: CurveTable, corpus: str = "first", budget: float = 8.0, seed: int = 0, **ground: Any) -> Meter:
    one = Ground(table, corpus, **ground)
    return Meter(one, seed, budget * one.unit())


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "DRAWS", 20)
    monkeypatch.setattr(stats, "RESAMPLES", 200)


def test_the_whole_benchmark_prints_bars_and_gives_plain_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = bench.run(["random", "script", "ours", "permuted_random", "permuted_ours"], 1, path, True, 1)
    bars = {one["bar"]: one for one in made["against"]["ours"]["bars"]}
    assert set(bars) == {"at most 1/5 of the plain script", "optima permuted: still faster than random"}
    assert all(one["verdict"] in ("met", "missed") for one in bars.values())
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    printed = capsys.readouterr().out
    assert "at most 1/5 of the plain script" in printed
    assert "random" in printed


def test_the_best_of_the_table_beats_random_and_random_beats_nothing(path: Path) -> None:
    summary = summary_of(path, ["oracle", "random", "default_ours"])
    oracle, chance, nothing = (summary.line(n) for n in ("oracle", "random", "default_ours"))
    assert oracle["reached"] == 1.0
    assert oracle["mean"] < chance["mean"] < nothing["mean"] == bench.BUDGET
    assert nothing["median"] is None
    ratio = summary.ratio("oracle", "random")
    assert ratio is not None
    assert ratio["ratio"] < 1
    assert ratio["interval"][0] <= ratio["ratio"] <= ratio["interval"][1]


def summary_of(path: Path, names: list[str]) -> bench.Summary:
    table = CurveTable.load(path)
    rows = [row for name in names for seed in range(3) for row in bench.replays((name, seed, str(path), True))]
    goals = {(c, 0.0): bench.targets(table, c, 0.0) for c in table.corpora}
    return bench.Summary(rows, goals, "ours")


@pytest.mark.parametrize("name", [n for n in bench.METHODS if n != "gp"])
def test_what_a_method_spends_is_the_sum_of_its_charges_and_ends_with_the_budget(table: CurveTable, name: str) -> None:
    ground = bench.ground_of(name, table, "second", 1, True)
    one = Meter(ground, 1, 4 * ground.unit())
    bench.method(name, ground, 1)(one)
    assert one.spent == pytest.approx(sum(one.charges))
    largest = ground.seconds(ground.guess(), 4 * table.epoch_tokens)
    assert 0 < one.spent <= one.limit + largest, "the last trial may end behind the limit, none begins there"
    assert [at for at, _ in one.trace] == sorted(at for at, _ in one.trace)
    assert one.trials >= 1


class Continues:
    """A searcher that trains one configuration to a third, then the whole."""

    def __init__(self, **extra: Any) -> None:
        self.extra, self.asked, self.told = extra, 0, []

    def ask(self, n: int) -> list[Proposal]:
        del n
        self.asked += 1
        parameters = {"learning_rate": 0.02, "effective_batch_size": 8, "lora_rank": 8}
        return [Proposal(number=1, parameters=parameters, origin="prior", tokens=[8192, 24576][self.asked - 1])]

    def tell(self, trial: int, step: int, metrics: Any) -> str:
        self.told.append((trial, step, metrics["tokens"]))
        return "go"

    def done(self, trial: int, outcome: Outcome) -> None:
        self.outcome = outcome

    def finished(self) -> str | None:
        return "trials" if self.asked == 2 else None


def test_a_continued_trial_pays_for_what_it_adds_and_for_the_cool_down_that_it_repeats(table: CurveTable) -> None:
    one = meter(table)
    searcher = Continues()
    drive(searcher, one)
    assert one.spent == pytest.approx(one.ground.seconds(one.ground.guess(), 24576 + 0.2 * 8192))
    assert len(one.charges) == 2
    assert one.trials == 1
    assert [t[2] for t in searcher.told] == sorted(t[2] for t in searcher.told)
    assert searcher.outcome.rung == searcher.outcome.tokens == 24576


def test_knowledge_comes_from_the_other_corpora_alone(table: CurveTable) -> None:
    ground = Ground(table, "second")
    points = remembered(ground, 0, 4 * ground.unit())
    assert sorted(p.because for p in points) == ["best on first", "best on third"]
    assert all(p.origin == "knowledge" for p in points)


def test_the_adversarial_memory_is_in_the_space_and_worse_than_the_default(table: CurveTable) -> None:
    ground = Ground(table, "first")
    default = ground.truth(ground.guess(), ground.full(ground.guess()))
    space = ground.plan(0, 1, (), ()).search.space["learning_rate"]
    points = adversarial(ground)
    assert len(points) == 3
    for point in points:
        assert space["low"] <= point.parameters["learning_rate"] <= space["high"]
        assert ground.truth(point.parameters, ground.full(ground.guess())) > default


def test_the_permuted_control_moves_the_optimum(table: CurveTable) -> None:
    best = methods.spaced(*Ground(table, "first").space()["learning_rate"], 40)

    def top(shift: float) -> float:
        ground = Ground(table, "first", shift)
        rows = [ground.guess() | {"learning_rate": rate} for rate in best]
        return min(rows, key=lambda r: ground.truth(r, ground.full(r)))["learning_rate"]

    assert abs(np.log10(top(0.4) / top(0.0))) > 0.5


def test_survival_is_kaplan_and_meiers() -> None:
    # Six people of a textbook: events at 6 and 13, 22, 23; lost at 10 and 16.
    times = np.array([6.0, 10.0, 13.0, 16.0, 22.0, 23.0])
    there = np.array([True, False, True, False, True, True])
    at, left = stats.survival(times, there)
    assert at.tolist() == [6, 13, 22, 23]
    assert left == pytest.approx([5 / 6, 5 / 6 * 3 / 4, 5 / 6 * 3 / 4 / 2, 0])
    assert stats.median(times, there) == 22
    assert stats.median(times, np.zeros(6, dtype=bool)) == float("inf")


@given(st.lists(st.tuples(st.floats(0.1, 40), st.booleans()), min_size=1, max_size=30))
@settings(max_examples=60)
def test_censoring_never_makes_a_method_look_faster(rows: list[tuple[float, bool]]) -> None:
    limit = 32.0
    times = np.array([min(t, limit) for t, _ in rows])
    there = np.array([ok and t < limit for t, ok in rows])
    mean = stats.restricted_mean(np.where(there, times, limit), there, limit)
    assert mean == pytest.approx(np.where(there, times, limit).mean())
    all_there = stats.restricted_mean(times, np.ones(len(rows), dtype=bool), limit)
    assert all_there <= mean + 1e-9


def test_the_interval_holds_the_mean_and_narrows_with_more_seeds() -> None:
    values = np.random.default_rng(1).normal(10, 2, 400)

    def width(n: int) -> float:
        low, high = stats.interval(list(range(n)), lambda i: float(values[i].mean()))
        assert low < values[:n].mean() < high
        return high - low

    assert width(400) < width(25)
