"""Method, precision, length, batch, rate: the settings that all trials share, and the space they differ in."""

from __future__ import annotations

import math
from typing import Any

from autoswift.decide.book import Book
from autoswift.decide.inputs import Inputs
from autoswift.decide.schedule import Lengths, Schedule
from autoswift.decide.way import Way
from autoswift.domain.plan import Method, ModelChoice, TrainingSettings
from autoswift.errors import InputError
from autoswift.hardware.profile import device_profile
from autoswift.hardware.shape import shape_of
from autoswift.tables import explain, table

SETTLED = {"attn_impl", "torch_dtype", "optim", "use_liger_kernel"}
"""Of the device profile's flags, those that the plan's own settings say."""


def max_length(model: ModelChoice, length: Lengths, book: Book) -> int:
    """The longest row that is trained on, in tokens."""
    rules = table("rules")["length"]
    step = int(rules["step"])
    need = max(int(rules["smallest"]), math.ceil(length.row.max / step) * step)
    limit = min(model.context, int(rules["largest"]))
    key = "max_length.all" if need <= limit else "max_length.cut"
    return int(
        book.add(
            "max_length",
            min(need, limit),
            book.say(key, longest=f"{length.row.max:.0f}", p95=f"{length.row.p95:.0f}"),
            evidence=[
                book.fact(
                    "longest_row_tokens",
                    round(length.row.max, 1),
                    book.say("measured_tokens" if length.measured else "estimated_tokens"),
                )
            ],
            levers=("tokens.rows.max", "data.characters.max"),
            source="measurement" if length.measured else "formula",
        )
    )


def prior_rate(model: ModelChoice, method: Method, updates: float) -> float:
    """The learning rate to begin with: see `learning_rate` in rules.yaml for the source."""
    rules = table("rules")["learning_rate"]
    family = "llama" if "llama" in model.model_type or "smol" in model.id.lower() else "other"
    family = "qwen" if "qwen" in model.model_type else family
    hidden = max(shape_of(model).hidden, int(rules["smallest_hidden"]))
    rate = float(rules["base"]) * (float(rules["reference_hidden"]) / hidden) ** float(rules["exponent"][family])
    if method != "full":
        rate *= float(rules["lora_multiplier"])
        if updates < float(rules["short_updates"]):
            rate *= float(rules["short_factor"])
    return float(f"{rate:.2g}")  # two digits: more would feign a precision that the fit does not have


