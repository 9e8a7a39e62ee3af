"""How it is trained: precision, attention, and the fastest method that fits, with what speaks against the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from autoswift.decide.book import Book
from autoswift.decide.fit import Fit, Need, Room, smallest, ways
from autoswift.decide.inputs import Inputs
from autoswift.decide.kept import Kept
from autoswift.decide.megatron import NAME as MEGATRON
from autoswift.decide.megatron import with_megatron
from autoswift.decide.nofit import does_not_fit
from autoswift.decide.padding import padded_length
from autoswift.decide.place import alike_of
from autoswift.decide.schedule import Lengths, batch_for
from autoswift.domain.decision import Evidence
from autoswift.domain.plan import Method, ModelChoice
from autoswift.errors import InputError
from autoswift.hardware.margins import Margin, margin_for
from autoswift.hardware.megatron import Layout
from autoswift.hardware.profile import DeviceProfile, device_profile
from autoswift.hardware.shape import ModelShape, shape_of
from autoswift.tables import explain, table

METHODS: tuple[Method, ...] = ("full", "lora", "qlora")


def precision_of(profile: DeviceProfile, family: str, book: Book) -> str:
    """The number format that the products are computed in; a warning where the model's own has a wider range.

    Args:
        profile: of the device. family: of the model's shape.
    """
    narrow = profile.precision == "float16" and family in table("rules")["precision"]["bfloat16_trained"]
    warned = [
        book.fact("trained_in", "bfloat16", book.say("precision.overflow", family=family)),
        book.fact("adapter_precision", "float32", book.say("precision.remedy")),
    ]
    return str(
        book.add(
            "precision",
            profile.precision,
            _reason(profile, "precision", book),
            evidence=[book.fact("device", profile.name, profile.name), *(warned if narrow else ())],
            alternatives=[("float32", book.say("precision.not_float32"))] if narrow else (),
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


def room_of(inputs: Inputs, profile: DeviceProfile, family: str, book: Book) -> Room:
    """What of the machine a training of a model of that family may use."""
    device = inputs.hardware.device
    precision, attention = precision_of(profile, family, book), attention_of(profile, book)
    share = float(table("rules")["memory"]["share_cpu" if inputs.on_cpu else "share"])
    alike, link = alike_of(inputs.hardware)
    free = min(one.free_bytes for one in alike)
    return Room(
        device=device,
        bytes=int(free * share),
        devices=len(alike),
        link=link,
        liger=profile.liger,
        attention=attention,
        precision=precision,
        optimizer=profile.optimizer,
    )


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
        grouped=_yes_or_no(inputs, "group_by_length"),
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
        layout: how Megatron divides the devices, where it is Megatron that shares the training.
        memory_probe: steps on the longest rows come before the search.
    """

    fit: Fit
    room: Room
    need: Need
    others: tuple[Fit, ...]
    profile: DeviceProfile
    layout: Layout | None = None
    memory_probe: bool = False


_profile = Kept(lambda hardware: device_profile(hardware, packages=hardware.packages))


def settle_fit(inputs: Inputs, model: ModelChoice, need: Need, book: Book) -> Way:
    """The fastest way to train that fits.

    Raises:
        InputError: when nothing fits, or the user asked for a method that does not exist here.
    """
    device = inputs.hardware.device
    profile = _profile(inputs.hardware)
    shape = shape_of(model)
    room = room_of(inputs, profile, shape.family, book)
    quantized = device.kind == "cuda" and "bnb-nf4" in profile.quantization
    fixed = inputs.task.options
    wanted = str(fixed.get("method", ""))
    if wanted and (wanted not in METHODS or (wanted == "qlora" and not quantized)):
        raise InputError(*explain("decide.method", method=wanted))
    offered: tuple[Method, ...] = ("lora", "qlora") if quantized else ("lora",)
    methods = (wanted,) if wanted in METHODS else offered
    room = replace(room, margins=_factors(inputs, shape))
    # Megatron shares what would otherwise be shared by FSDP, and packs no weights into 4 bits.
    asks_megatron = need.sharding == MEGATRON
    if asks_megatron and not wanted:
        methods = ("lora",)
    need = replace(need, sharding=None) if asks_megatron else need
    found = ways(shape, methods, need, room)
    gib = f"{room.bytes / 2**30:.1f}"
    if not found:
        least = smallest(shape, methods, need, room)
        raise does_not_fit(model.id, shape, least.needed_bytes, room.bytes, inputs, need.length)
    best, layout, not_megatron = with_megatron(found, inputs, model, room, book, wanted=asks_megatron)
    refused = [
        (method, _why_not(method, best, found, shape, need, room, book))
        for method in METHODS
        if method != best.method and not book.silent
    ]
    book.add(
        "method",
        str(best.method),
        _method_why(best, found, gib, book),
        evidence=[
            book.fact("peak_gib", round(best.estimate.peak_bytes / 2**30, 2), _peak_in_words(best, book)),
            book.fact("room_gib", round(room.bytes / 2**30, 2), book.say("method.room", room=gib)),
            *_margin_told(margin_for(inputs.margins, shape.family, best.method), book),
        ],
        alternatives=() if wanted else refused,
        levers=("hardware.devices.0.free_bytes",),
        source="formula",
    )
    _say_liger(best, room, book)
    _say_grouping(best, room, need, book)
    _say_sharing(best, found, room, book, not_megatron)
    tried = _say_memory_probe(room, book)
    rest = tuple(found[1:])
    return Way(fit=best, room=room, need=need, others=rest, profile=profile, layout=layout, memory_probe=tried)


