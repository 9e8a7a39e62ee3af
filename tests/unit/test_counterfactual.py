"""The explanations are true: set the fact where a decision says, and it flips; just short of it, it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decide import CPU, OFFLINE, ONLINE, RTX, inputs
from typer.testing import CliRunner

from autoswift.cli.app import app
from autoswift.decide.counterfactual import explained
from autoswift.decide.facts import LEVERS, suppose, value_of
from autoswift.decide.inputs import Inputs
from autoswift.decide.planner import make_plan
from autoswift.domain.budget import Budget
from autoswift.domain.decision import Condition
from autoswift.errors import InputError
from autoswift.run.files import dumps
from autoswift.tables import has_text

EXAMPLE = Path(__file__).parents[2] / "examples" / "customer_chat.json"

CASES = {
    "laptop": inputs(CPU, OFFLINE),
    "card": inputs(RTX, ONLINE, rows=5000),
    "short": inputs(RTX, ONLINE, rows=500, budget=Budget(trials=3, hours=2.0)),
}


def short_of(condition: Condition) -> Any:
    """A value just before the bound."""
    lever = LEVERS[condition.fact]
    away = 1 if condition.op == "<=" else -1
    if lever.whole:
        return condition.value + away * lever.step
    return condition.value * (1 + away * 2e-3)


@pytest.mark.parametrize("name", CASES)
def test_every_condition_is_where_the_decision_flips(name: str) -> None:
    given_inputs = CASES[name]
    plan = explained(make_plan(given_inputs), given_inputs, make_plan)
    told = {d.name: d for d in plan.decisions if d.reverse_when}
    assert {"goal", "metric", "trials", "max_length", "validation_rows", "epochs"} <= told.keys()
    for decision in told.values():
        when = decision.reverse_when
        assert when is not None
        there = make_plan(suppose(given_inputs, when.fact, when.value)).decision(decision.name)
        assert there.value == when.becomes != decision.value, decision
        if when.op != "==":
            near = make_plan(suppose(given_inputs, when.fact, short_of(when))).decision(decision.name)
            assert near.value == decision.value, decision


def test_the_explained_plan_is_the_plan() -> None:
    one = CASES["card"]
    plan = make_plan(one)
    first, second = explained(plan, one, make_plan), explained(plan, one, make_plan)
    assert dumps(first) == dumps(second)
    assert [d.value for d in first.decisions] == [d.value for d in plan.decisions]


def test_what_the_user_fixed_has_no_condition() -> None:
    one = inputs(CPU, OFFLINE, options={"max_length": 256})
    decision = explained(make_plan(one), one, make_plan).decision("max_length")
    assert decision.source == "user"
    assert decision.reverse_when is None


@given(st.sampled_from(sorted(LEVERS)))
@settings(max_examples=40)
def test_supposing_what_is_so_changes_nothing(fact: str) -> None:
    one = CASES["card"]
    now = value_of(one, fact)
    if now is not None:
        assert suppose(one, fact, now) == one


@pytest.mark.parametrize(
    ("fact", "value"), [("nothing.here", 1), ("task.budget.hour", 1), ("task.budget.hours", "long"), ("hardware", 1)]
)
def test_a_fact_that_is_none_is_refused(fact: str, value: Any) -> None:
    with pytest.raises(InputError):
        suppose(CASES["laptop"], fact, value)


def test_each_fact_has_a_name_to_be_read() -> None:
    for fact in LEVERS:
        for language in ("en", "zh"):
            assert has_text(f"decide.fact.{fact}", language)


def test_a_device_holds_what_is_free_on_it() -> None:
    more = suppose(CASES["card"], "hardware.devices.0.free_bytes", 200 * 2**30)
    assert more.hardware.device.memory_bytes == 200 * 2**30


def test_on_the_command_line(tmp_path: Path) -> None:
    probe = tmp_path / "probe.json"
    probe.write_text(dumps(CASES["card"].hardware), encoding="utf-8")

    def decided(*more: str) -> dict[str, Any]:
        argv = ["plan", "做个退货客服", "--data", str(EXAMPLE), "--hardware", str(probe), "--json", *more]
        done = CliRunner().invoke(app, argv)
        assert done.exit_code == 0, done.output
        return {d["name"]: d for d in json.loads(done.stdout)["decisions"]}

    first = decided()
    told = {n: d["reverse_when"] for n, d in first.items() if d["reverse_when"]}
    assert len(told) >= 10
    # One decision for each fact: the property itself is tested above, this is the way through the command line.
    for name, when in {when["fact"]: (name, when) for name, when in told.items()}.values():
        assert (
            decided("--assume", f"{when['fact']}={json.dumps(when['value']).strip(chr(34))}")[name]["value"]
            == (when["becomes"])
        ), name
        if when["op"] != "==":
            before = short_of(Condition(**when))
            assert decided("--assume", f"{when['fact']}={before!r}")[name]["value"] == first[name]["value"], name


def test_inputs_are_not_touched() -> None:
    one: Inputs = CASES["laptop"]
    before = dumps(one.task)
    suppose(one, "task.budget.hours", 1.0)
    assert dumps(one.task) == before
