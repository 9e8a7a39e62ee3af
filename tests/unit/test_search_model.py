"""What the search believes: the surrogate, the acquisition, the rungs and the curves."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoswift.domain.plan import Plan, StartPoint
from autoswift.domain.trial import Outcome, Proposal
from autoswift.search.acquire import belief_of, expected_improvement, pick
from autoswift.search.history import TrialHistory, rebuild
from autoswift.search.rungs import agreement, climb, rank_correlation
from autoswift.search.searcher import Search, best_of, standing
from autoswift.search.space import Space, coordinates
from autoswift.search.stopping import Curves
from autoswift.search.surrogate import Observations, Surrogate
from unit.plans import make_plan

SPACE: dict[str, dict[str, Any]] = {
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "effective_batch_size": {"choices": [1, 2, 4, 8, 16]},
}
PRIOR = {"learning_rate": 3e-4, "effective_batch_size": 4}
TWO_D: dict[str, dict[str, Any]] = {
    "learning_rate": {"low": 6e-5, "high": 1.5e-3, "log": True},
    "effective_batch_size": {"choices": [2, 4, 8]},
}


def bowl(parameters: dict[str, Any], best_rate: float = 1e-3) -> float:
    """A negative log-likelihood with its optimum at `best_rate` and a batch of 4."""
    rate = math.log10(parameters["learning_rate"] / best_rate)
    batch = math.log2(parameters.get("effective_batch_size", 4) / 4)
    return 1.0 + 0.3 * rate**2 + 0.02 * batch**2


def ended(nll: float, metric: float | None = None, rung: int = 0, **fields: Any) -> Outcome:
    values = {"chrf": 100 * math.exp(-nll) if metric is None else metric, "nll": nll, "chrf_stderr": 0.3}
    return Outcome(status="finished", metrics=values, artifact="a", rung=rung, resume="r" if rung else None, **fields)


def searched(plan: Plan, best_rate: float = 1e-3, most: int = 200) -> Search:
    """A search whose trials all end at once."""
    search = Search(plan)
    for _ in range(most):
        if search.finished():
            break
        for one in search.ask(1):
            short = 200 / one.tokens if one.tokens else 0.0  # longer is better
            search.done(one.number, ended(bowl(one.parameters, best_rate) + short, rung=one.tokens or 0))
    return search


@given(
    rate=st.floats(1e-5, 1e-2),
    batch=st.sampled_from([1, 2, 4, 8, 16]),
    seed=st.integers(0, 2**16),
    width=st.floats(0, 5),
)
@settings(max_examples=60)
def test_the_space_keeps_what_it_draws_inside_and_the_prior_at_its_origin(
    rate: float, batch: int, seed: int, width: float
) -> None:
    space = Space(SPACE, PRIOR)
    assert space.encode(PRIOR) == pytest.approx(np.zeros(2))
    here = {"learning_rate": rate, "effective_batch_size": batch}
    rng = np.random.default_rng(seed)
    for one in [*space.sample(rng, 5), *space.near(rng, here, 5, width), space.clip(here)]:
        assert SPACE["learning_rate"]["low"] <= one["learning_rate"] <= SPACE["learning_rate"]["high"]
        assert one["effective_batch_size"] in SPACE["effective_batch_size"]["choices"]
    far = space.encode(here | {"learning_rate": min(1e-2, rate * 3.16)})
    assert far[1] - space.encode(here)[1] <= 1.001, "half a decade is one unit"


def test_the_surrogate_goes_through_what_it_saw_and_is_unsure_elsewhere() -> None:
    x = np.array([[-2.0], [-1.0], [0.0], [1.0]])
    y = -(x[:, 0] ** 2)
    model = Surrogate(Observations(x, np.zeros(4), y, np.zeros(4)))
    mean, deviation = model.predict(np.array([[0.0], [6.0]]))
    assert mean[0] == pytest.approx(0.0, abs=0.3)
    assert deviation[1] > 3 * deviation[0]


def test_short_trials_teach_the_surrogate_about_full_ones() -> None:
    """Where only shortness costs, a short trial's value is shifted, not believed as it stands."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (12, 1))
    short = np.array([math.log(9.0), 0.0] * 6)
    y = -(x[:, 0] ** 2) - 0.5 * short
    model = Surrogate(Observations(x, short, y, np.zeros(12)))
    at = np.linspace(-1.5, 1.5, 9)[:, None]
    mean, _ = model.predict(at)
    assert np.max(np.abs(mean + at[:, 0] ** 2)) < 0.6


