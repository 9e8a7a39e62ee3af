"""Method, precision, length, batch, rate: the settings that all trials share, and the space they differ in."""

from __future__ import annotations

import math
from typing import Any

from autoswift.decide.book import Book
from autoswift.decide.inputs import Inputs
from autoswift.decide.schedule import Lengths, Schedule
from autoswift.domain.plan import Method, ModelChoice, TrainingSettings
from autoswift.errors import InputError
from autoswift.hardware.memory import MemoryEstimate, MemorySettings, peak_memory
from autoswift.hardware.shape import shape_of
from autoswift.tables import explain, table

METHODS: tuple[Method, ...] = ("full", "lora", "qlora")


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


def method_and_memory(
    inputs: Inputs, model: ModelChoice, length: int, batch: int, book: Book
) -> tuple[Method, str, int, bool, MemoryEstimate]:
    """Method, precision, micro-batch, checkpointing, and the memory they need.

    Raises:
        InputError: when nothing fits, or the user asked for a method that does not exist here.
    """
    device = inputs.hardware.device
    half = "bfloat16" if device.bf16 else "float16" if device.kind == "cuda" else "float32"
    precision = "float32" if device.kind == "cpu" else half
    precision = str(
        book.add(
            "precision",
            precision,
            book.say(f"precision.{precision}"),
            evidence=[book.fact("device", device.name, device.name)],
            levers=("hardware.devices.0.bf16", "hardware.devices.0.kind"),
        )
    )
    room = int(device.free_bytes * float(table("rules")["memory"]["share"]))
    wanted = str(inputs.task.options.get("method", ""))
    if wanted and (wanted not in METHODS or (wanted == "qlora" and device.kind != "cuda")):
        raise InputError(*explain("decide.method", method=wanted))
    tries: list[Method] = [wanted] if wanted in METHODS else ["lora", "qlora"] if device.kind == "cuda" else ["lora"]
    refused: list[tuple[Any, str]] = []
    for method in tries:
        found = _fit(inputs, model, method, precision, length, batch, room)
        if found is None:
            refused.append((method, book.say("method.too_large", room=f"{room / 2**30:.1f}")))
            continue
        micro, checkpointing, estimate = found
        if not wanted:
            refused += [(m, book.say(f"method.not_{m}")) for m in METHODS if m != method and m not in dict(refused)]
        chosen = book.add(
            "method",
            str(method),
            book.say(f"method.{method}", need=f"{estimate.high / 2**30:.1f}", room=f"{room / 2**30:.1f}"),
            alternatives=refused,
            levers=("hardware.devices.0.free_bytes",),
            source="formula",
        )
        return chosen, precision, micro, checkpointing, estimate
    raise InputError(*explain("decide.memory", model=model.id, method=tries[-1], room=room / 2**30))


def _fit(
    inputs: Inputs, model: ModelChoice, method: Method, precision: str, length: int, batch: int, room: int
) -> tuple[int, bool, MemoryEstimate] | None:
    """The largest micro-batch that fits, without recomputation where that is possible."""
    shape, device = shape_of(model), inputs.hardware.device
    rules = table("rules")["batch"]
    micro = min(batch, int(rules["micro_largest_cpu" if inputs.on_cpu else "micro_largest"]))
    for checkpointing in (False, True):
        size = micro
        while size >= 1:
            settings = MemorySettings(
                length=length,
                micro_batch=size,
                rank=max(table("rules")["lora"]["ranks"]),
                gradient_checkpointing=checkpointing,
                precision=precision,
                device=device.kind,
            )
            estimate = peak_memory(shape, method, settings)
            if estimate.high <= room:
                return size, checkpointing, estimate
            size //= 2
    return None


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
    fixed: tuple[Method, str, int, bool, int],
    plan: Schedule,
    length: Lengths,
    book: Book,
) -> tuple[TrainingSettings, dict[str, dict[str, Any]]]:
    """The settings shared by all trials, and the space.

    Args:
        fixed: method, precision, micro-batch, checkpointing, max_length.
    """
    method, precision, micro, checkpointing, longest = fixed
    rules = table("rules")
    batch = int(
        book.add(
            "effective_batch_size",
            plan.batch,
            book.say("batch", updates=f"{plan.trial_tokens / length.row.mean / plan.batch:.0f}"),
            alternatives=[(plan.batch * 2, book.say("batch.larger")), (1, book.say("batch.one"))],
            levers=("data.splits.train", "task.budget.hours"),
            source="formula",
        )
    )
    if batch < 1:
        raise InputError(*explain("decide.batch_zero"))
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
    micro_fit = _divisor(batch, micro)
    micro_fit = int(
        book.add(
            "per_device_train_batch_size",
            micro_fit,
            book.say("micro_batch", accumulation=batch // micro_fit),
            levers=("hardware.devices.0.free_bytes", "data.splits.train"),
            source="formula",
        )
    )
    if not 1 <= micro_fit <= batch or batch % micro_fit:
        raise InputError(*explain("decide.micro_batch", micro=micro_fit, batch=batch))
    checkpointing = bool(
        book.add(
            "gradient_checkpointing",
            checkpointing,
            book.say("checkpointing.on" if checkpointing else "checkpointing.off"),
            levers=("hardware.devices.0.free_bytes", "tokens.rows.max", "data.characters.max"),
            source="formula",
        )
    )
    one = rules["schedule"]
    settings = TrainingSettings(
        method=method,
        precision=precision,  # type: ignore[arg-type]
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
        gradient_accumulation_steps=max(1, batch // micro_fit),
        gradient_checkpointing=checkpointing,
        optimizer="adamw_torch",
        threads=inputs.hardware.cpu_cores if inputs.on_cpu else 0,
        engine=str(book.add("train_engine", "swift", book.say("train_engine"))),
    )
    return settings, _space(inputs, rate, batch, rank, method, book)


def _divisor(batch: int, largest: int) -> int:
    """The largest divisor of the batch that is at most `largest`, so that accumulation is whole."""
    return max(d for d in range(1, min(batch, max(largest, 1)) + 1) if batch % d == 0)


def _space(inputs: Inputs, rate: float, batch: int, rank: int, method: Method, book: Book) -> dict[str, dict[str, Any]]:
    """What trials may differ in; what the user fixed is not searched."""
    rules = table("rules")
    space: dict[str, dict[str, Any]] = {}
    fixed = inputs.task.options
    if "learning_rate" not in fixed:
        span = float(rules["learning_rate"]["span"])
        space["learning_rate"] = {"low": rate / span, "high": rate * span, "log": True, "prior": rate}
    if "effective_batch_size" not in fixed and inputs.task.budget.trials > 3:
        space["effective_batch_size"] = {"choices": sorted({max(1, batch // 2), batch, batch * 2}), "prior": batch}
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
