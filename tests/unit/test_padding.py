"""Rows of uneven length: how far a micro-batch is padded, and when rows of like length go together."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_plans_machines import TASKS, task_on

from autoswift.catalog.tokens import TokenStats
from autoswift.decide.inputs import Inputs
from autoswift.decide.padding import padded_length, pass_lengths
from autoswift.decide.planner import make_plan
from autoswift.domain.profile import LengthStats
from autoswift.hardware.probe import from_json
from autoswift.hardware.shape import shape_of
from autoswift.hardware.steps import StepSettings, mean_step_seconds, step_time

PROBES = Path(__file__).parents[1] / "probes"
DRAW = random.Random(3)
SETS = {
    "lognormal": [min(2048, max(16, round(180 * math.exp(DRAW.gauss(0, 1))))) for _ in range(2000)],
    "narrow": [max(16, round(180 * math.exp(DRAW.gauss(0, 0.5)))) for _ in range(2000)],
    "uniform": [DRAW.randint(50, 500) for _ in range(2000)],
    "two lengths": [100 if DRAW.random() < 0.97 else 1500 for _ in range(2000)],
    "equal": [200] * 500,
}


def stats(rows: list[int]) -> LengthStats:
    order, mean = sorted(rows), sum(rows) / len(rows)
    half, high = (float(order[int(q * (len(order) - 1))]) for q in (0.5, 0.95))
    return LengthStats(mean=mean, p50=half, p95=high, max=float(order[-1]), total=float(sum(rows)))


def simulated(rows: list[int], micro: int, grouped: bool) -> float:
    """Mean padded length of an epoch, as transformers' sampler makes its batches."""
    found = []
    for _ in range(4):
        order = DRAW.sample(rows, len(rows))
        if grouped:
            size = micro * max(1, min(len(rows) // (micro * 4), 50))
            order = [one for at in range(0, len(order), size) for one in sorted(order[at : at + size], reverse=True)]
        batches = [order[at : at + micro] for at in range(0, len(order), micro)]
        found += [max(batch) for batch in batches if len(batch) == micro]
    return sum(found) / len(found)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("micro", [2, 4, 16])
@pytest.mark.parametrize("name", sorted(SETS))
def test_padding_is_that_of_the_trainers_batches(name: str, micro: int, grouped: bool) -> None:
    said = padded_length(stats(SETS[name]), micro, 4096, grouped=grouped)
    assert said == pytest.approx(simulated(SETS[name], micro, grouped), rel=0.15)


@given(st.sampled_from(sorted(SETS)), st.integers(2, 32), st.integers(64, 4096))
def test_more_rows_are_padded_no_less_and_never_beyond_the_cut(name: str, micro: int, longest: int) -> None:
    rows = stats(SETS[name])
    one, two = (padded_length(rows, m, longest) for m in (micro, 2 * micro))
    assert one <= two * 1.03 <= longest * 1.03
    assert padded_length(rows, 2 * micro, longest, grouped=True) <= two * 1.2
    parts = pass_lengths(rows, micro, longest)
    assert list(parts) == sorted(parts)


@pytest.mark.parametrize("probe", ["h100", "t4", "m2-max", "cpu-2core"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_mean_step_is_that_of_its_lengths(probe: str, attention: str) -> None:
    asked = task_on(PROBES / f"{probe}.json", TASKS[0])
    shape = shape_of(next(one for one in asked.models if one.id == "qwen2.5-1.5b-instruct"))
    device, lengths = from_json(PROBES / f"{probe}.json").device, (40.2, 200.0, 900.7, 3000.0)
    for method in ("lora", "qlora", "full"):
        for gpus, sharding in ((1, "none"), (4, "fsdp")):
            one = StepSettings(
                method=method,  # type: ignore[arg-type]
                micro_batch=4,
                accumulation=4,
                attention=attention,
                gpus=gpus,
                sharding=sharding,  # type: ignore[arg-type]
            )
            each = [step_time(shape, device, replace(one, length=round(length))).seconds for length in lengths]
            assert mean_step_seconds(shape, device, one, lengths) == pytest.approx(sum(each) / 4, rel=1e-9)


def skewed(name: str, rows: list[int], **options: str) -> Inputs:
    """A small model on a machine, the rows counted by its own tokenizer."""
    model = "smollm2-135m-instruct" if name.startswith("cpu") else "qwen2.5-1.5b-instruct"
    asked = task_on(PROBES / f"{name}.json", TASKS[0], rows=2000)
    lengths = stats(rows)
    return replace(
        asked,
        task=replace(asked.task, model=model, options=options),
        models=tuple(one for one in asked.models if one.id == model),
        tokens=TokenStats(rows=lengths, answers=lengths),
    )


def test_rows_of_like_length_go_together_where_padding_would_cost_time() -> None:
    plan = make_plan(skewed("h100", SETS["lognormal"]))
    assert plan.training.flags["group_by_length"] == "true"
    decision = plan.decision("group_by_length")
    assert decision.value is True
    assert any(one.fact == "padded_tokens" for one in decision.evidence)
    even = make_plan(skewed("h100", SETS["equal"]))
    assert even.decision("group_by_length").value is False
    assert "group_by_length" not in even.training.flags


def test_the_user_says_whether_rows_are_grouped() -> None:
    off = make_plan(skewed("h100", SETS["lognormal"], group_by_length="false"))
    assert "group_by_length" not in off.training.flags
    on = make_plan(skewed("cpu-2core", SETS["equal"], group_by_length="true"))
    assert on.training.flags["group_by_length"] == "true"
    assert all(one.name != "group_by_length" for one in make_plan(skewed("cpu-2core", SETS["equal"])).decisions)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_float16_for_a_model_trained_in_bfloat16_is_warned_of_with_its_remedy(language: str) -> None:
    def precision(name: str) -> dict[str | None, str]:
        asked = skewed(name, SETS["narrow"])
        plan = make_plan(replace(asked, task=replace(asked.task, language=language)))  # type: ignore[arg-type]
        return {one.fact: one.text for one in plan.decision("precision").evidence}

    for name in ("t4", "v100"):
        told = precision(name)
        assert "65504" in told["trained_in"]
        assert "--set precision=float32" in told["adapter_precision"]
    assert "trained_in" not in precision("rtx4090")


def test_sixteen_bits_are_kept_where_four_would_only_save_launches() -> None:
    asked = task_on(PROBES / "rtx4090.json", {"domain": "customer_service", "language": "en", "goal": "chat"})
    named = replace(
        asked, task=replace(asked.task, model="qwen3-8b"), models=tuple(m for m in asked.models if m.id == "qwen3-8b")
    )
    plan = make_plan(named)
    assert plan.training.method == "lora"
    device = replace(named.hardware.device, free_bytes=14 * 2**30)
    small = replace(named, hardware=replace(named.hardware, devices=(device,)))
    assert make_plan(small).training.method == "qlora"