def test_expected_improvement_by_hand() -> None:
    gain = expected_improvement(np.array([1.0, 1.0, -9.0]), np.array([1e-9, 1.0, 1.0]), 1.0)
    assert gain[0] == pytest.approx(0.0, abs=1e-6)
    assert gain[1] == pytest.approx(1 / math.sqrt(2 * math.pi))
    assert gain[2] < 1e-9


@given(seed=st.integers(0, 2**16), n=st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_proposals_at_once_differ(seed: int, n: int) -> None:
    space = Space(SPACE, PRIOR)
    rng = np.random.default_rng(seed)
    rows = space.sample(rng, n)
    seen = Observations(coordinates(space, rows), np.zeros(n), np.array([-bowl(r) for r in rows]), np.zeros(n))
    first = pick(space, seen, [], [], rows[0], np.random.default_rng(seed), belief_of(space)).parameters
    second = pick(space, seen, [first], [], rows[0], np.random.default_rng(seed), belief_of(space)).parameters
    gap = np.linalg.norm(space.encode(first) - space.encode(second))
    assert gap > 0.04


def test_a_rate_above_one_that_diverged_is_not_proposed() -> None:
    space = Space(SPACE, PRIOR)
    rows = [PRIOR, PRIOR | {"learning_rate": 1e-4}]
    # Higher looked better and better, until it failed.
    seen = Observations(coordinates(space, rows), np.zeros(2), np.array([-1.0, -1.5]), np.zeros(2))
    failed = [PRIOR | {"learning_rate": 1e-3}] * 2
    for seed in range(20):
        found = pick(space, seen, [], failed, rows[0], np.random.default_rng(seed), belief_of(space)).parameters
        assert found["learning_rate"] < 1e-3


@pytest.mark.parametrize("best_rate", [1e-4, 3e-4, 1e-3])
def test_the_search_closes_in_on_the_optimum(best_rate: float) -> None:
    search = searched(make_plan(trials=10, space=TWO_D), best_rate)
    number = search.best()
    assert number is not None
    parameters = search.proposals[number].parameters
    assert abs(math.log(parameters["learning_rate"] / best_rate)) < math.log(1.6)


def test_it_stops_when_another_trial_is_not_worth_its_cost_and_not_before() -> None:
    flat = Search(make_plan(trials=50, space=TWO_D))
    while not flat.finished():
        for one in flat.ask(1):
            flat.done(one.number, ended(1.0, metric=30.0))
    assert flat.finished() == "gain"
    assert 8 <= len(flat.outcomes) < 25
    three = Search(make_plan(trials=3, space=TWO_D))
    while not three.finished():
        for one in three.ask(1):
            three.done(one.number, ended(1.0, metric=30.0))
    assert three.finished() == "trials", "three trials were asked for, and three are too few to judge by"


def test_start_points_come_first_and_memory_that_lost_gets_no_second_trial() -> None:
    points = tuple(
        StartPoint(parameters={"learning_rate": rate}, origin=origin, weight=0.8)
        for rate, origin in ((1.2e-3, "knowledge"), (3e-4, "prior"), (7e-5, "knowledge"))
    )
    plan = make_plan(trials=6, start_points=points)
    bad = searched(plan, best_rate=3e-4)
    assert [bad.proposals[n].origin for n in (1, 2)] == ["knowledge", "prior"]
    assert "knowledge" not in [bad.proposals[n].origin for n in range(3, len(bad.proposals) + 1)]
    good = searched(plan, best_rate=1.3e-3)
    assert good.proposals[3].origin == "knowledge", "memory that was right goes on"


@given(
    truth=st.lists(st.lists(st.integers(-9, 9), min_size=3, max_size=3), min_size=1, max_size=8),
)
def test_only_the_best_at_its_length_goes_further_and_no_step_is_taken_twice(truth: list[list[int]]) -> None:
    rungs = (100, 200, 400)
    results: dict[int, dict[int, float]] = {}
    started: dict[int, int] = {}
    for number, values in enumerate(truth, 1):
        results[number], started[number] = {100: float(values[0])}, 100
        while (found := climb(results, rungs, started)) is not None:
            chosen, tokens = found
            here = max(results[chosen])
            assert rungs[rungs.index(here) + 1] == tokens > started[chosen]
            assert results[chosen][here] == max(at[here] for at in results.values() if here in at)
            assert all(results[chosen][rung] < results[chosen][here] for rung in results[chosen] if rung < here)
            started[chosen] = tokens
            results[chosen][tokens] = float(truth[chosen - 1][rungs.index(tokens)])
    top = max(values[0] for values in truth)
    assert any(200 in results[n + 1] for n, values in enumerate(truth) if values[0] == top), "the best one went on"


def test_a_length_that_helped_nobody_is_tried_again_by_one_that_gains_more_on_its_way() -> None:
    rungs = (1, 2, 4)
    first = {1: 0.0, 2: 1.0, 4: 0.9}
    assert climb({1: first, 2: {1: 0.1, 2: 1.05}}, rungs, {1: 4, 2: 2}) is None
    assert climb({1: first, 2: {1: 0.1, 2: 1.5}}, rungs, {1: 4, 2: 2}) == (2, 4)


def test_rank_correlation_by_hand() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 30]) == pytest.approx(1.0)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert rank_correlation([1, 2, 2, 4], [1, 2, 3, 4]) == pytest.approx(0.9487, abs=1e-3)
    assert rank_correlation([1.0], [2.0]) == 1.0


