"""Method, precision, length, batch, rate: the settings that all trials share, and the space they differ in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoswift.decide.book import Book
from autoswift.decide.fit import Fit, Need, Room, smallest, ways
from autoswift.decide.inputs import Inputs
from autoswift.decide.kept import Kept
from autoswift.decide.nofit import does_not_fit
from autoswift.decide.schedule import Lengths, Schedule, batch_for
from autoswift.domain.plan import Method, ModelChoice, TrainingSettings
from autoswift.errors import InputError
from autoswift.hardware.profile import DeviceProfile, device_profile
from autoswift.hardware.shape import ModelShape, shape_of
from autoswift.tables import explain, table

SETTLED = {"attn_impl", "torch_dtype", "optim", "use_liger_kernel"}
"""Of the device profile's flags, those that the plan's own settings say."""
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


def precision_of(profile: DeviceProfile, book: Book) -> str:
    """The number format that the products are computed in."""
    return str(
        book.add(
            "precision",
            profile.precision,
            _reason(profile, "precision", book),
            evidence=[book.fact("device", profile.name, profile.name)],
            levers=("hardware.devices.0.bf16", "hardware.devices.0.kind"),
        )
    )


def attention_of(profile: DeviceProfile, book: Book) -> str:
    """The implementation of attention; a CPU has only one worth naming."""
    if profile.kind == "cpu":
        return profile.attention
    return str(book.add("attention", profile.attention, _reason(profile, "attention", book), evidence=[profile.name]))


def _reason(profile: DeviceProfile, setting: str, book: Book) -> str:
    why = profile.reason(setting)
    return why.sentence(book.language) if why else ""


def room_of(inputs: Inputs, profile: DeviceProfile, book: Book) -> Room:
    """What of the machine a training may use."""
    device = inputs.hardware.device
    precision, attention = precision_of(profile, book), attention_of(profile, book)
    share = float(table("rules")["memory"]["share_cpu" if inputs.on_cpu else "share"])
    alike = [d for d in inputs.hardware.devices if (d.kind, d.name) == (device.kind, device.name)]
    many = len(alike) if device.kind == "cuda" else 1
    free = min(d.free_bytes for d in alike[:many])
    return Room(
        device=device,
        bytes=int(free * share),
        devices=many,
        link=_link(inputs, many),
        liger=profile.liger,
        attention=attention,
        precision=precision,
        optimizer=profile.optimizer,
    )


def _link(inputs: Inputs, devices: int) -> str:
    """The slowest way between two of the devices."""
    order = ("host", "p2p", "nvlink")
    links = {k: v for k, v in inputs.hardware.links.items() if all(int(n) < devices for n in k.split("-"))}
    return min(links.values(), key=order.index) if links else "host"


def need_of(inputs: Inputs, length: Lengths, longest: int) -> Need:
    """What is to be trained, before the schedule settles the batch: the largest batch and rank that may come."""
    rules = table("rules")
    micro = inputs.task.options.get("per_device_train_batch_size")
    batch = batch_for(float("inf"), length.row.mean)
    largest = int(rules["batch"]["micro_largest_cpu" if inputs.on_cpu else "micro_largest"])
    return Need(
        length=longest,
        rows=length.row,
        batch=batch,
        rank=max(rules["lora"]["ranks"]),
        largest_micro=min(batch, largest),
        micro=micro if isinstance(micro, int) and micro > 0 else 0,
        gradient_checkpointing=_yes_or_no(inputs, "gradient_checkpointing"),
        liger=_yes_or_no(inputs, "use_liger_kernel"),
        sharding=str(inputs.task.options["sharding"]) if "sharding" in inputs.task.options else None,
    )


def _yes_or_no(inputs: Inputs, name: str) -> bool | None:
    """The user's own setting, None where there is none; a word that is neither is refused by the book."""
    said = inputs.task.options.get(name)
    return None if said is None else str(said).lower() in ("true", "yes", "1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How it is trained: the best of those that fit, and what it was chosen from.

    Attributes:
        fit: the best. room: of the machine. need: what is trained. others: that fit too. profile: of the device.
    """

    fit: Fit
    room: Room
    need: Need
    others: tuple[Fit, ...]
    profile: DeviceProfile


_profile = Kept(lambda hardware: device_profile(hardware, packages=hardware.packages))


def settle_fit(inputs: Inputs, model: ModelChoice, need: Need, book: Book) -> Way:
    """The fastest way to train that fits.

    Raises:
        InputError: when nothing fits, or the user asked for a method that does not exist here.
    """
    device = inputs.hardware.device
    profile = _profile(inputs.hardware)
    room = room_of(inputs, profile, book)
    quantized = device.kind == "cuda" and "bnb-nf4" in profile.quantization
    fixed = inputs.task.options
    wanted = str(fixed.get("method", ""))
    if wanted and (wanted not in METHODS or (wanted == "qlora" and not quantized)):
        raise InputError(*explain("decide.method", method=wanted))
    offered: tuple[Method, ...] = ("lora", "qlora") if quantized else ("lora",)
    methods = (wanted,) if wanted in METHODS else offered
    shape = shape_of(model)
    found = ways(shape, methods, need, room)
    gib = f"{room.bytes / 2**30:.1f}"
    if not found:
        least = smallest(shape, methods, need, room)
        raise does_not_fit(model.id, shape, least.needed_bytes, room.bytes, inputs, need.length)
    best = found[0]
    refused = [
        (method, _why_not(method, best, found, shape, need, room, book)) for method in METHODS if method != best.method
    ]
    book.add(
        "method",
        str(best.method),
        _method_why(best, found, gib, book),
        evidence=[
            book.fact("peak_gib", round(best.estimate.peak_bytes / 2**30, 2), _peak_in_words(best, book)),
            book.fact("room_gib", round(room.bytes / 2**30, 2), book.say("method.room", room=gib)),
        ],
        alternatives=() if wanted else refused,
        levers=("hardware.devices.0.free_bytes",),
        source="formula",
    )
    _say_sharing(best, found, room, book)
    return Way(fit=best, room=room, need=need, others=tuple(found[1:]), profile=profile)


def _method_why(best: Fit, found: Sequence[Fit], room: str, book: Book) -> str:
    need = f"{best.needed_bytes / 2**30:.1f}"
    plain = next((one for one in found if one.method == "lora"), None)
    if best.method == "qlora" and plain is not None:
        times = f"{plain.device_seconds / best.device_seconds:.2f}"
        return book.say("method.qlora_faster", need=need, room=room, times=times)
    return book.say(f"method.{best.method}", need=need, room=room)


def _peak_in_words(one: Fit, book: Book) -> str:
    low, high = (f"{b / 2**30:.1f}" for b in (one.estimate.low, one.estimate.high))
    return book.say("method.peak", peak=f"{one.estimate.peak_bytes / 2**30:.1f}", low=low, high=high)


def _why_not(
    method: Method, best: Fit, found: Sequence[Fit], shape: ModelShape, need: Need, room: Room, book: Book
) -> str:
    """Why a method was not taken: it does not run here, does not fit, is slower, or brings nothing."""
    if method == "full":
        return book.say("method.not_full")
    if method == "qlora" and room.device.kind != "cuda":
        return book.say("method.no_qlora")
    other = next((one for one in found if one.method == method), None)
    if other is None:
        least = smallest(shape, (method,), need, room)
        return book.say("method.too_large", need=f"{least.needed_bytes / 2**30:.1f}", room=f"{room.bytes / 2**30:.1f}")
    if best.device_seconds <= 0:
        return book.say(f"method.not_{method}")
    times = other.device_seconds / best.device_seconds
    return book.say("method.slower" if times >= 1 else "method.not_worth", times=f"{times:.2f}")


def _say_sharing(best: Fit, found: Sequence[Fit], room: Room, book: Book) -> None:
    """With several devices: whether one training takes them all."""
    if room.devices < 2:
        return
    alone = [one for one in found if one.devices == 1]
    book.add(
        "sharding",
        str(best.sharding),
        book.say("sharding.alone" if best.devices == 1 else "sharding.together", devices=room.devices),
        alternatives=[("fsdp", book.say("sharding.not_fsdp"))]
        if best.devices == 1
        else [("none", book.say("sharding.not_none" if not alone else "sharding.none_slower"))],
        levers=("hardware.devices.0.free_bytes",),
        source="formula",
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
        gradient_accumulation_steps=max(1, batch // micro_fit),
        gradient_checkpointing=checkpointing,
        use_liger_kernel=fit.liger,
        devices=fit.devices,
        sharding=fit.sharding,
        optimizer=way.profile.optimizer,
        attention=way.room.attention,
        environment=environment_of(way, inputs),
        flags={k: v for k, v in way.profile.swift_flags().items() if k not in SETTLED},
        threads=inputs.hardware.cpu_cores if inputs.on_cpu else 0,
        engine=str(book.add("train_engine", "swift", book.say("train_engine"))),
    )
    return settings, _space(inputs, rate, batch, rank, method, book)


def environment_of(way: Way, inputs: Inputs) -> dict[str, str]:
    """Variables of the training processes, for as many devices as one training takes."""
    if way.fit.devices == 1:
        return way.profile.environment()
    many = device_profile(inputs.hardware, use=way.fit.devices, packages=inputs.hardware.packages)
    return many.environment()


def _checkpointing_why(way: Way) -> str:
    if not way.fit.gradient_checkpointing:
        return "checkpointing.off"
    without = any(not one.gradient_checkpointing and one.method == way.fit.method for one in way.others)
    return "checkpointing.faster" if without else "checkpointing.on"


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
