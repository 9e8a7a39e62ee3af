"""`--probe N`: what a plan says would be tried, what the results decide, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_decide import CPU, ONLINE, RTX, inputs

from autoswift import api
from autoswift.decide.planner import make_plan
from autoswift.decide.probes import decided_by, probe_plan
from autoswift.decide.probing import ProbeResult
from autoswift.decide.stages import explained_plan, less
from autoswift.domain.budget import Budget
from autoswift.errors import InputError


def test_a_plan_says_what_would_be_tried_and_keeps_time_for_it() -> None:
    plan, plain = (make_plan(inputs(RTX, ONLINE, probe=n, budget=Budget(hours=12))) for n in (3, 0))
    said = plan.decision("probe")
    tried = str(said.value).split(", ")
    assert len(tried) >= 2
    assert tried[0] == plan.model.id == plain.model.id
    assert len(said.evidence) == len(tried)
    seconds = plan.estimate.stage_seconds["probe"]
    assert 0 < seconds <= 0.15 * 12 * 3600
    assert plan.estimate.total_seconds <= 12 * 3600
    assert "probe" not in {d.name for d in plain.decisions}
    assert "probe" not in plain.estimate.stage_seconds


@pytest.mark.parametrize(
    ("task", "word"),
    [({"model": "qwen3-0.6b"}, "named"), ({"budget": Budget(hours=2)}, "pay")],
)
def test_where_it_does_not_pay_the_plan_says_why(task: dict[str, Any], word: str) -> None:
    given = inputs(RTX, ONLINE, probe=3, **task)
    assert probe_plan(given).trials == ()
    said = make_plan(given).decision("probe")
    assert said.value == "-"
    assert word in said.because


def test_alone_there_is_nothing_to_compare() -> None:
    said = make_plan(inputs(CPU, probe=3)).decision("probe")
    assert said.value == "-"
    assert "one candidate" in said.because


def test_the_results_decide_and_later_revisions_keep_the_choice() -> None:
    slow = ProbeResult(id="a", before=2.0, after=1.0, seconds=40.0)
    fast = ProbeResult(id="b", before=2.0, after=1.05, seconds=10.0)
    poor = ProbeResult(id="c", before=9.0, after=3.0, seconds=1.0)
    winner, (tried, model) = decided_by([slow, fast, poor], [("d", "its hub does not answer")], "en")
    assert winner == model.value == "b"
    assert tried.value == "a, b, c, d"
    assert model.source == "measurement"
    assert {a.value: bool(a.why_not) for a in model.alternatives} == {"a": True, "c": True, "d": True}
    assert "3" in next(a.why_not for a in model.alternatives if a.value == "c"), "its loss, which is far off"
    assert {e.fact: e.value["after"] for e in model.evidence} == {"probe.a": 1.0, "probe.b": 1.05, "probe.c": 3.0}

    given = inputs(RTX, ONLINE)
    choice = replace(make_plan(given).model, id="b")
    known = replace(given, decided=(tried, model))
    later = explained_plan(known, revision=3, cause="x", model=choice)
    assert later.model.id == later.decision("model").value == "b"
    assert [d.name for d in later.decisions].count("model") == 1


def test_what_probes_took_is_taken_from_the_device_time() -> None:
    assert less(Budget(device_seconds=100.0), 30.0).device_seconds == 70.0
    assert less(Budget(device_seconds=20.0), 30.0).device_seconds == 1.0
    assert less(Budget(), 30.0) == Budget()


def test_python_takes_the_same_option() -> None:
    assert api.AutoSwift(probe=3).task("x").probe == 3
    with pytest.raises(InputError):
        api.checked(api.AutoSwift(probe=9).task("x"))
