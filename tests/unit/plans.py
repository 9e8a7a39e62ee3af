"""A plan for tests that need one but do not test planning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from autoswift.domain.plan import (
    Estimate,
    EvaluationSettings,
    ModelChoice,
    Plan,
    SearchSettings,
    ServingSettings,
    TrainingSettings,
)


def make_plan(*, trials: int = 5, seed: int = 0, **search: Any) -> Plan:
    """Learning rate 3e-4 as the prior, a space of a factor 5 both ways, batch 4, 40 steps a trial."""
    space = {"learning_rate": {"low": 6e-5, "high": 1.5e-3, "log": True, "prior": 3e-4}}
    base = SearchSettings(
        trials=trials,
        space=space,
        trial_tokens=16_000,
        final_tokens=32_000,
        tokens_per_row=100.0,
        promote=False,
        answer_seconds=1.0,
        epochs=3,
        reserve_seconds=10.0,
        metric="chrf",
    )
    return Plan(
        revision=1,
        cause="test",
        seed=seed,
        model=ModelChoice(id="m", source="folder", location="/m", model_type="llama", template="", parameters=10**6),
        training=TrainingSettings(
            method="lora",
            precision="float32",
            learning_rate=3e-4,
            lr_scheduler_type="cosine",
            warmup_ratio=0.05,
            weight_decay=0.0,
            max_grad_norm=1.0,
            lora_rank=16,
            lora_alpha=32,
            lora_dropout=0.0,
            target_modules="all-linear",
            max_length=256,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=1,
            gradient_checkpointing=False,
            optimizer="adamw_torch",
            threads=1,
        ),
        search=replace(base, **search),
        evaluation=EvaluationSettings(
            metric="chrf", validation_rows=8, test_rows=8, max_new_tokens=16, generation_batch_size=4
        ),
        serving=ServingSettings(
            engine="llamacpp", format="q8_0", context=512, parallel=1, load_parallel=(1,), load_requests=(1,)
        ),
        estimate=Estimate(
            peak_memory_bytes=1,
            memory_limit_bytes=2,
            tokens_per_second=100.0,
            stage_seconds={"search": 10.0, "train": 10.0},
        ),
        decisions=(),
    )
