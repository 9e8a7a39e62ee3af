"""A trial's settings: the plan's, the trial's own parameters, what recovery changed, in that order."""

from __future__ import annotations

import math
from typing import Any

from autoswift.domain.plan import Plan
from autoswift.domain.trial import Trial
from autoswift.tables import table

COOLDOWN = 0.2
"""Share of a short trial in which its rate falls to zero. Hägele et al. 2024 ("Scaling Laws and Compute-Optimal
Training Beyond Fixed Training Durations"): with 10 to 20 % of it, constant-rate training reaches what a cosine of that
length does."""


def stable_steps(steps: int) -> int:
    """Steps of a short trial before its rate falls; the checkpoint there is what a longer trial goes on from."""
    return max(1, steps - max(1, round(COOLDOWN * steps)))


def split_batch(effective: int, largest_micro: int) -> tuple[int, int]:
    """(micro-batch, accumulation steps) whose product is exactly the effective batch size.

    The micro-batch is the largest divisor that is at most `largest_micro`.
    """
    micro = max(d for d in range(1, max(1, min(effective, largest_micro)) + 1) if effective % d == 0)
    return micro, effective // micro


def settings_in_force(plan: Plan, trial: Trial) -> dict[str, Any]:
    """Every setting of one attempt, by the field's standard name.

    Of the overrides `micro_batch_limit` is none itself: it bounds the micro-batch, whatever the trial's batch is.
    """
    training, chosen = plan.training, trial.parameters
    batch = int(chosen.get("effective_batch_size", training.effective_batch_size))
    # Devices that share a training each take their part of the batch, at least a row.
    largest = min(training.per_device_train_batch_size, int(trial.overrides.get("micro_batch_limit", batch)))
    micro, accumulation = split_batch(math.ceil(batch / training.devices), largest)
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
        "attention": training.attention,
        "use_liger_kernel": training.use_liger_kernel,
        "devices": training.devices,
        "sharding": training.sharding,
        "flags": dict(training.flags),
        "max_steps": max(1, math.ceil(trial.tokens / plan.search.tokens_per_row / batch)),
        "seed": plan.seed,
        "generation_batch_size": plan.evaluation.generation_batch_size,
    }
    if len(plan.search.rungs) > 1:
        # One schedule that does not punish short trials: a constant rate, and a cool-down wherever a rung ends.
        settings |= {"lr_scheduler_type": "warmup_stable_decay", "stable_steps": stable_steps(settings["max_steps"])}
    return settings | {name: value for name, value in trial.overrides.items() if name != "micro_batch_limit"}
