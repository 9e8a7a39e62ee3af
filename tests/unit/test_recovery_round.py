"""A round of trials and its recovery: what one trial learnt the next ones know, and nothing is changed in silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoswift.domain.budget import Budget
from autoswift.domain.decision import Decision
from autoswift.domain.plan import Plan
from autoswift.domain.profile import GIB, Device
from autoswift.domain.protocols import Event, SearchOutcome
from autoswift.domain.trial import FINAL_TRAINING, Outcome, Proposal
from autoswift.engines.simulated import Landscape, SimulatedEngine, SimulatedSession
from autoswift.errors import InputError, ModelTooLarge
from autoswift.run.clock import RunClock
from autoswift.run.files import read_sealed
from autoswift.run.journal import RunJournal
from autoswift.search.configuration import settings_in_force
from autoswift.search.executors.local import LocalExecutor
from autoswift.search.history import rebuild
from autoswift.search.searcher import Search
from unit.memory_engine import H100, FullDevice, plan_for, said, start_settings
from unit.plans import make_plan

CPU = Device(kind="cpu", name="test")


def search(
    plan: Plan, engine: SimulatedEngine, journal: RunJournal, device: Device = CPU
) -> tuple[SearchOutcome, list[dict[str, Any]]]:
    budget = Budget(trials=plan.search.trials)
    executor = LocalExecutor(device, RunClock(budget), "en")
    outcome = executor.run(Search(plan, rebuild(journal.trials())), engine, plan, budget, journal)
    return outcome, journal.events()


def train(plan: Plan, engine: SimulatedEngine, journal: RunJournal) -> Outcome:
    executor = LocalExecutor(CPU, RunClock(Budget()), "en")
    proposal = Proposal(number=FINAL_TRAINING, parameters={"learning_rate": 3e-4}, origin="trial 1")
    return executor.train(proposal, 8000, engine, plan, journal)


def of(events: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [e for e in events if e["kind"] == kind]


class Warns(SimulatedEngine):
    """Sends a warning at a step of each attempt of some trials."""

    def __init__(self, folder: Path, symptom: str, trials: Sequence[int], **metrics: float) -> None:
        super().__init__(folder, Landscape())
        self.symptom, self.trials, self.metrics = symptom, trials, metrics

    def open(self, plan: Plan, device: Device) -> SimulatedSession:
        return _Warns(self, plan, 1)


class _Warns(SimulatedSession):
    engine: Warns

    def _events(self, lane: Any) -> list[Event]:
        events = super()._events(lane)
        if lane.trial.number in self.engine.trials:
            at = events[4]
            stamp: dict[str, Any] = {"trial": lane.trial.number, "time": at.time, "step": at.step}
            told = Event(kind="warning", symptom=self.engine.symptom, metrics=dict(self.engine.metrics),
                         evidence={"text": "94 % of 80 GiB"}, **stamp)  # fmt: skip
            events.insert(5, told)
        return events


def crowded(trials: int) -> Plan:
    plan = plan_for("0.5b", "lora", micro=8, batch=8, length=2048, room=10 * GIB)
    return replace(plan, search=replace(plan.search, trials=trials, space=make_plan().search.space))


def test_later_trials_do_not_run_into_the_same_wall(tmp_path: Path) -> None:
    plan, journal = crowded(3), RunJournal(tmp_path)
    engine = FullDevice(tmp_path, plan, cap=10 * GIB)
    outcome, events = search(plan, engine, journal, H100)
    assert all(o.status == "finished" for o in outcome.outcomes.values())
    assert [t.number for t, _ in engine.refused] == [1] * len(engine.refused)
    assert len(engine.started) == 3 + len(engine.refused)
    revisions = of(events, "plan")
    assert [e["revision"] for e in revisions] == list(range(2, 2 + len(revisions)))
    kept = read_sealed(tmp_path / "plan" / f"{revisions[-1]['revision']}.json")
    assert kept["cause"]
    assert kept["training"]["per_device_train_batch_size"] < 8
    product = kept["training"]["per_device_train_batch_size"] * kept["training"]["gradient_accumulation_steps"]
    assert product == 8
    assert of(events, "remedy")[0]["revision"] == 2
    assert of(events, "symptom")[0]["wasted_device_seconds"] >= 0


def test_an_owner_that_comes_later_knows_what_was_learnt(tmp_path: Path) -> None:
    plan, journal = crowded(2), RunJournal(tmp_path)
    search(plan, FullDevice(tmp_path, plan, cap=10 * GIB), journal, H100)
    more = replace(plan, search=replace(plan.search, trials=4))
    engine = FullDevice(tmp_path, plan, cap=10 * GIB)
    outcome, events = search(more, engine, RunJournal(tmp_path), H100)
    assert not engine.refused
    assert sorted(outcome.outcomes) == [1, 2, 3, 4]
    assert len(of(events, "plan")) == len({e["revision"] for e in of(events, "plan")})


def test_what_the_user_fixed_stops_the_run_with_the_options(tmp_path: Path) -> None:
    plan = crowded(2)
    names = ("per_device_train_batch_size", "gradient_checkpointing", "use_liger_kernel", "optimizer", "method")
    fixed = tuple(Decision(name=name, value=None, because="you", source="user") for name in names)
    plan = replace(plan, decisions=fixed)
    engine = FullDevice(tmp_path, plan, cap=10 * GIB)
    with pytest.raises(InputError) as caught:
        search(plan, engine, RunJournal(tmp_path), H100)
    assert len(engine.started) == 1, "nothing was tried again unchanged"
    assert caught.value.exit_code == 2
    for word in ("per_device_train_batch_size", "--allow-truncate", "method=qlora", "smaller model"):
        assert word in caught.value.fix
    assert of(RunJournal(tmp_path).events(), "gave_up")[0]["options"]


def test_a_model_that_fits_in_no_way_is_told_apart_when_it_may_be_replaced(tmp_path: Path) -> None:
    plan = crowded(2)
    plan = replace(plan, recovery=replace(plan.recovery, other_model=True, bits=False, liger=False))
    plan = replace(plan, training=replace(plan.training, gradient_checkpointing=True, per_device_train_batch_size=1))
    with pytest.raises(ModelTooLarge) as caught:
        search(plan, FullDevice(tmp_path, plan, cap=1 * GIB), RunJournal(tmp_path), H100)
    assert caught.value.exit_code == 4
    assert "--allow-truncate" in caught.value.fix


def test_high_memory_makes_later_trials_smaller_before_anything_crashes(tmp_path: Path) -> None:
    plan = make_plan(trials=3)
    outcome, events = search(plan, Warns(tmp_path, "memory_high", [1]), RunJournal(tmp_path))
    assert all(o.status == "finished" for o in outcome.outcomes.values())
    told = of(events, "symptom")[0]
    assert (told["symptom"], told["warning"], told["evidence"]) == ("memory_high", True, "94 % of 80 GiB")
    assert of(events, "remedy")[0]["changes"]["per_device_train_batch_size"] == 2
    starts = {r["trial"]: r["overrides"] for r in RunJournal(tmp_path).trials() if r["event"] == "started"}
    assert starts[1] == {}
    assert starts[2] == starts[3] == {"micro_batch_limit": 2}


def test_fewer_answers_at_a_time_become_the_plans(tmp_path: Path) -> None:
    plan = make_plan(trials=2)
    engine = Warns(tmp_path, "validation_out_of_memory", [1], generation_batch_size=1)
    _, events = search(plan, engine, RunJournal(tmp_path))
    assert of(events, "remedy")[0]["changes"] == {"generation_batch_size": 1}
    assert engine.started[-1].overrides == {"generation_batch_size": 1}


def test_growing_gradients_tame_the_final_training_before_it_breaks(tmp_path: Path) -> None:
    plan, journal = make_plan(trials=1), RunJournal(tmp_path)
    engine = Warns(tmp_path, "gradients_growing", [FINAL_TRAINING])
    outcome = train(plan, engine, journal)
    assert outcome.status == "finished"
    assert [t.overrides.get("max_grad_norm") for t in engine.started] == [None, 0.3]
    assert of(journal.events(), "remedy")[0]["before"] == {"max_grad_norm": 1.0}


def test_a_final_training_that_diverges_is_tamed_within_three_attempts(tmp_path: Path) -> None:
    faults = ((FINAL_TRAINING, 1, "divergence"), (FINAL_TRAINING, 2, "nan"))
    engine, journal = SimulatedEngine(tmp_path, Landscape(faults=faults)), RunJournal(tmp_path)
    outcome = train(make_plan(trials=1), engine, journal)
    assert outcome.status == "finished"
    last = settings_in_force(make_plan(), engine.started[-1])
    assert last["max_grad_norm"] == 0.3
    assert last["learning_rate"] == pytest.approx(9e-5)
    assert last["warmup_ratio"] == 0.15


def test_kinds_of_faults_are_counted_apart(tmp_path: Path) -> None:
    """Two kills, a hang and two out-of-memories are no four failures of one kind."""
    symptoms = ("killed", "device_out_of_memory", "hang", "killed", "device_out_of_memory")
    faults = tuple((1, n, name) for n, name in enumerate(symptoms, 1))
    engine, journal = SimulatedEngine(tmp_path, Landscape(faults=faults)), RunJournal(tmp_path)
    outcome, events = search(make_plan(trials=1), engine, journal)
    assert outcome.outcomes[1].status == "finished"
    assert [e["decision"]["value"] == "repeat" for e in of(events, "remedy")] == [True, False, True, True, False]


def test_one_kind_ends_at_its_bound(tmp_path: Path) -> None:
    faults = tuple((1, n, "killed") for n in range(1, 9))
    engine, journal = SimulatedEngine(tmp_path, Landscape(faults=faults)), RunJournal(tmp_path)
    outcome, _ = search(make_plan(trials=1), engine, journal)
    assert outcome.outcomes[1].symptom == "killed"
    assert [t.attempt for t in engine.started] == [1, 2, 3]


def test_waiting_for_a_fault_to_pass_costs_no_device_seconds(tmp_path: Path) -> None:
    plan = make_plan(trials=1, trial_tokens=2000, reserve_seconds=1.0)
    engine = SimulatedEngine(tmp_path, Landscape(faults=((1, 1, "killed"),), step_seconds=0.01), time_scale=1.0)
    journal = RunJournal(tmp_path)
    outcome, events = search(plan, engine, journal)
    assert outcome.outcomes[1].status == "finished"
    rows = {(r["event"], r.get("attempt")): r["time"] for r in journal.trials()}
    paused = rows["started", 2] - rows["ended", 1]
    assert paused >= of(events, "remedy")[0]["wait_seconds"] == 2.0
    assert outcome.device_seconds < paused


def test_a_device_that_others_keep_becomes_one_that_is_too_small(tmp_path: Path) -> None:
    plan = plan_for("0.5b", "lora", micro=8, batch=8, length=2048, room=70 * GIB)
    need = FullDevice(tmp_path, plan, cap=0).real(start_settings(plan))

    class Taken(FullDevice):
        def open(self, plan: Plan, device: Device) -> SimulatedSession:
            session = super().open(plan, device)
            made = session._events

            def events(lane: Any) -> list[Event]:
                found = made(lane)
                words = said(4 * GIB, 9 * GIB, 1 * GIB, 80 * GIB)
                last = found[-1]
                if last.kind == "failed":
                    found[-1] = replace(last, symptom="device_taken", evidence={"text": words, "phase": "first_step"})
                return found

            session._events = events  # type: ignore[method-assign]
            return session

    engine, journal = Taken(tmp_path, plan, cap=10 * GIB), RunJournal(tmp_path)
    assert need > 10 * GIB
    outcome, events = search(plan, engine, journal, H100)
    assert outcome.outcomes[1].status == "finished"
    assert len(engine.started) == 3
    assert [e["symptom"] for e in of(events, "symptom")] == ["device_taken", "device_out_of_memory"]
    assert of(events, "remedy")[0]["wait_seconds"] > 0
