"""Several objectives: the front, what is taken of it, when another would be, and how proposals weigh them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decide import ONLINE, RTX, inputs

from autoswift.decide.planner import make_plan as decided_plan
from autoswift.domain.plan import Plan
from autoswift.domain.trial import Outcome
from autoswift.errors import InputError
from autoswift.search.history import rebuild
from autoswift.search.objectives import Candidate, Choice, adapter_weights, blended, choose, front
from autoswift.search.searcher import Search
from autoswift.search.winner import front_of, weighed
from unit.plans import make_plan

ALL = ("quality", "latency", "size")
RANKS = {"lora_rank": {"choices": [8, 16, 32], "prior": 16}}
RATES = {"learning_rate": {"low": 6e-5, "high": 1.5e-3, "log": True, "prior": 3e-4}}


def plan_for(objectives: tuple[str, ...] = ALL, **more: Any) -> Plan:
    plan = make_plan(objectives=objectives, space=RATES | RANKS, **more)
    model = replace(plan.model, layers=2, hidden=64, heads=4, kv_heads=2, intermediate=128)
    return replace(plan, model=model)


def outcome(quality: float, latency: float | None, error: float = 0.0, nll: float = 1.0) -> Outcome:
    metrics = {"chrf": quality, "chrf_stderr": error, "nll": nll, "latency_seconds": latency}
    return Outcome(status="finished", metrics=metrics, artifact="a")


def chosen(rows: dict[int, tuple[Outcome, int]], objectives: tuple[str, ...] = ALL) -> Choice:
    parameters = {n: {"lora_rank": rank} for n, (_, rank) in rows.items()}
    found = choose(plan_for(objectives), {n: o for n, (o, _) in rows.items()}, parameters)
    assert found is not None
    return found


ROWS = st.lists(
    st.builds(
        Candidate,
        number=st.just(0),
        quality=st.integers(0, 8).map(float),
        latency=st.one_of(st.none(), st.integers(1, 8).map(float)),
        size=st.integers(1, 4),
    ),
    min_size=1,
    max_size=12,
).map(lambda rows: [replace(one, number=i + 1) for i, one in enumerate(rows)])


@given(ROWS, st.sampled_from([("quality", "latency"), ("quality", "size"), ALL]))
@settings(max_examples=200)
def test_a_trial_is_on_the_front_exactly_when_no_other_beats_it(rows: list[Candidate], names: tuple[str, ...]) -> None:
    def beats(one: Candidate, other: Candidate) -> bool:
        a, b = one.costs(names), other.costs(names)
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    on = {one.number for one in front(rows, names)}
    assert on == {one.number for one in rows if not any(beats(other, one) for other in rows)}
    assert on, "something is always on it"


@given(ROWS, st.floats(0, 3))
@settings(max_examples=200, deadline=None)
def test_what_is_taken_lies_on_the_front_and_turns_where_it_says(rows: list[Candidate], error: float) -> None:
    given_rows = {
        one.number: (outcome(one.quality, one.latency, error, 1.0 + one.number), 8 * one.size) for one in rows
    }
    found = chosen(given_rows)
    assert found.number in found.front
    if found.turn is None:
        return
    turn = found.turn
    past, rank = given_rows[turn.number]
    name = {"quality": "chrf", "latency": "latency_seconds"}[turn.objective]

    def taken_at(value: float) -> int:
        changed = replace(past, metrics=past.metrics | {name: value})
        return chosen(given_rows | {turn.number: (changed, rank)}).number

    assert taken_at(turn.value) == turn.number
    start = past.metrics[name]
    assert start is not None
    gap = turn.value - start
    short = turn.value - math.copysign(max(1e-3 * abs(gap), 1e-9), gap)
    assert taken_at(short) != turn.number


def test_within_the_error_the_faster_is_taken_then_the_smaller() -> None:
    rows = {
        1: (outcome(60.0, 1.00, 2.0), 32),
        2: (outcome(59.0, 0.50, 2.0), 32),  # as good as 1, and fast
        3: (outcome(58.9, 0.51, 2.0), 8),  # as good, as fast within 5 %, and smaller
        4: (outcome(50.0, 0.10, 2.0), 8),  # fastest, but worse beyond the error
        5: (outcome(49.0, 0.90, 2.0), 32),  # beaten
    }
    found = chosen(rows)
    assert found.rule == "interval"
    assert found.front == (1, 2, 3, 4)
    assert found.number == 3
    assert chosen(rows, ("quality", "latency")).number == 2


def test_without_errors_the_knee_is_taken() -> None:
    rows = {1: (outcome(60.0, 2.0), 16), 2: (outcome(58.0, 0.6), 16), 3: (outcome(40.0, 0.5), 16)}
    found = chosen(rows, ("quality", "latency"))
    assert (found.rule, found.number) == ("knee", 2)


def test_one_that_beats_all_needs_no_rule_and_one_objective_no_choice() -> None:
    rows = {1: (outcome(60.0, 0.5), 8), 2: (outcome(50.0, 0.6), 16)}
    assert chosen(rows).rule == "only"
    assert choose(plan_for(("quality",)), {1: rows[1][0]}, {1: {}}) is None


def test_the_size_is_that_of_the_adapters_matrices() -> None:
    plan = plan_for()
    # q: 64 in, 4 x 16 out; k and v: 64 in, 2 x 16 out; o; gate, up: 64 in, 128 out; down.
    per_rank = 2 * ((64 + 64) + (64 + 32) + (64 + 32) + (64 + 64) + (64 + 128) + (64 + 128) + (128 + 64))
    assert adapter_weights(plan, {"lora_rank": 8}) == 8 * per_rank
    full = replace(plan, training=replace(plan.training, method="full"))
    assert adapter_weights(full, {"lora_rank": 8}) == plan.model.parameters


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_decision_says_what_was_weighed_and_what_would_turn_it(language: str) -> None:
    plan = plan_for()
    rows = {1: (outcome(60.0, 1.0, 2.0), 32), 2: (outcome(59.0, 0.5, 2.0), 16), 3: (outcome(30.0, 0.9, 2.0), 32)}
    found = chosen(rows)
    decision = weighed(plan, found, language)
    assert decision.value == found.number == 2
    assert {a.value for a in decision.alternatives} == {1, 3}
    turn = decision.reverse_when
    assert turn is not None
    assert turn.becomes == 1
    assert turn.fact in ("trials.1.quality", "trials.1.latency")
    kept = front_of(plan, found)
    assert json.loads(json.dumps(kept, allow_nan=False)) == kept
    assert kept is not None
    assert [row["trial"] for row in kept["trials"] if row["front"]] == [1, 2]


def test_show_and_report_have_the_front() -> None:
    from autoswift.cli.options import speak
    from autoswift.cli.show import front_line
    from autoswift.report.front import fronts

    rows = {1: (outcome(60.0, 1.0, 2.0), 32), 2: (outcome(59.0, 0.5, 2.0), 16), 3: (outcome(30.0, 0.9, 2.0), 32)}
    value = front_of(plan_for(), chosen(rows))
    assert value is not None
    speak("en")
    assert front_line(value).endswith("no other beats: #1, #2; taken: #2.")
    drawn = fronts(value, "zh")
    assert [one["title"] for one in drawn] == ["效果与延迟", "效果与适配器体积"]
    for one in drawn:
        assert one["chart"].count("<circle") == 3
        assert one["chart"].count("dot best") == 1
    assert fronts(None, "en") == []


def run(search: Search, until: int, journal: list[dict[str, Any]]) -> None:
    """Trials whose quality falls off the best rate, and whose answers are longer the larger the rank."""
    while len(journal) < 2 * until and search.finished() is None:
        for one in search.ask(1):
            row = {"event": "proposed", "trial": one.number, "time": 1.0}
            journal.append(row | {"parameters": one.parameters, "origin": one.origin})
            off = math.log10(one.parameters["learning_rate"] / 8e-4)
            rank = one.parameters["lora_rank"]
            ended = outcome(60 - 30 * off**2 + 0.1 * rank, 0.5 + rank / 64, 0.5, 2 + off**2)
            search.done(one.number, ended)
            journal.append(
                {"event": "ended", "trial": one.number, "time": 2.0, "attempt": 1, "outcome": ended, "final": True}
            )


def test_a_search_of_several_objectives_resumes_as_if_it_had_not_been_broken() -> None:
    plan = plan_for(trials=12)
    whole: list[dict[str, Any]] = []
    unbroken = Search(plan)
    run(unbroken, 12, whole)
    for cut in (3, 6, 9):
        again = Search(plan, rebuild(whole[: 2 * cut]))
        rest = whole[: 2 * cut]
        run(again, 12, rest)
        assert [r["parameters"] for r in rest if r["event"] == "proposed"] == [
            r["parameters"] for r in whole if r["event"] == "proposed"
        ]
        assert again.best() == unbroken.best()


def test_proposals_spread_over_the_front() -> None:
    """One objective settles on the large rank that is best; with the size, small ranks are tried near the best rate."""

    def ranks(objectives: tuple[str, ...]) -> list[int]:
        search, journal = Search(plan_for(objectives, trials=14)), list[dict[str, Any]]()
        run(search, 14, journal)
        near = [p.parameters for p in search.proposals.values() if 5e-4 < p.parameters["learning_rate"] < 1.3e-3]
        return [p["lora_rank"] for p in near]

    assert ranks(ALL).count(8) > ranks(("quality",)).count(8)


def test_the_weights_of_a_proposal_follow_from_its_number_and_quality_counts_at_least_half() -> None:
    plan = plan_for()
    rows = [({"lora_rank": rank}, 0.0, quality, 0.0) for rank, quality in ((8, 10.0), (32, 20.0))]
    values = [tuple(r[2] for r in blended(plan, n, rows, [1.0, 1.0])) for n in range(1, 30)]
    assert values == [tuple(r[2] for r in blended(plan, n, rows, [1.0, 1.0])) for n in range(1, 30)]
    assert len(set(values)) > 20
    assert all(large > small for small, large in values), "the best quality is never the worst of two"


def test_the_plan_asks_for_what_the_user_names() -> None:
    known = inputs(RTX, ONLINE)
    plan = decided_plan(known)
    assert plan.search.objectives == ("quality",)
    assert plan.decision("objectives").alternatives
    asked = replace(known, task=replace(known.task, options={"objectives": "size, latency"}))
    wanted = decided_plan(asked)
    assert wanted.search.objectives == ALL
    assert len(wanted.decision("objectives").evidence) == 2, "what can be traded, and what cannot"
    spoken = replace(known, profile=replace(known.profile, constraints={"latency": "low"}))
    assert decided_plan(spoken).search.objectives == ("quality", "latency")
    with pytest.raises(InputError, match="speed"):
        decided_plan(replace(known, task=replace(known.task, options={"objectives": "speed"})))


def test_objectives_are_in_the_record_of_the_plan(tmp_path: Path) -> None:
    from pydantic import TypeAdapter

    from autoswift.run.files import dumps

    plan = plan_for()
    assert TypeAdapter(Plan).validate_json(dumps(plan)).search.objectives == ALL
