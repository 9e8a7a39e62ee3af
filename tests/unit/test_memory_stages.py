"""Between plan and search: an odd shape is traced, the longest rows are tried, and the plan follows what was found."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_decide import CPU, ONLINE, RTX, inputs

from autoswift.decide.inputs import Inputs
from autoswift.decide.known_shape import is_known
from autoswift.decide.planner import make_plan
from autoswift.decide.replan import needed_bytes, predicted, room_bytes
from autoswift.domain.plan import Plan
from autoswift.domain.profile import GIB, Device
from autoswift.domain.protocols import Event
from autoswift.domain.trial import Outcome
from autoswift.engines.memory_stages import (
    memory_probe_stage,
    probe_skipped,
    trace_skipped,
    trace_stage,
    with_step_margin,
)
from autoswift.engines.peaks import remember_peaks
from autoswift.engines.simulated import Landscape, SimulatedEngine
from autoswift.engines.tracing import Trace
from autoswift.errors import ChildFailed
from autoswift.hardware import margins
from autoswift.hardware.margins import Margin, with_margin
from autoswift.run import record as records
from autoswift.run.clock import RunClock
from autoswift.run.context import RunContext
from autoswift.run.files import dumps, write_atomic

LLAMA = {"model_type": "llama", "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6,
         "num_key_value_heads": 2, "intermediate_size": 250, "vocab_size": 1111}  # fmt: skip


class Peaks(SimulatedEngine):
    """A simulated engine that tells a peak: by default a multiple of what the closed form says."""

    def __init__(self, folder: Path, plan: Plan, device: Device, times: float, oom: Sequence[int] = ()) -> None:
        super().__init__(folder, Landscape(faults=tuple((n, 1, "out_of_memory") for n in oom)))
        self.plan, self.device, self.times = plan, device, times

    def open(self, plan: Plan, device: Device) -> Any:
        session = super().open(plan, device)
        peak = int(margins.comparable(predicted(plan, device, 400), device.kind) * self.times)
        told: Callable[[float], list[Event]] = session.events

        def events(timeout: float) -> list[Event]:
            return [
                replace(e, metrics=e.metrics | {"memory_bytes": float(peak)}) if e.kind == "progress" else e
                for e in told(timeout)
            ]

        session.events = events  # type: ignore[method-assign]
        return session


@pytest.fixture
def made(tmp_path: Path) -> Callable[[Inputs], tuple[RunContext, Plan]]:
    """A run that has come as far as the count of its tokens: rows of 400 tokens at most."""

    def make(known: Inputs) -> tuple[RunContext, Plan]:
        folder = tmp_path / "run"
        record = records.create(known.task, folder)
        context = RunContext(record=record, journal=record.journal, task=known.task, clock=RunClock(known.task.budget))
        model = folder / "model" / "base"
        write_atomic(model / "config.json", json.dumps(LLAMA))
        stats = {"mean": 200.0, "p50": 190.0, "p95": 380.0, "max": 400.0, "total": 80_000.0}
        answers = {"mean": 40.0, "p50": 40.0, "p95": 60.0, "max": 70.0, "total": 16_000.0}
        plan = make_plan(known, revision=2, model=make_plan(known).model)
        plan = replace(plan, training=replace(plan.training, max_length=448))
        for name, value in (
            ("fetch", {"path": str(model), "system": "", "counted_parameters": 0}),
            ("recount", {"tokens": stats, "answer_tokens": answers, "revision": 2}),
        ):
            text = dumps({"inputs": "0", "result": {"value": value, "artifacts": [], "metrics": {}, "seconds": 1.0}})
            write_atomic(folder / "steps" / f"{name}.json", text)
        rows = [{"messages": [{"role": "user", "content": "x" * n}, {"role": "assistant", "content": "y"}]} for n in
                range(10, 60)]  # fmt: skip
        write_atomic(folder / "data" / "train.fit.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        record.save_plan(plan)
        return context, plan

    return make


def tight(times: float = 1.02) -> Inputs:
    """A card with just as much room as the plan's choice needs, so that it trains several rows a pass."""
    known = inputs(RTX, ONLINE)
    plan = make_plan(known)
    need = needed_bytes(predicted(plan, RTX, plan.training.max_length))
    return inputs(replace(RTX, free_bytes=int(need * times / 0.97)), ONLINE)


def notes(context: RunContext) -> list[str]:
    return [e["text"] for e in context.journal.events() if e["kind"] == "note"]


def decisions(context: RunContext, name: str) -> list[dict[str, Any]]:
    found = [e["decision"] for e in context.journal.events() if e["kind"] == "decision"]
    return [d for d in found if d["name"] == name]


