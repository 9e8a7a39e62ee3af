"""The memory of a plan's training, and the plan made anew when a trace or a measurement says otherwise."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from autoswift.catalog.tokens import TokenStats
from autoswift.decide.inputs import Inputs
from autoswift.decide.planner import make_plan
from autoswift.decide.stages import keep_plan
from autoswift.domain.decision import Decision
from autoswift.domain.plan import Plan, TrainingSettings
from autoswift.domain.profile import Device, LengthStats
from autoswift.hardware.margins import Margin
from autoswift.hardware.memory import MemoryEstimate, MemorySettings, peak_memory
from autoswift.hardware.shape import shape_of
from autoswift.run.context import RunContext
from autoswift.tables import table

OF_MEMORY = ("method", "per_device_train_batch_size", "gradient_checkpointing", "use_liger_kernel", "sharding",
             "train_engine")  # fmt: skip
"""Decisions that a plan made anew for its memory takes over; all others stay as they were."""


def settings_of(training: TrainingSettings, device: Device, length: int) -> MemorySettings:
    """What the memory of a training depends on.

    Args:
        training: its settings. device: where it runs.
        length: tokens of its longest row.
    """
    micro = training.per_device_train_batch_size
    return MemorySettings(
        length=length,
        micro_batch=micro,
        rank=training.lora_rank,
        gradient_checkpointing=training.gradient_checkpointing,
        optimizer=training.optimizer,
        precision=training.precision,
        attention=training.attention,
        device=device.kind,
        card=device.name,
        dropout=training.lora_dropout,
        liger=training.use_liger_kernel,
        accumulates=training.gradient_accumulation_steps > 1,
        padded=micro > 1,
        expandable_segments=device.kind == "cuda",
        devices=training.devices,
        sharding=training.sharding,
    )


def predicted(plan: Plan, device: Device, length: int, training: TrainingSettings | None = None) -> MemoryEstimate:
    """The closed form's word on a training, without any margin.

    Args:
        plan: with the model. device: where it runs.
        length: tokens of the longest row. training: other settings than the plan's own.
    """
    training = training or plan.training
    return peak_memory(shape_of(plan.model), training.method, settings_of(training, device, length))


def room_bytes(inputs: Inputs) -> int:
    """What of the device's memory a plan may use."""
    rules = table("rules")["memory"]
    return int(inputs.hardware.device.free_bytes * float(rules["share_cpu" if inputs.on_cpu else "share"]))


def needed_bytes(estimate: MemoryEstimate) -> int:
    """On the device: the upper bound of what the allocator takes, and the context beside it."""
    return estimate.high + estimate.context_bytes


def longest_row(context: RunContext, plan: Plan) -> int:
    """Tokens of the longest row that is trained on."""
    return min(plan.training.max_length, math.ceil(float(context.record.value("recount")["tokens"]["max"])))


def counted(context: RunContext, inputs: Inputs) -> Inputs:
    """The inputs with the lengths that the model's own tokenizer counted."""
    value = context.record.value("recount")
    stats = TokenStats(rows=LengthStats(**value["tokens"]), answers=LengthStats(**value["answer_tokens"]))
    return replace(inputs, tokens=stats)


def replanned(inputs: Inputs, plan: Plan, margin: Margin, cause: str, told: Decision) -> Plan:
    """The next revision: how it is trained follows the margin, the effective batch and all else stay.

    Args:
        inputs: counted. plan: in force. margin: of this model on this device; it goes before all others.
        cause: of the revision. told: the decision that says what was traced or measured.

    Raises:
        InputError: when nothing fits any more.
    """
    made = make_plan(replace(inputs, margins=(margin, *inputs.margins)), model=plan.model)
    old, new = plan.training, made.training
    share, micro = max(1, old.effective_batch_size // new.devices), new.per_device_train_batch_size
    micro = max(d for d in range(1, min(share, micro) + 1) if share % d == 0)
    # The engine and its flags follow the way of training; what the search and the data settled stays.
    training = replace(
        new,
        learning_rate=old.learning_rate,
        lora_rank=old.lora_rank,
        lora_alpha=old.lora_alpha,
        max_length=old.max_length,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=share // micro,
    )
    anew = {d.name: d for d in made.decisions if d.name in OF_MEMORY}
    if "per_device_train_batch_size" in anew:
        anew["per_device_train_batch_size"] = replace(anew["per_device_train_batch_size"], value=micro)
    kept = [anew.pop(d.name, d) for d in plan.decisions if d.name != told.name]
    return replace(
        plan,
        revision=plan.revision + 1,
        cause=cause,
        training=training,
        estimate=replace(plan.estimate, peak_memory_bytes=made.estimate.peak_memory_bytes),
        decisions=(*kept, *anew.values(), told),
    )


def begin(context: RunContext, plan: Plan) -> None:
    """Takes away revisions after the one in force: a stage that was killed had made them, and nothing used them yet."""
    for path in (context.folder / "plan").glob("*.json"):
        if int(path.stem) > plan.revision:
            path.unlink()


def keep_revision(context: RunContext, new: Plan, old: Plan) -> Plan:
    """Writes the revision, and returns it."""
    keep_plan(context, new, old)
    return new


def same_training(one: Plan, other: Plan) -> bool:
    """Whether two plans ask the same of the memory."""
    return memory_part(one) == memory_part(other)


def memory_part(plan: Plan) -> tuple[Any, ...]:
    """Of a plan's settings, those that a margin may change."""
    t = plan.training
    return (t.method, t.per_device_train_batch_size, t.gradient_checkpointing, t.use_liger_kernel, t.devices)
