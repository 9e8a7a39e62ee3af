"""Where memory says to begin: within the space, the same whatever the order, and never trusted too early."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from knowledge_runs import SPACE, TASK, fingerprints, remembered, rows, trial, trials

from autoswift.domain.plan import StartPoint
from autoswift.knowledge.evidence import Remembered, judged, thinned
from autoswift.knowledge.portfolio import advise, trusted

HERE = {"learning_rate": 2e-4, "effective_batch_size": 16}


def start_points(*known: Any, **asked: Any) -> tuple[StartPoint, ...]:
    return advise(*known, **asked).points


def rate_prior(*memory: Remembered) -> tuple[float, float, float]:
    return advise(TASK, SPACE, HERE, memory).rate


def points(*memory: Remembered, **more: Any) -> tuple[StartPoint, ...]:
    return start_points(TASK, SPACE, HERE, memory, **more)


def test_without_memory_there_is_no_advice() -> None:
    assert points() == ()
    assert rate_prior() == (0.0, 0.0, 0.0)


def test_what_did_best_on_the_same_task_comes_first() -> None:
    first, second = points(remembered("a", trials(2.0)))
    assert (first.origin, second.origin) == ("knowledge", "prior")
    assert first.parameters == {"learning_rate": 4e-4, "effective_batch_size": 16}
    assert second.parameters == HERE
    assert first.weight > second.weight
    assert "learning_rate × 2" in first.because


def test_rates_are_carried_over_by_their_ratio_to_the_rule() -> None:
    small = {"learning_rate": 3e-3, "effective_batch_size": 4, "lora_rank": 16}
    (first, _) = points(remembered("a", trials(2.0, prior=small), parameters=500_000_000, model="small"))
    assert first.parameters == {"learning_rate": 4e-4, "effective_batch_size": 16}
    assert first.weight < points(remembered("a", trials(2.0)))[0].weight, "another size is less alike"


def test_batches_are_carried_over_too_and_fitted_to_the_choices() -> None:
    small = {"learning_rate": 2e-4, "effective_batch_size": 4}
    tried = [*trials(1.0, prior=small), trial(1.0, 40.0, prior=small, parameters={"effective_batch_size": 9})]
    found = [p.parameters for p in points(remembered("a", tried)) if p.origin == "knowledge"]
    assert found == [{"learning_rate": 2e-4, "effective_batch_size": 32}]


def test_a_ratio_beyond_the_space_ends_at_its_bound() -> None:
    tried = [*trials(1.0), trial(6.0, 40.0), trial(5.5, 38.0)]
    rates = [p.parameters["learning_rate"] for p in points(remembered("a", tried))]
    assert rates == [1e-3, 2e-4]


def test_memory_that_agrees_with_the_rules_leaves_them_alone_first() -> None:
    (only,) = points(remembered("a", trials(1.0)), remembered("b", trials(1.05)))
    assert (only.origin, only.parameters) == ("prior", HERE)


def test_a_gain_within_the_noise_is_no_advice() -> None:
    noisy = [replace(row, stderr=20.0) for row in trials(2.0)]
    assert points(remembered("a", noisy)) == ()
    advice = advise(TASK, SPACE, HERE, [remembered("a", noisy)])
    assert advice.sources[0].worth == 0.0


def test_unknown_noise_is_trusted_less_than_known() -> None:
    unknown = [replace(row, stderr=None) for row in trials(2.0)]
    found = {p.origin: p.weight for p in points(remembered("a", unknown))}
    assert found["knowledge"] < points(remembered("a", trials(2.0)))[0].weight
    assert points(remembered("a", unknown))[0].origin == "prior"


def test_two_kinds_of_task_give_two_points_the_likelier_first() -> None:
    memory = [remembered(f"up{n}", trials(2.0)) for n in range(3)] + [remembered(f"z{n}", trials(0.35)) for n in "ab"]
    found = points(*memory)
    rates = [p.parameters["learning_rate"] for p in found if p.origin == "knowledge"]
    assert rates == [4e-4, 7e-5]


def test_runs_that_contradict_lower_the_weight() -> None:
    agreed = points(remembered("a", trials(2.0)), remembered("b", trials(2.0)))
    disputed = points(remembered("a", trials(2.0)), remembered("b", trials(0.5, steep=20.0)))
    weight = {p.parameters["learning_rate"]: p.weight for p in disputed if p.origin == "knowledge"}
    assert weight.get(4e-4, 0.0) < agreed[0].weight


def test_configurations_that_diverged_elsewhere_weigh_against() -> None:
    diverged = trial(2.0, None, status="failed", symptom="divergence")
    sound = remembered("a", trials(2.0))
    spoiled = remembered("b", [*trials(1.0, steep=2.0)[:3], diverged, diverged])
    assert points(sound, spoiled)[0].weight < points(sound)[0].weight
    memory_ran_out = replace(diverged, symptom="device_out_of_memory")
    other = remembered("b", [*trials(1.0, steep=2.0)[:3], memory_ran_out, memory_ran_out])
    by_machine = [p.weight for p in points(sound, other) if p.origin == "knowledge"]
    by_itself = [p.weight for p in points(sound, spoiled) if p.origin == "knowledge"]
    assert max(by_machine) > max(by_itself), "a machine's fault is not the configuration's"


def test_short_trials_are_not_compared_with_long_ones() -> None:
    tried = [trial(1.0, 20.0, tokens=2000), trial(3.0, 26.0, tokens=2000), trial(0.5, 30.0, tokens=20_000)]
    found = judged(remembered("a", tried))
    assert found is not None
    assert [round(math.exp(found.tried[i].ratios["learning_rate"]), 2) for i in found.best] == [3.0]
    assert judged(remembered("a", tried[::2])) is None, "nothing to compare with"


def test_tasks_that_are_not_alike_are_no_source() -> None:
    far = {"domain": "legal", "language": "en", "rows": 100_000, "parameters": 135_000_000, "method": "full"}
    for changes in (far, {"goal": "classification"}, {"modality": "image"}):
        advice = advise(TASK, SPACE, HERE, [remembered("a", trials(2.0), **changes)])
        assert advice.points == ()
        assert advice.dissimilar[0] == 1
        assert advice.dissimilar[1] < 0.5


def test_a_single_trial_is_never_spent_on_memory() -> None:
    assert points(remembered("a", trials(2.0)), trials=1) == ()


def test_what_is_fixed_is_not_touched() -> None:
    space = {"lora_rank": {"choices": [8, 16, 32], "prior": 16}}
    for point in start_points(TASK, space, {"lora_rank": 16}, [remembered("a", trials(2.0))]):
        assert set(point.parameters) == {"lora_rank"}
    assert start_points(TASK, {}, {}, [remembered("a", trials(2.0))]) == ()


def test_the_numeric_prior_is_the_middle_of_what_did_best() -> None:
    centre, spread, weight = rate_prior(*[remembered("a", trials(2.0)), remembered("b", trials(2.0))])
    assert math.exp(centre) == pytest.approx(2.0, rel=0.1)
    assert 0.25 < spread < 0.6
    assert 1.5 < weight <= 2.0
    far_apart = rate_prior(*[remembered("a", trials(3.0)), remembered("b", trials(0.35))])
    assert far_apart[1] > 2 * spread
    assert rate_prior(*[remembered("a", [replace(r, stderr=20.0) for r in trials(2.0)])])[2] == 0.0


def test_many_trials_are_thinned_to_those_that_say_most() -> None:
    many = [trial(1.0 + n / 50, float(n)) for n in range(200)]
    kept = thinned(many)
    assert len(kept) <= 24
    assert many[0] in kept
    assert many[-1] in kept
    assert list(kept) == [row for row in many if row in kept]


@pytest.mark.parametrize(
    ("knowledge", "prior", "stderr", "expected"),
    [
        (10.0, 9.0, 1.0, True),
        (9.0, 10.0, 1.0, True),  # within √2 errors
        (8.0, 10.0, 1.0, False),
        (9.9, 10.0, None, False),
        (10.0, 10.0, None, True),
        (None, 10.0, 1.0, False),
        (None, None, 1.0, False),
        (1.0, None, 1.0, True),
        (math.nan, 10.0, 1.0, False),
        (9.0, 10.0, math.nan, False),
    ],
)
def test_memory_is_trusted_while_it_does_not_lose(
    knowledge: float | None, prior: float | None, stderr: float | None, expected: bool
) -> None:
    assert trusted(knowledge, prior, stderr) is expected


memories = st.lists(
    st.builds(
        lambda run, mark, tried: Remembered(run_id=run, fingerprint=mark, trials=tuple(tried)),
        st.text("abc", min_size=1, max_size=3),
        fingerprints | st.just(TASK),
        st.lists(rows, max_size=6).map(lambda found: [trial(1.0, 1.0), *found]),
    ),
    max_size=6,
    unique_by=lambda one: one.run_id,
)
choices = st.lists(st.integers(1, 512), min_size=1, max_size=4, unique=True).map(sorted)


@st.composite
def spaces(draw: Any) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    if draw(st.booleans()):
        rate, span = draw(st.floats(1e-6, 1e-1)), draw(st.floats(1.0, 10.0))
        found["learning_rate"] = {"low": rate / span, "high": rate * span, "log": True, "prior": rate}
    if draw(st.booleans()):
        offered = draw(choices)
        found["effective_batch_size"] = {"choices": offered, "prior": draw(st.sampled_from(offered))}
    if draw(st.booleans()):
        found["epochs"] = {"low": 1, "high": 8, "prior": draw(st.integers(1, 8))}
    if draw(st.booleans()):
        found["optimizer"] = {"choices": ["adamw_torch", "sgd"], "prior": "sgd"}
    return found


@given(memories, spaces(), st.integers(0, 6), st.randoms(use_true_random=False))
@settings(max_examples=80)
def test_points_lie_in_the_space_and_one_at_most_before_the_plans_own(
    memory: list[Remembered], space: dict[str, dict[str, Any]], count: int, shuffler: random.Random
) -> None:
    prior = {name: one["prior"] for name, one in space.items()}
    found = start_points(TASK, space, prior, memory, trials=count)
    for point in found:
        assert set(point.parameters) == set(space)
        for name, value in point.parameters.items():
            one = space[name]
            assert value in one["choices"] if "choices" in one else one["low"] <= value <= one["high"]
        assert 0.0 <= point.weight <= 1.0
    origins = [p.origin for p in found]
    if found:
        assert origins.index("prior") <= 1
        assert origins.count("prior") == 1
        assert len(found) <= max(count, 0)
        assert found[origins.index("prior")].parameters == pytest.approx(prior)
    mixed = list(memory)
    shuffler.shuffle(mixed)
    assert start_points(TASK, space, prior, mixed, trials=count) == found
    assert rate_prior(*mixed) == rate_prior(*memory)
    centre, spread, weight = rate_prior(*memory)
    assert abs(centre) <= math.log(20) + 1e-3
    assert 0.0 <= spread < 50
    assert 0.0 <= weight <= len(memory)


def test_a_memory_made_to_mislead_spends_one_trial_and_is_dropped() -> None:
    lie = [trial(1.0, 1.0, stderr=1e-6), *(trial(r, 1e6 * r, stderr=1e-6) for r in (3.0, 4.9, 0.2))]
    found = points(*(remembered(f"lie{n}", lie) for n in range(50)))
    assert [p.origin for p in found][:2] == ["knowledge", "prior"]
    assert not trusted(5.0, 10.0, 0.3)