def probed(context: RunContext, known: Inputs, plan: Plan, times: float, oom: Sequence[int] = ()) -> Any:
    engines: list[Peaks] = []

    def engine(now: Plan, folder: Path, rows: Path) -> Peaks:
        count = now.training.effective_batch_size * 2
        assert len(rows.read_text(encoding="utf-8").splitlines()) == count, "two steps of the effective batch"
        engines.append(Peaks(folder, now, known.hardware.device, times, oom))
        return engines[-1]

    result = memory_probe_stage(context, known, plan, engine)
    return result, [trial for one in engines for trial in one.started]


def test_a_peak_within_the_prediction_confirms_the_plan(made: Any) -> None:
    known = inputs(RTX, ONLINE)
    context, plan = made(known)
    result, trials = probed(context, known, plan, 0.98)
    assert result.value["revision"] == plan.revision
    assert len(trials) == 1
    assert trials[0].overrides["max_steps"] == 2
    (told,) = decisions(context, "memory_measured")
    assert told["value"] == "confirmed"
    assert {e["fact"] for e in told["evidence"]} == {"predicted", "memory_bytes"}
    (seen,), damaged = margins.read()
    assert damaged == 0
    assert seen.whole
    assert seen.ratio == pytest.approx(0.98, abs=1e-3)
    assert len(context.record.plans()) == 1


def test_a_higher_peak_corrects_the_plan_with_the_same_effective_batch(made: Any) -> None:
    known = tight()
    context, plan = made(known)
    result, trials = probed(context, known, plan, 1.3)
    assert result.value["revision"] > plan.revision
    new = context.record.plan()
    assert new is not None
    assert new.revision == result.value["revision"]
    assert new.training.effective_batch_size == plan.training.effective_batch_size
    assert (new.training.per_device_train_batch_size, new.training.gradient_checkpointing, new.training.method) != (
        plan.training.per_device_train_batch_size, plan.training.gradient_checkpointing, plan.training.method,
    )  # fmt: skip
    device = known.hardware.device
    need = needed_bytes(with_margin(predicted(new, device, new.training.max_length), 1.3))
    assert need <= room_bytes(known) * 1.001, "what was measured fits"
    assert new.cause
    assert new.decision("memory_measured").value == "corrected"
    assert new.search == plan.search
    assert len(trials) >= 2, "the corrected plan is tried as well"
    assert decisions(context, "memory_measured")[-1]["value"] == "confirmed"
    again = margins.margins(margins.read()[0], device)
    assert max(one.factor for one in again) == pytest.approx(1.3, abs=1e-3), "the next run's plan counts with it"


def test_running_out_of_memory_is_a_correction(made: Any) -> None:
    known = tight()
    context, plan = made(known)
    result, trials = probed(context, known, plan, 0.9, oom=[1])
    assert result.value["revision"] > plan.revision
    assert [one["symptom"] for one in result.value["measured"]] == ["out_of_memory", ""]
    new = context.record.plan()
    assert new is not None
    device = known.hardware.device
    before = needed_bytes(predicted(plan, device, 448))
    assert needed_bytes(predicted(new, device, 448)) < before
    assert new.training.effective_batch_size == plan.training.effective_batch_size
    assert len(trials) == 2
    assert result.metrics["device_seconds"] >= 0


def test_when_nothing_smaller_is_left_the_plan_stands_and_a_note_says_so(made: Any) -> None:
    known = tight()
    context, plan = made(known)
    result, _ = probed(context, known, plan, 1.0, oom=range(1, 9))
    assert result.value["revision"] >= plan.revision
    assert all(one["symptom"] == "out_of_memory" for one in result.value["measured"])
    only = inputs(known.hardware.device, ONLINE, options={"per_device_train_batch_size": 1, "method": "qlora",
                  "gradient_checkpointing": True, "use_liger_kernel": False})  # fmt: skip
    small = replace(make_plan(only), revision=plan.revision)
    result, _ = probed(context, replace(only, hardware=known.hardware), small, 9.0)
    assert any("nothing fits" in note for note in notes(context))
    assert result.value["revision"] == small.revision
    assert len(result.value["measured"]) == 1


def test_an_engine_without_a_peak_and_a_failing_one_leave_the_plan_as_it_is(made: Any) -> None:
    known = inputs(RTX, ONLINE)
    context, plan = made(known)
    faulty = Landscape(faults=((1, 1, "nan"),))
    for landscape in (Landscape(), faulty):
        result = memory_probe_stage(context, known, plan, lambda p, f, r, on=landscape: SimulatedEngine(f, on))
        assert result.value["revision"] == plan.revision
    assert len(notes(context)) == 2