def _factors(inputs: Inputs, shape: ModelShape) -> tuple[tuple[Method, float], ...]:
    """By method, the factor on predicted memory that measured trainings ask for; without those that change nothing."""
    found = ((method, margin_for(inputs.margins, shape.family, method)) for method in METHODS)
    return tuple((method, margin.factor) for method, margin in found if margin is not None and margin.factor != 1.0)


def _margin_told(margin: Margin | None, book: Book) -> list[Evidence]:
    if margin is None:
        return []
    seen = f"{margin.low:.2f}" if margin.low == margin.high else f"{margin.low:.2f}–{margin.high:.2f}"
    words = book.say(f"margin.{margin.source}", count=margin.count, seen=seen, factor=f"{margin.factor:.3g}")
    return [book.fact("memory_factor", margin.factor, words)]


def _say_memory_probe(room: Room, book: Book) -> bool:
    """Whether two steps on the longest rows come before the search: where an allocator tells its peak."""
    wanted = room.device.kind != "cpu"
    because = book.say("memory_probe.on" if wanted else "memory_probe.off")
    return bool(book.add("memory_probe", wanted, because, levers=("hardware.devices.0.kind",)))


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


def _say_liger(best: Fit, room: Room, book: Book) -> None:
    """Where Liger's kernels are installed: whether they are used.

    Raises:
        InputError: when the user wants them and they do not run here.
    """
    wanted = "use_liger_kernel" in book.options
    if not room.liger and wanted and best.liger:
        raise InputError(*explain("decide.no_liger", device=room.device.name))
    if room.liger or wanted:
        why = book.say("liger.on" if best.liger else "liger.off")
        book.add("use_liger_kernel", best.liger, why, source="formula")


def _say_grouping(best: Fit, room: Room, need: Need, book: Book) -> None:
    """Where a pass on a device holds several rows: whether rows of like length go together."""
    if need.grouped is None and (best.micro_batch <= 1 or room.device.kind == "cpu"):
        return
    random, sorted_ = (
        padded_length(need.rows, best.micro_batch, need.length, grouped=grouped) for grouped in (False, True)
    )
    words = {"mean": f"{need.rows.mean:.0f}", "random": f"{random:.0f}", "sorted": f"{sorted_:.0f}"}
    book.add(
        "group_by_length",
        best.grouped,
        book.say("grouping.on" if best.grouped else "grouping.off", **words),
        evidence=[book.fact("padded_tokens", round(random, 1), book.say("grouping.padded", **words))],
        alternatives=[(not best.grouped, book.say("grouping.not_off" if best.grouped else "grouping.not_on"))],
        levers=("tokens.rows.max",),
        source="formula",
    )


def _say_sharing(best: Fit, found: Sequence[Fit], room: Room, book: Book, not_megatron: str) -> None:
    """With several devices: whether one training takes them all, and how."""
    if room.devices < 2:
        return
    because: str = "alone" if best.devices == 1 else "together" if best.sharding != MEGATRON else MEGATRON
    alone = any(one.devices == 1 for one in found)
    others = [("fsdp", "not_fsdp")] if best.devices == 1 else [("none", "none_4_bit" if alone else "not_none")]
    because = "together_16" if because == "together" and alone else because
    others += [("fsdp", "fsdp_not_megatron")] if because == MEGATRON else []
    book.add(
        "sharding",
        str(best.sharding),
        book.say(f"sharding.{because}", devices=room.devices if best.devices == 1 else best.devices),
        alternatives=[
            *((value, book.say(f"sharding.{why}")) for value, why in others),
            *([(MEGATRON, not_megatron)] if not_megatron else []),
        ],
        levers=("hardware.devices.0.free_bytes",),
        source="formula",
    )
