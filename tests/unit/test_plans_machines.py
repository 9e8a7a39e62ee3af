"""Plans for recorded machines and many tasks: within memory, never slower with more of it, the same each time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_decide import ONLINE, inputs, stats

from autoswift.catalog.models import catalog
from autoswift.decide.inputs import Inputs
from autoswift.decide.planner import make_plan
from autoswift.domain.budget import Budget
from autoswift.domain.plan import Plan
from autoswift.errors import AutoSwiftError
from autoswift.hardware.memory import MemorySettings, peak_memory
from autoswift.hardware.probe import from_json
from autoswift.hardware.shape import shape_of
from autoswift.run.files import dumps

PROBES = sorted((Path(__file__).parents[1] / "probes").glob("*.json"))
GIB = 2**30

TASKS = [
    {"domain": domain, "language": language, "goal": goal}
    for domain in ("customer_service", "medical", "legal", "code", "math")
    for language in ("zh", "en")
    for goal in ("chat", "classification", "extraction", "reasoning")
]
"""Forty."""


def task_on(probe: Path, words: dict[str, str], length: float = 120, rows: int = 500) -> Inputs:
    made = inputs(here=ONLINE, rows=rows, budget=Budget(trials=5, hours=4))
    data = replace(made.data, language=words["language"], domain=words["domain"], characters=stats(length, rows))
    profile = replace(made.profile, **words)
    return replace(made, hardware=from_json(probe), models=catalog(), data=data, profile=profile)


def needed(plan: Plan, given_inputs: Inputs) -> int:
    """What the plan's largest trial needs on each device, counted again from its settings."""
    one = plan.training
    estimate = peak_memory(
        shape_of(plan.model),
        one.method,
        MemorySettings(
            length=one.max_length,
            micro_batch=one.per_device_train_batch_size,
            rank=max(one.lora_rank, *plan.search.space.get("lora_rank", {}).get("choices", [0])),
            gradient_checkpointing=one.gradient_checkpointing,
            optimizer=one.optimizer,
            precision=one.precision,
            attention=one.attention,
            device=given_inputs.hardware.device.kind,
            card=given_inputs.hardware.device.name,
            liger=one.use_liger_kernel,
            padded=one.per_device_train_batch_size > 1,
            devices=one.devices,
            sharding=one.sharding,
        ),
    )
    return estimate.high + max(0, estimate.device_bytes - estimate.reserved_bytes)


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: p.stem)
def test_forty_tasks_fit_and_are_planned_the_same_twice(probe: Path) -> None:
    for words in TASKS:
        asked = task_on(probe, words)
        plan = make_plan(asked)
        assert needed(plan, asked) <= asked.hardware.device.free_bytes, (probe.stem, words)
        assert dumps(plan) == dumps(make_plan(asked))
        settings_ = plan.training
        assert settings_.effective_batch_size >= 1
        assert plan.model.languages == () or words["language"] in plan.model.languages
        kind = asked.hardware.device.kind
        assert settings_.method != "qlora" or kind == "cuda"
        assert settings_.precision == {"cpu": "float32"}.get(kind, settings_.precision)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([p for p in PROBES if p.stem in ("rtx4090", "a10", "t4", "h100", "rtx3060-12g", "v100")]),
    st.sampled_from(["qwen2.5-0.5b-instruct", "qwen2.5-1.5b-instruct", "qwen3-4b", "qwen3-8b", "qwen2.5-14b-instruct"]),
    st.floats(40, 3000),
    st.lists(st.floats(2, 90), min_size=2, max_size=6, unique=True),
)
def test_more_memory_never_gives_a_slower_plan(probe: Path, model: str, length: float, sizes: list[float]) -> None:
    base = task_on(probe, TASKS[0], length=length)
    rates = []
    for size in sorted(sizes):
        device = replace(base.hardware.device, free_bytes=int(size * GIB), memory_bytes=int((size + 1) * GIB))
        asked = replace(
            base,
            task=replace(base.task, model=model, budget=Budget(trials=3, hours=400)),
            models=tuple(m for m in base.models if m.id == model),
            hardware=replace(base.hardware, devices=(device,)),
        )
        try:
            plan = make_plan(asked)
        except AutoSwiftError:
            assert not rates, "what fitted a smaller memory fits a larger one"
            continue
        assert needed(plan, asked) <= device.free_bytes
        rates.append(plan.estimate.tokens_per_second)
    assert rates == sorted(rates)


def test_a_small_model_on_a_large_card_is_not_quantized() -> None:
    asked = task_on(next(p for p in PROBES if p.stem == "rtx4090"), TASKS[0], length=600)
    for model in ("qwen2.5-0.5b-instruct", "qwen2.5-1.5b-instruct", "qwen3-1.7b"):
        named = replace(
            asked, task=replace(asked.task, model=model), models=tuple(m for m in asked.models if m.id == model)
        )
        assert make_plan(named).training.method == "lora"


def test_72b_on_24_gb_says_what_would_work() -> None:
    asked = task_on(next(p for p in PROBES if p.stem == "rtx4090"), TASKS[0])
    name = "qwen2.5-72b-instruct"
    named = replace(asked, task=replace(asked.task, model=name), models=tuple(m for m in asked.models if m.id == name))
    with pytest.raises(AutoSwiftError) as caught:
        make_plan(named)
    assert "36 GB" in caught.value.why
    assert caught.value.fix.count("\n- ") >= 3