def test_a_revision_that_a_killed_owner_left_is_taken_away(made: Any) -> None:
    known = inputs(RTX, ONLINE)
    context, plan = made(known)
    context.record.save_plan(replace(plan, revision=plan.revision + 1, cause="half done"))
    result, _ = probed(context, known, plan, 0.98)
    assert result.value["revision"] == plan.revision
    assert [p.revision for p in context.record.plans()] == [plan.revision]


def test_it_is_for_accelerators_or_where_the_user_wants_it(made: Any) -> None:
    card, cpu = make_plan(inputs(RTX, ONLINE)), make_plan(inputs(CPU))
    context, _ = made(inputs(RTX, ONLINE))
    assert probe_skipped(context, card) == ""
    assert "CPU" in probe_skipped(context, cpu)
    assert probe_skipped(context, make_plan(inputs(CPU, options={"memory_probe": True}))) == ""
    assert probe_skipped(context, make_plan(inputs(RTX, ONLINE, options={"memory_probe": False})))
    slow = replace(card, search=replace(card.search, start_seconds=1e6))
    assert "first trial" in probe_skipped(context, slow)


def tracer(context: RunContext, times: float, asked: list[Any]) -> Callable[..., list[Trace]]:
    def traced(requests: Sequence[dict[str, Any]], *_: Any) -> list[Trace]:
        asked.extend(requests)
        plan = context.record.plan()
        assert plan is not None
        estimate = predicted(plan, RTX, 448)
        return [Trace(peak=int((estimate.peak_bytes - estimate.parts["workspace"]) * times), weights=1, trained=1)]

    return traced