def training_settings(
    inputs: Inputs,
    model: ModelChoice,
    way: Way,
    plan: Schedule,
    length: Lengths,
    book: Book,
) -> tuple[TrainingSettings, dict[str, dict[str, Any]]]:
    """The settings shared by all trials, and the space.

    Args:
        way: how it is trained.
    """
    fit, longest = way.fit, way.need.length
    method, micro = fit.method, fit.micro_batch
    rules = table("rules")
    batch = int(
        book.add(
            "effective_batch_size",
            math.ceil(plan.batch / fit.devices) * fit.devices,  # each device that shares a training has a row at least
            book.say("batch", updates=f"{plan.trial_tokens / length.row.mean / plan.batch:.0f}"),
            alternatives=[(plan.batch * 2, book.say("batch.larger")), (1, book.say("batch.one"))],
            levers=("data.splits.train", "task.budget.hours"),
            source="formula",
        )
    )
    if batch < 1:
        raise InputError(*explain("decide.batch_zero"))
    if batch % fit.devices:
        raise InputError(*explain("decide.batch_devices", batch=batch, devices=fit.devices))
    share = batch // fit.devices
    updates = plan.trial_tokens / length.row.mean / batch
    rate = float(
        book.add(
            "learning_rate",
            prior_rate(model, method, updates),
            book.say("learning_rate", hidden=shape_of(model).hidden),
            evidence=[
                book.fact("hidden", shape_of(model).hidden, "Schulman et al., LoRA Without Regret, 2025"),
            ],
            levers=("data.splits.train", "task.budget.hours"),
            source="formula",
        )
    )
    rank = int(book.add("lora_rank", int(rules["lora"]["rank"]), book.say("lora_rank")))
    micro_fit = _divisor(share, micro)
    micro_fit = int(
        book.add(
            "per_device_train_batch_size",
            micro_fit,
            book.say("micro_batch", accumulation=share // micro_fit),
            levers=("hardware.devices.0.free_bytes", "data.splits.train"),
            source="formula",
        )
    )
    if not 1 <= micro_fit <= share or share % micro_fit:
        raise InputError(*explain("decide.micro_batch", micro=micro_fit, batch=share))
    checkpointing = bool(
        book.add(
            "gradient_checkpointing",
            fit.gradient_checkpointing,
            book.say(_checkpointing_why(way)),
            levers=("hardware.devices.0.free_bytes", "tokens.rows.max", "data.characters.max"),
            source="formula",
        )
    )
    one = rules["schedule"]
    settings = TrainingSettings(
        method=method,
        precision=way.room.precision,  # type: ignore[arg-type]
        learning_rate=rate,
        lr_scheduler_type=str(
            book.add(
                "lr_scheduler_type",
                one["lr_scheduler_type"],
                book.say("scheduler"),
            )
        ),
        warmup_ratio=float(book.add("warmup_ratio", float(one["warmup_ratio"]), book.say("warmup"))),
        weight_decay=float(one["weight_decay"]),
        max_grad_norm=float(one["max_grad_norm"]),
        lora_rank=rank,
        lora_alpha=rank * int(rules["lora"]["alpha_per_rank"]),
        lora_dropout=float(rules["lora"]["dropout"]),
        target_modules="all-linear",
        max_length=longest,
        per_device_train_batch_size=micro_fit,
        gradient_accumulation_steps=max(1, share // micro_fit),
        gradient_checkpointing=checkpointing,
        use_liger_kernel=fit.liger,
        devices=fit.devices,
        sharding=fit.sharding,
        optimizer=way.profile.optimizer,
        attention=way.room.attention,
        environment=environment_of(way, inputs),
        flags=flags_of(way),
        threads=inputs.hardware.cpu_cores if inputs.on_cpu else 0,
        engine=str(book.add("train_engine", "swift", book.say("train_engine"))),
    )
    return settings, _space(inputs, rate, (batch, fit.devices), rank, method, book)


def environment_of(way: Way, inputs: Inputs) -> dict[str, str]:
    """Variables of the training processes, for as many devices as one training takes."""
    if way.fit.devices == 1:
        return way.profile.environment()
    many = device_profile(inputs.hardware, use=way.fit.devices, packages=inputs.hardware.packages)
    return many.environment() | (way.layout.environment() if way.layout else {})


def flags_of(way: Way) -> dict[str, str]:
    """Further arguments of the trainer: the device's, or how Megatron divides the devices."""
    if way.layout is not None:  # its own trainer, which knows none of the device's
        return way.layout.flags()
    flags = {k: v for k, v in way.profile.swift_flags().items() if k not in SETTLED}
    if way.fit.grouped:
        flags["group_by_length"] = "true"
    if way.fit.method == "qlora" and way.fit.devices > 1:
        # FSDP and ZeRO-3 divide only tensors of one float type: packed weights are laid into that.
        flags["bnb_4bit_quant_storage"] = way.room.precision
    return flags


def _checkpointing_why(way: Way) -> str:
    if not way.fit.gradient_checkpointing:
        return "checkpointing.off"
    without = any(not one.gradient_checkpointing and one.method == way.fit.method for one in way.others)
    return "checkpointing.faster" if without else "checkpointing.on"


def _divisor(batch: int, largest: int) -> int:
    """The largest divisor of the batch that is at most `largest`, so that accumulation is whole."""
    return max(d for d in range(1, min(batch, max(largest, 1)) + 1) if batch % d == 0)


def _space(
    inputs: Inputs, rate: float, rows: tuple[int, int], rank: int, method: Method, book: Book
) -> dict[str, dict[str, Any]]:
    """What trials may differ in; what the user fixed is not searched.

    Args:
        rate, rank: the plan's. rows: its batch, and by how many devices a batch is shared.
    """
    rules = table("rules")
    batch, devices = rows
    batches = sorted({max(1, batch // n // devices) * devices for n in (4, 2, 1)} | {batch * 2, batch * 4})
    space: dict[str, dict[str, Any]] = {}
    fixed = inputs.task.options
    if "learning_rate" not in fixed:
        span = float(rules["learning_rate"]["span"])
        space["learning_rate"] = {"low": rate / span, "high": rate * span, "log": True, "prior": rate}
    if "effective_batch_size" not in fixed and inputs.task.budget.trials > 3:
        space["effective_batch_size"] = {"choices": batches, "prior": batch}
    if "lora_rank" not in fixed and method != "full" and inputs.task.budget.trials > 5:
        space["lora_rank"] = {"choices": list(rules["lora"]["ranks"]), "prior": rank}
    book.add(
        "search_space",
        ", ".join(space) or "-",
        book.say("space"),
        alternatives=[("lora_rank", book.say("space.not_rank"))] if "lora_rank" not in space else (),
        levers=("task.budget.trials",),
        instead=book.say("instead.search_space"),
    )
    return space
