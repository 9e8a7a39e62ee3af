"""A trial's settings: the plan's, the trial's own parameters, what recovery changed, in that order."""

from __future__ import annotations

import math
from typing import Any

from autoswift.domain.plan import Plan
from autoswift.domain.trial import Trial
from autoswift.tables import table


def split_batch(effective: int, largest_micro: int) -> tuple[int, int]:
    """(micro-batch, accumulation steps) whose product is exactly the effective batch size.

    The micro-batch is the largest divisor that is at most `largest_micro`.
    """
    micro = max(d for d in range(1, max(1, min(effective, largest_micro)) + 1) if effective % d == 0)
    return micro, effective // micro


def settings_in_force(plan: Plan, trial: Trial) -> dict[str, Any]:
    """Every setting of one attempt, by the field's standard name."""
    training, chosen = plan.training, trial.parameters
    batch = int(chosen.get("effective_batch_size", training.effective_batch_size))
    micro, accumulation = split_batch(batch, training.per_device_train_batch_size)
    rank = int(chosen.get("lora_rank", training.lora_rank))
    settings: dict[str, Any] = {
        "method": training.method,
        "precision": training.precision,
        "learning_rate": float(chosen.get("learning_rate", training.learning_rate)),
        "lr_scheduler_type": training.lr_scheduler_type,
        "warmup_ratio": training.warmup_ratio,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "lora_rank": rank,
        "lora_alpha": rank * int(table("rules")["lora"]["alpha_per_rank"]),
        "lora_dropout": training.lora_dropout,
        "target_modules": training.target_modules,
        "max_length": training.max_length,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "gradient_checkpointing": training.gradient_checkpointing,
        "optimizer": training.optimizer,
        "max_steps": max(1, math.ceil(trial.tokens / plan.search.tokens_per_row / batch)),
        "seed": plan.seed,
    }
    return settings | trial.overrides