def test_a_trace_that_differs_makes_a_revision_and_one_that_agrees_is_evidence(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = inputs(RTX, ONLINE)
    context, plan = made(known)
    monkeypatch.setattr("autoswift.engines.memory_stages.train_python", lambda: Path("python"))
    model = Path(context.record.value("fetch")["path"])
    asked: list[Any] = []
    result = trace_stage(context, known, plan, model, tracer(context, 1.01, asked))
    assert result.value["revision"] == plan.revision
    assert result.value["margin"] is None
    (told,) = decisions(context, "memory_trace")
    assert {e["fact"] for e in told["evidence"]} == {"predicted", "traced"}
    assert asked[0]["config"]["hidden_size"] == LLAMA["hidden_size"]

    result = trace_stage(context, known, plan, model, tracer(context, 1.4, asked))
    new = context.record.plan()
    assert new is not None
    assert result.value["revision"] == new.revision == plan.revision + 1
    assert new.estimate.peak_memory_bytes != plan.estimate.peak_memory_bytes
    assert new.training.effective_batch_size == plan.training.effective_batch_size
    assert new.cause
    assert new.decision("memory_trace").value == pytest.approx(1.4, abs=1e-3)
    after = with_step_margin(known, json.loads(dumps(result.value)))
    assert after.margins[0].factor == pytest.approx(1.4, abs=1e-3)


def test_a_trace_that_fails_is_a_note(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known = inputs(RTX, ONLINE)
    context, plan = made(known)
    monkeypatch.setattr("autoswift.engines.memory_stages.train_python", lambda: Path("python"))

    def broken(*_: Any) -> list[Trace]:
        raise ChildFailed("it ended", "no such model type", "")

    result = trace_stage(context, known, plan, Path(context.record.value("fetch")["path"]), broken)
    assert result.value["revision"] == plan.revision
    assert any("no such model type" in note for note in notes(context))


def test_which_shapes_are_traced(made: Any) -> None:
    known = inputs(RTX, ONLINE)
    context, plan = made(known)
    model = Path(context.record.value("fetch")["path"])
    assert not is_known(LLAMA)
    assert trace_skipped(context, plan, RTX, room_bytes(known), model) == ""
    assert "CPU" in trace_skipped(context, plan, CPU, 4096 * GIB, model)
    assert trace_skipped(context, plan, CPU, GIB // 64, model) == ""
    qwen = {"model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
            "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936}  # fmt: skip
    assert is_known(qwen)
    assert not is_known(qwen | {"num_hidden_layers": 12})
    assert not is_known(qwen | {"model_type": "cohere2"}), "a family that was never traced"
    (model / "config.json").write_text(json.dumps(qwen), encoding="utf-8")
    assert "tables" in trace_skipped(context, plan, RTX, room_bytes(known), model)
    (model / "config.json").write_text("{", encoding="utf-8")
    assert trace_skipped(context, plan, RTX, room_bytes(known), model)


def test_the_peaks_of_trials_are_remembered_once_and_the_next_plan_counts_with_them(made: Any) -> None:
    known = inputs(RTX, ONLINE)
    context, plan = made(known)
    raw = predicted(plan, RTX, 400).peak_bytes
    for number, times in ((1, 0.99), (2, 1.08), (0, 1.0)):
        context.journal.trial("proposed", number, parameters={"learning_rate": 1e-4}, origin="prior")
        context.journal.trial("started", number, attempt=1, tokens=1000, overrides={})
        metrics = {"memory_bytes": raw * times, "tokens": 90_000.0, "loss": 1.0}
        context.journal.trial("progress", number, attempt=1, step=1, metrics=metrics)
        context.journal.trial("ended", number, attempt=1, outcome=Outcome(status="finished"), final=True)
    assert remember_peaks(context, plan, RTX) == 3
    assert remember_peaks(context, plan, RTX) == 0
    (margin,) = margins.margins(margins.read()[0], RTX)
    assert margin.count == 3
    assert margin.factor == pytest.approx(1.08, abs=1e-3)
    after = make_plan(replace(known, margins=(margin,)))
    told = [e for e in after.decision("method").evidence if e.fact == "memory_factor"]
    assert told
    assert "3 earlier trainings" in told[0].text
    assert after.estimate.peak_memory_bytes > make_plan(known).estimate.peak_memory_bytes or (
        after.training != make_plan(known).training
    )


def test_the_margin_decides_what_fits() -> None:
    known = tight(1.005)
    plan = make_plan(known)
    family = "qwen3" if "qwen3" in plan.model.model_type else "qwen2"
    family = "llama" if "llama" in plan.model.model_type else family
    wide = make_plan(replace(known, margins=(Margin(family=family, method="", factor=1.2),)), model=plan.model)
    need = needed_bytes(with_margin(predicted(wide, known.hardware.device, wide.training.max_length), 1.2))
    assert need <= known.hardware.device.free_bytes
    assert dumps(make_plan(known)) == dumps(make_plan(known))


def test_a_trial_of_another_size_is_set_beside_its_own_prediction(made: Any) -> None:
    known = inputs(RTX, ONLINE)
    context, plan = made(known)
    context.journal.trial("proposed", 1, parameters={"effective_batch_size": 1}, origin="prior")
    context.journal.trial("started", 1, attempt=1, tokens=1000, overrides={"gradient_checkpointing": True})
    one = replace(plan.training, per_device_train_batch_size=1, gradient_accumulation_steps=1,
                  gradient_checkpointing=True)  # fmt: skip
    peak = predicted(plan, RTX, 400, one).peak_bytes
    context.journal.trial("progress", 1, attempt=1, step=1, metrics={"memory_bytes": float(peak)})
    assert remember_peaks(context, plan, RTX) == 1
    assert margins.read()[0][0].ratio == pytest.approx(1.0)


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_an_odd_shape_is_traced_by_a_real_child(made: Any) -> None:
    """A llama that stands in no table, and an estimate that was made for twice its layers."""
    known = inputs(RTX, ONLINE)
    context, plan = made(known)
    names = {"layers": 3, "hidden": 96, "heads": 6, "kv_heads": 2, "intermediate": 250, "vocabulary": 1111}
    odd = replace(plan.model, id="odd", model_type="llama", parameters=506_000, head_dim=16, tied=False, **names)
    training = replace(plan.training, method="lora", use_liger_kernel=False, gradient_checkpointing=False,
                       per_device_train_batch_size=4, gradient_accumulation_steps=4)  # fmt: skip
    plan = replace(plan, model=odd, training=training)
    model = Path(context.record.value("fetch")["path"])
    (context.folder / "plan" / "2.json").unlink()
    context.record.save_plan(plan)
    exact = trace_stage(context, known, plan, model)
    assert exact.value["traces"], notes(context)
    first = exact.value["traces"][0]
    assert first["traced"] / first["predicted"] == pytest.approx(1.0, abs=0.05), (
        "the closed form holds for Llama's layers"
    )

    wrong = replace(plan, model=replace(odd, layers=6), cause="of a catalogue that was wrong")
    (context.folder / "plan" / "2.json").unlink()
    context.record.save_plan(wrong)
    result = trace_stage(context, known, wrong, model)
    new = context.record.plan()
    assert new is not None
    assert result.value["revision"] == new.revision == 3
    assert result.value["margin"].factor < 0.8
    assert new.decision("memory_trace").value < 0.8