def test_where_short_trials_lie_new_ones_run_in_full() -> None:
    """Five pairs whose order is reversed: short trials are not believed, and new ones are trained in full."""
    plan = make_plan(trials=60, rungs=(2_000, 16_000), trial_tokens=16_000)
    search = Search(plan)
    seen_full = False
    for _ in range(80):
        asked = search.ask(1)
        if not asked:
            break
        one = asked[0]
        short = one.tokens == 2_000
        seen_full = seen_full or (one.number not in search.at and one.tokens == 16_000)
        search.done(
            one.number, ended(2.0 - 0.01 * one.number if short else 1.0 + 0.01 * one.number, rung=one.tokens or 0)
        )
    results = {n: {r: -o.metrics["nll"] for r, o in at.items()} for n, at in search.at.items()}
    assert agreement(results, (2_000, 16_000)) < 0.6
    assert seen_full


def test_short_trials_are_continued_and_the_best_is_one_that_was_trained_in_full() -> None:
    plan = make_plan(trials=9, rungs=(2_000, 6_000, 18_000), trial_tokens=18_000, space=TWO_D)
    search = searched(plan)
    assert search.finished() in ("trials", "gain")
    best = search.best()
    assert best is not None
    assert search.outcomes[best].rung == 18_000
    full = [n for n, at in search.at.items() if 18_000 in at]
    assert 1 <= len(full) < len(search.at), "those that are worse when short stay short"
    assert all(2_000 in search.at[n] for n in full)


def test_best_of_puts_longer_training_before_a_better_short_one() -> None:
    assert best_of({1: ended(1.0, 50.0, rung=2_000), 2: ended(1.2, 40.0, rung=6_000)}, "chrf") == 2


def test_where_going_on_did_no_good_the_shorter_training_is_the_result() -> None:
    plan = make_plan(trials=2, rungs=(2_000, 6_000), trial_tokens=6_000, space=TWO_D, promote=True)
    search = Search(plan)
    values = {(1, 2_000): 2.0, (2, 2_000): 1.0, (2, 6_000): 1.3}
    while not search.finished():
        for one in search.ask(1):
            tokens = one.tokens or 0
            search.done(one.number, ended(values[one.number, tokens], rung=tokens, tokens=tokens))
    best = search.best()
    assert best == 2
    assert search.outcomes[best].tokens == 2_000
    assert standing(list(search.at[2].values()), make_plan()).tokens == 6_000, "without lengths the last end counts"


