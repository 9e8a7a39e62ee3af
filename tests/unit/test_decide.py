"""The planner: pure, within memory and budget, monotone, and its explanations are true (change the fact, it flips)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoswift.catalog.availability import Availability
from autoswift.catalog.models import all_models
from autoswift.catalog.tokens import TokenStats
from autoswift.decide.inputs import Inputs, Measured
from autoswift.decide.planner import make_plan
from autoswift.decide.stages import check_plug_ins
from autoswift.domain.budget import Budget
from autoswift.domain.plan import Plan
from autoswift.domain.profile import GIB, DataProfile, Device, HardwareProfile, LengthStats, TaskProfile
from autoswift.domain.task import Task
from autoswift.errors import AutoSwiftError, InputError, ModelError
from autoswift.run.files import dumps
from autoswift.tables import has_text

ONLINE = Availability(huggingface=True, modelscope=True, packaged=True)
OFFLINE = Availability(huggingface=False, modelscope=False, packaged=True)
CPU = Device(kind="cpu", name="cpu", memory_bytes=24 * GIB, free_bytes=22 * GIB, tflops=0.07)
RTX = Device(
    kind="cuda", name="NVIDIA GeForce RTX 4090", memory_bytes=24 * GIB, free_bytes=23 * GIB, bf16=True, tflops=60.0
)


def stats(mean: float, rows: int = 400) -> LengthStats:
    return LengthStats(mean=mean, p50=mean, p95=mean * 1.6, max=mean * 2.5, total=mean * rows)


def inputs(device: Device = CPU, here: Availability = OFFLINE, rows: int = 500, **task: Any) -> Inputs:
    held = min(200, max(1, rows // 10))
    data = DataProfile(
        path="/d.json",
        sha256="0",
        format="json",
        task="sft",
        language="zh",
        domain="customer_service",
        modality="text",
        rows=rows,
        conversations=rows,
        turns_mean=2.0,
        splits={"train": rows - 2 * held, "validation": held, "test": held},
        characters=stats(120),
        answer_characters=stats(31),
        cjk_share=0.8,
    )
    hardware = HardwareProfile(
        devices=(device,),
        cpu_name="cpu",
        cpu_cores=2,
        memory_bytes=24 * GIB,
        memory_free_bytes=22 * GIB,
        disk_free_bytes=100 * GIB,
        platform="linux",
    )
    return Inputs(
        task=Task(sentence="让客服机器人学会处理退货咨询", data="/d.json", **task),
        profile=TaskProfile(text="x", language="zh", domain="customer_service"),
        data=data,
        hardware=hardware,
        availability=here,
        models=all_models(),
    )


def plan_or_error(given_inputs: Inputs) -> Plan | AutoSwiftError:
    try:
        return make_plan(given_inputs)
    except AutoSwiftError as exc:
        return exc


def size(plan: Plan) -> int:
    return plan.training.per_device_train_batch_size


machines = st.one_of(
    st.builds(lambda gib: replace(CPU, free_bytes=int(gib * GIB)), st.floats(0.5, 64)),
    st.builds(lambda gib: replace(RTX, free_bytes=int(gib * GIB)), st.floats(0.5, 80)),
)
budgets = st.builds(lambda t, h: Budget(trials=t, hours=h), st.integers(1, 20), st.floats(0.01, 48))


@given(machines, budgets, st.integers(12, 20_000), st.booleans(), st.sampled_from([OFFLINE, ONLINE]))
@settings(max_examples=60)
def test_a_plan_stays_within_memory_time_and_trials_or_says_why_not(
    device: Device, budget: Budget, rows: int, full: bool, here: Availability
) -> None:
    plan = plan_or_error(inputs(device, here, rows, budget=budget, full=full))
    if isinstance(plan, AutoSwiftError):
        assert isinstance(plan, InputError)
        assert plan.what
        assert plan.fix
        return
    assert plan.estimate.peak_memory_bytes <= device.free_bytes
    assert 1 <= plan.search.trials <= budget.trials
    assert plan.estimate.total_seconds <= budget.seconds * 1.02 + 5
    assert plan.search.trial_tokens <= plan.search.final_tokens
    training = plan.training
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == training.effective_batch_size
    for decision in plan.decisions:
        assert decision.because
        assert decision.source in ("rule", "formula", "measurement", "knowledge", "user")


@given(st.floats(1, 40), st.floats(1, 40), st.sampled_from([CPU, RTX]))
@settings(max_examples=40)
def test_more_memory_never_gives_a_worse_plan(less: float, more: float, device: Device) -> None:
    less, more = sorted((less, more))
    small = plan_or_error(inputs(replace(device, free_bytes=int(less * GIB))))
    large = plan_or_error(inputs(replace(device, free_bytes=int(more * GIB))))
    if isinstance(small, Plan):
        assert isinstance(large, Plan), "what fits in less memory fits in more"
        assert size(large) >= size(small)
        assert large.training.gradient_checkpointing <= small.training.gradient_checkpointing


@given(st.floats(0.02, 10), st.floats(0.02, 10))
@settings(max_examples=40)
def test_more_time_never_buys_less(less: float, more: float) -> None:
    less, more = sorted((less, more))
    short = plan_or_error(inputs(budget=Budget(trials=4, hours=less), full=True))
    long = plan_or_error(inputs(budget=Budget(trials=4, hours=more), full=True))
    if isinstance(short, Plan):
        assert isinstance(long, Plan)
        assert long.search.trials >= short.search.trials
        assert long.evaluation.test_rows >= short.evaluation.test_rows


def test_the_same_inputs_give_a_byte_identical_plan() -> None:
    assert dumps(make_plan(inputs())) == dumps(make_plan(inputs()))


def test_the_demonstration_is_capped_and_says_so_and_full_lifts_it() -> None:
    capped = make_plan(inputs(budget=Budget(trials=3)))
    assert 3 * capped.search.trial_tokens + capped.search.final_tokens <= 60_000
    assert f"{capped.decision('token_budget').value}" in capped.decision("token_budget").because
    full = make_plan(inputs(budget=Budget(trials=3), full=True))
    assert full.search.final_tokens > 5 * capped.search.final_tokens
    on_gpu = make_plan(inputs(RTX, OFFLINE, budget=Budget(trials=3)))
    assert on_gpu.search.final_tokens > 60_000


def test_a_slow_processor_trains_on_fewer_tokens_and_not_on_next_to_none() -> None:
    def total(factor: float) -> int:
        slower = replace(CPU, tflops=CPU.tflops * factor)
        return int(make_plan(inputs(slower, OFFLINE, budget=Budget(trials=3))).decision("token_budget").value)

    by_speed = [total(factor) for factor in (0.2, 0.5, 1, 2, 10)]
    assert by_speed == sorted(by_speed)
    assert by_speed[0] == 30_000
    assert by_speed[-1] == 60_000


def test_a_model_that_is_not_to_be_had_is_not_chosen() -> None:
    offline, online = make_plan(inputs(RTX, OFFLINE)), make_plan(inputs(RTX, ONLINE))
    assert offline.model.source == "packaged"
    assert online.model.source != "packaged"
    assert "zh" in online.model.languages
    nothing = Availability(huggingface=False, modelscope=False, packaged=False)
    with pytest.raises(ModelError, match="No model can be had"):
        make_plan(inputs(RTX, nothing))


def test_lora_is_chosen_where_it_fits_and_qlora_only_where_it_does_not() -> None:
    def method(gib: float) -> str | None:
        wide = inputs(replace(RTX, free_bytes=int(gib * GIB)), ONLINE)
        seven = tuple(m for m in wide.models if m.id == "qwen2.5-7b-instruct")
        assert seven, "the catalogue has Qwen2.5 7B"
        plan = plan_or_error(replace(wide, models=seven))
        return plan.training.method if isinstance(plan, Plan) else None

    assert method(40) == "lora"
    found = [method(gib) for gib in (4, 6, 8, 10, 12, 14, 18, 24, 40)]
    ranks = [{None: 0, "qlora": 1, "lora": 2}[m] for m in found]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("learning_rate", "5e-4", lambda p: p.training.learning_rate),
        ("lora_rank", 4, lambda p: p.training.lora_rank),
        ("effective_batch_size", 8, lambda p: p.training.effective_batch_size),
        ("max_new_tokens", 24, lambda p: p.evaluation.max_new_tokens),
        ("export_format", "f16", lambda p: p.serving.format),
        ("epochs", 1, lambda p: p.search.epochs),
    ],
)
def test_what_the_user_fixes_holds_and_is_not_searched(name: str, value: Any, read: Any) -> None:
    plan = make_plan(inputs(options={name: value}))
    assert read(plan) == type(read(plan))(value)
    assert plan.decision(name).source == "user"
    assert name not in plan.search.space


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rat": 1},
        {"learning_rate": "fast"},
        {"effective_batch_size": 0},
        {"method": "magic"},
        {"method": "qlora"},
        {"export_format": "gptq"},
        {"per_device_train_batch_size": 3, "effective_batch_size": 8},
        {"lora_rank": -1},
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        make_plan(inputs(options=options))
    assert next(iter(options)) in caught.value.what or "effective" in caught.value.what


@pytest.mark.parametrize("name", ["train_engine", "executor", "serve_engine"])
def test_an_engine_that_is_not_installed_is_refused_with_what_is(name: str) -> None:
    check_plug_ins(make_plan(inputs(options={name: "some.package:Class"})))
    with pytest.raises(InputError, match="not-there") as caught:
        check_plug_ins(make_plan(inputs(options={name: "not-there"})))
    assert make_plan(inputs()).decision(name).value in caught.value.why


def test_a_budget_too_short_for_one_trial_says_how_much_is_needed() -> None:
    with pytest.raises(InputError, match="too short") as caught:
        make_plan(inputs(budget=Budget(hours=0.002)))
    assert "--budget-hours" in caught.value.fix


def test_what_the_tokenizer_counts_replaces_the_estimate_and_is_said() -> None:
    counted = replace(inputs(), tokens=TokenStats(rows=stats(40), answers=stats(12)))
    before, after = make_plan(inputs()), make_plan(counted)
    assert after.search.tokens_per_row == 40
    assert after.training.max_length < before.training.max_length
    assert after.decision("max_length").source == "measurement"


def test_a_measured_speed_replaces_the_formula() -> None:
    fast = replace(inputs(full=True, budget=Budget(trials=3, hours=0.3)), measured=Measured(tokens_per_second=2000.0))
    slow = replace(fast, measured=Measured(tokens_per_second=100.0))
    assert make_plan(fast).search.final_tokens > make_plan(slow).search.final_tokens


def test_what_this_version_cannot_train_is_refused_with_what_is_missing() -> None:
    base = inputs()
    with pytest.raises(InputError, match="image"):
        make_plan(replace(base, profile=replace(base.profile, modality="image")))
    with pytest.raises(InputError, match="dpo"):
        make_plan(replace(base, data=replace(base.data, task="dpo")))


def test_decisions_read_in_both_languages() -> None:
    chinese, english = (make_plan(inputs(language=lang)) for lang in ("zh", "en"))
    for a, b in zip(chinese.decisions, english.decisions, strict=True):
        assert (a.name, a.value) == (b.name, b.value)
        assert a.because != b.because
        assert any("\u4e00" <= c <= "\u9fff" for c in a.because)
        assert not any("\u4e00" <= c <= "\u9fff" for c in b.because.replace("客服", "").replace("咨询", ""))
    assert has_text("decide.goal", "zh")
