"""The decision `trial_packing`: what cannot be packed says so; K follows the memory, the trials and measurements."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.decide.inputs import Inputs
from autoswift.decide.packing import measured_speedup, reason_against, speedup_of
from autoswift.decide.planner import make_plan
from autoswift.domain.budget import Budget
from autoswift.domain.decision import Decision
from autoswift.domain.plan import ModelChoice, Plan
from autoswift.domain.profile import GIB, Device
from autoswift.errors import InputError
from autoswift.tables import table
from unit.test_decide import ONLINE, inputs

H100 = Device(
    kind="cuda",
    name="NVIDIA H100 80GB HBM3",
    memory_bytes=80 * GIB,
    free_bytes=79 * GIB,
    bf16=True,
    tflops=338.0,
    bandwidth=3350.0,
)
NAMES = ("llama", "qwen2_5", "qwen3", "gemma3_text", "phi4")


@pytest.fixture
def on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table("packing"), "enabled", {"cpu": True, "cuda": True})


def decided(plan: Plan) -> Decision:
    return plan.decision("trial_packing")


def gpu(trials: int = 16, model: str = "qwen2.5-0.5b-instruct", free: float = 79.0, **options: Any) -> Inputs:
    device = replace(H100, free_bytes=int(free * GIB))
    made = inputs(device, ONLINE, budget=Budget(trials=trials, hours=24.0), options=options)
    return replace(made, models=tuple(one for one in made.models if one.id == model))


def test_a_cpu_keeps_one_base_for_trials_one_after_the_other() -> None:
    plan = make_plan(inputs(budget=Budget(trials=3, hours=6.0)))
    assert decided(plan).value == plan.search.packed == 1
    assert [a.value for a in decided(plan).alternatives] == [0, 2]
    assert plan.training.engine == "swift", "what comes before and after the search is not packed"
    without = make_plan(inputs(budget=Budget(trials=3, hours=6.0), options={"trial_packing": "0"}))
    assert without.search.packed == 0
    saved = without.estimate.stage_seconds["search"] - plan.estimate.stage_seconds["search"]
    assert 0 < saved <= 3 * plan.search.start_seconds


def test_one_trial_needs_no_resident_base() -> None:
    assert decided(make_plan(inputs(budget=Budget(trials=1)))).value == 0


@pytest.mark.usefixtures("on_gpus")
def test_a_small_model_on_a_large_card_is_packed() -> None:
    plan = make_plan(gpu())
    assert 4 <= plan.search.packed <= 8
    assert plan.search.packed * 2 <= plan.search.trials
    alone = make_plan(gpu(trial_packing="1"))
    assert plan.estimate.stage_seconds["search"] < 0.7 * alone.estimate.stage_seconds["search"]
    assert any(e.fact == "packed_speedup" for e in decided(plan).evidence)


@pytest.mark.usefixtures("on_gpus")
@pytest.mark.parametrize("trials", [2, 3, 5, 9, 32, 64])
def test_half_of_the_trials_know_what_the_others_found(trials: int) -> None:
    plan = make_plan(gpu(trials))
    assert 1 <= plan.search.packed <= max(1, plan.search.trials // 2)


@pytest.mark.usefixtures("on_gpus")
def test_less_memory_never_packs_more() -> None:
    found = []
    for free in (79.0, 40.0, 24.0, 16.0, 13.0):
        plan = make_plan(
            gpu(32, free=free, method="lora", per_device_train_batch_size=4, gradient_checkpointing="false")
        )
        found.append(plan.search.packed)
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"method": "full"}, "full"),
        ({"devices": 2, "sharding": "zero3"}, "sharded"),
        ({"devices": 2, "sharding": "megatron"}, "megatron"),
        ({"precision": "float16"}, "precision"),
        ({"optimizer": "paged_adamw_8bit"}, "optimizer"),
        ({"engine": "mine:Engine"}, "engine"),
    ],
)
def test_what_cannot_be_packed_says_why(change: dict[str, Any], word: str) -> None:
    made = inputs(budget=Budget(trials=3, hours=6.0))
    plan = make_plan(made)
    assert reason_against(made, plan.model, plan.training, "local") == ""
    assert reason_against(made, plan.model, replace(plan.training, **change), "local") == word


def test_bases_that_were_not_tried_are_not_packed() -> None:
    made = inputs(budget=Budget(trials=3, hours=6.0))
    plan = make_plan(made)

    def why(**fields: Any) -> str:
        model: ModelChoice = replace(plan.model, **fields)
        return reason_against(made, model, plan.training, "local")

    assert [why(model_type=name) for name in NAMES] == [""] * len(NAMES)
    assert why(model_type="mamba") == why(model_type="") == "architecture"
    assert why(model_type="qwen3_moe") == why(active=10**9) == "experts"
    assert reason_against(made, plan.model, plan.training, "ray") == "executor"
    assert reason_against(inputs(Device(kind="mps", name="m")), plan.model, plan.training, "local") == "device"


def test_a_wish_that_cannot_be_met_is_refused() -> None:
    with pytest.raises(InputError, match="trial_packing=4"):
        make_plan(inputs(budget=Budget(trials=3, hours=6.0), options={"trial_packing": "4", "train_engine": "mine"}))


def test_the_measured_cells_come_back() -> None:
    one = table("packing")["speedup"]
    for row in one["rows"]:
        found = measured_speedup(row["parameters"], row["micro_batch"] * row["length"], float(one["card_tflops"]))
        assert {k: found[k] for k in row["trials"]} == row["trials"]
        assert found[1] == 1.0


@given(st.integers(10**8, 10**10), st.floats(1, 10**5), st.floats(10, 900))
def test_more_trials_in_a_step_never_do_less(parameters: int, tokens: float, tflops: float) -> None:
    found = list(measured_speedup(parameters, tokens, tflops).values())
    assert found == sorted(found)
    assert found[0] == 1.0


@given(st.integers(1, 64))
def test_between_measured_numbers_the_speedup_is_between_them(trials: int) -> None:
    points = {1: 1.0, 4: 4.0, 16: 10.0}
    assert 1.0 <= speedup_of(points, trials) <= 10.0
    assert speedup_of(points, 4) == pytest.approx(4.0)