def _curve(search: Curves, trial: int, level: float, steps: int = 20) -> list[str]:
    return [search.tell(trial, s, {"loss": 3.0 - level * s / steps}, s / steps) for s in range(1, steps + 1)]


def test_a_curve_that_is_behind_the_median_is_stopped_once_curves_can_be_believed() -> None:
    curves = Curves()
    for trial in range(1, 7):
        assert set(_curve(curves, trial, 1.0 + trial / 10)) == {""}, "too few have ended to judge"
        curves.ended(trial, 2.0 - trial / 10)
    words = _curve(curves, 7, 0.2)
    assert words[:9] == [""] * 9, "not before half of the trial"
    assert "pruned" in words
    assert set(_curve(curves, 8, 1.9)) == {""}, "a better one goes on"


def test_curves_that_say_nothing_about_the_end_stop_nothing() -> None:
    curves = Curves()
    for trial in range(1, 7):
        _curve(curves, trial, 1.0 + trial / 10)
        curves.ended(trial, 1.0 + trial / 10)  # the lower the curve, the worse the end
    assert set(_curve(curves, 7, 0.2)) == {""}


@given(cut=st.integers(0, 9), seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_a_search_that_is_rebuilt_from_its_record_proposes_the_same(cut: int, seed: int) -> None:
    plan = make_plan(trials=7, seed=seed, rungs=(2_000, 6_000), trial_tokens=6_000, space=TWO_D)
    whole, rows = Search(plan), []
    proposals: list[Proposal] = []
    while not whole.finished():
        for one in whole.ask(1):
            proposals.append(one)
            outcome = ended(bowl(one.parameters), rung=one.tokens or 0)
            whole.done(one.number, outcome)
            rows += _lines(one, outcome)
    kept = rows[: 3 * min(cut, len(proposals))]
    again = Search(plan, rebuild(kept))
    rest = []
    while not again.finished():
        for one in again.ask(1):
            rest.append(one)
            again.done(one.number, ended(bowl(one.parameters), rung=one.tokens or 0))
    assert proposals[: len(kept) // 3] + rest == proposals
    assert again.best() == whole.best()


def _lines(one: Proposal, outcome: Outcome) -> list[dict[str, Any]]:
    from autoswift.run.files import plain

    base = {"trial": one.number, "time": 0.0}
    return [
        base | {"event": "proposed", "parameters": one.parameters, "origin": one.origin, "tokens": one.tokens},
        base | {"event": "started", "attempt": 1},
        base | {"event": "ended", "outcome": plain(outcome), "final": True},
    ]


def test_a_trial_whose_next_rung_was_cut_off_is_run_again_and_no_other() -> None:
    plan = make_plan(trials=3, rungs=(2_000, 6_000), trial_tokens=6_000)
    search = searched(plan)
    number = next(n for n, at in search.at.items() if 6_000 in at)
    first = ended(1.0, rung=2_000)
    history = {
        n: TrialHistory(
            proposal=replace(search.proposals[n], tokens=6_000 if n == number else 2_000),
            attempts=1,
            ended=[first if n == number else ended(2.0, rung=2_000)],
            done=n != number,
        )
        for n in search.proposals
    }
    again = Search(plan, history)
    assert number not in again.outcomes
    assert again.ask(1) == [], "it is running: nothing else is to be continued, and no new trial is allowed"


def test_what_similar_tasks_showed_moves_the_belief_and_little_of_it_moves_it_little() -> None:
    space = Space(SPACE, PRIOR)
    index = space.names.index("learning_rate")
    unit = math.log(3.16)
    rule, weak, strong = (belief_of(space, learnt) for learnt in (None, (2 * unit, unit, 0.1), (2 * unit, unit, 5.0)))
    assert rule.centre[index] == 0 < weak.centre[index] < strong.centre[index] < 2
    assert strong.width[index] < weak.width[index] < rule.width[index]
