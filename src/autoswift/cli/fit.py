"""`fit`: does a training fit a device, and how fast would it be?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoswift.cli.inspect import Batch, batch_rows
from autoswift.cli.options import Command, Json, say
from autoswift.errors import AutoSwiftError, InputError, ModelError

if TYPE_CHECKING:
    from autoswift.domain.profile import Device
    from autoswift.hardware.memory import MemoryEstimate, MemorySettings
    from autoswift.hardware.shape import ModelShape

GIB = 2**30
METHODS = ("full", "lora", "qlora")
FOUR_BITS = frozenset(
    {"4", "4bit", "4-bit", "int4", "nf4", "fp4", "bnb", "bnb4", "bnb_4bit", "bnb-4bit", "gptq", "awq"}
)
EIGHT_BITS = frozenset({"8", "8bit", "8-bit", "int8", "llm.int8", "bnb8", "bnb_8bit", "bnb-8bit"})
NO_BITS = frozenset({"", "none", "no", "16", "16bit", "bf16", "fp16", "bfloat16", "float16"})
TARGETS = ("all", "attention", "qv")
TRUE = frozenset({"true", "yes", "on", "1"})
DEFAULTS: dict[str, Any] = {
    "method": "lora",
    "length": 2048,
    "micro_batch": 1,
    "gradient_checkpointing": True,
    "gradient_accumulation_steps": 1,
    "optimizer": "adamw_torch",
    "attention": "sdpa",
    "rank": 16,
    "n_gpus": 1,
}
"""What a row does not say, as ms-swift would train it; each one used is named in `assumed`."""
QUIET: dict[str, Any] = {
    "targets": "all",
    "dropout": 0.0,
    "liger": False,
    "padded": False,
    "sharding": "",
    "expandable_segments": True,
    "adapter_precision": "float32",
}
"""Settings that few name; left out, they are as autoswift trains."""


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    app.command("fit", cls=Command, help="cli.help.fit", rich_help_panel="cli.panel.look")(fit)


def _given(help_key: str, flag: str, metavar: str) -> Any:
    return typer.Option(flag, metavar=metavar, help=f"cli.opt.fit.{help_key}")


def fit(  # noqa: PLR0913 - one parameter an option
    model: Annotated[str | None, _given("model", "--model", "MODEL")] = None,
    gpu: Annotated[str | None, _given("gpu", "--gpu", "NAME")] = None,
    method: Annotated[str | None, _given("method", "--method", "full|lora|qlora")] = None,
    length: Annotated[int | None, _given("length", "--length", "TOKENS")] = None,
    micro_batch: Annotated[int | None, _given("micro_batch", "--micro-batch", "ROWS")] = None,
    params_b: Annotated[float | None, _given("params_b", "--params-b", "BILLIONS")] = None,
    quant: Annotated[str | None, _given("quant", "--quant", "4bit|8bit")] = None,
    rank: Annotated[int | None, _given("rank", "--rank", "N")] = None,
    targets: Annotated[str | None, _given("targets", "--targets", "all|attention|qv")] = None,
    checkpointing: Annotated[
        bool | None,
        typer.Option("--gradient-checkpointing/--no-gradient-checkpointing", help="cli.opt.fit.gradient_checkpointing"),
    ] = None,
    liger: Annotated[bool | None, typer.Option("--liger/--no-liger", help="cli.opt.fit.liger")] = None,
    optimizer: Annotated[str | None, _given("optimizer", "--optimizer", "NAME")] = None,
    precision: Annotated[str | None, _given("precision", "--precision", "NAME")] = None,
    attention: Annotated[str | None, _given("attention", "--attention", "NAME")] = None,
    n_gpus: Annotated[int | None, _given("n_gpus", "--n-gpus", "N")] = None,
    sharding: Annotated[str | None, _given("sharding", "--sharding", "ddp|zero2|zero3|fsdp")] = None,
    batch: Batch = None,
    as_json: Json = False,
) -> None:
    """Estimates memory and time of a training step."""
    from autoswift.cli.output import console, print_json, print_json_line

    if batch is not None:
        for row in batch_rows(batch):
            print_json_line(_answer_or_error(row))
        return
    row = {
        "model": model,
        "gpu": gpu,
        "method": method,
        "length": length,
        "micro_batch": micro_batch,
        "params_b": params_b,
        "quant": quant,
        "rank": rank,
        "targets": targets,
        "gradient_checkpointing": checkpointing,
        "liger": liger,
        "optimizer": optimizer,
        "precision": precision,
        "attention": attention,
        "n_gpus": n_gpus,
        "sharding": sharding,
    }
    answer = estimate({name: value for name, value in row.items() if value is not None})
    if as_json:
        print_json(answer)
        return
    from autoswift.cli.facts import fit_view

    console().print(fit_view(answer))
    for one in answer["saves"][:5]:
        console().print(
            say("fit.saves", what=say(f"fit.lever.{one['lever']}", value=one["value"]), gib=f"{one['saves_gib']:.2f}")
        )


def _answer_or_error(row: dict[str, Any]) -> dict[str, Any]:
    """One row of a batch; a row that cannot be answered says why in its place, so that the order holds."""
    try:
        return estimate(row)
    except AutoSwiftError as exc:
        return exc.as_json()


def estimate(row: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one row of `fit`, in the words of CONTRACTS.

    Raises:
        InputError: when a value in it cannot be, or the size of the model is not known.
    """
    from autoswift.hardware.levers import levers
    from autoswift.hardware.memory import on_card

    assumed: list[str] = []
    device = _device(row, assumed)
    asked = {name: value for name, value in row.items() if value is not None and value != ""}
    full = _with_defaults(asked, device, assumed)
    method, bits = _method(full)
    shape = _shape(asked, assumed)
    settings = _settings(full, device, bits)
    room = _room(device)
    settings, found = _shared(shape, method, settings, asked, room, assumed)
    assumed += [say("fit.part_assumed", name=name) for name in found.assumed]
    assumed += [say("fit.approximated", name=name) for name in found.approximated if name != "family"]
    saves = levers(shape, method, settings, devices=_positive(full, "n_gpus"))
    shown = on_card(found, device.memory_bytes) if device is not None and settings.device != "cpu" else found
    return {
        "model": asked.get("model"),
        "method": method,
        "peak_gib": round(found.peak_bytes / GIB, 4),
        "low": round(shown.low / GIB, 4),
        "high": round(shown.high / GIB, 4),
        "reserved_gib": round(shown.reserved_bytes / GIB, 4),
        "device_gib": round(shown.device_bytes / GIB, 4),
        # It fits when it trains: what the allocator only keeps, it gives back where memory runs short.
        "fits": found.least_bytes <= room if room else None,
        "fits_surely": found.high + found.context_bytes <= room if room else None,
        "room_gib": round(room / GIB, 2) if room else None,
        "parts": {name: round(value / GIB, 4) for name, value in found.parts.items()},
        "sharding": settings.sharding,
        "seconds_per_step": _seconds(shape, method, device, settings),
        "saves": [
            {
                "lever": one.name,
                "value": one.value,
                "saves_gib": round(one.saved_bytes / GIB, 4),
                "device_gib": round(one.estimate.device_bytes / GIB, 4),
                "fits": one.estimate.least_bytes <= room if room else None,
            }
            for one in saves
        ],
        "assumed": assumed,
    }


def _with_defaults(asked: Mapping[str, Any], device: Device | None, assumed: list[str]) -> dict[str, Any]:
    defaults = DEFAULTS | {"precision": "float32" if device is not None and device.kind == "cpu" else "bfloat16"}
    assumed += [f"{name}={str(value).lower()}" for name, value in defaults.items() if name not in asked]
    return QUIET | defaults | dict(asked)


def _settings(full: Mapping[str, Any], device: Device | None, bits: int) -> MemorySettings:
    from autoswift.hardware.memory import MemorySettings

    targets = str(full["targets"])
    if targets not in TARGETS:
        raise InputError(say("fit.bad_value", name="targets", value=targets), "", ", ".join(TARGETS))
    return MemorySettings(
        length=_positive(full, "length"),
        micro_batch=_positive(full, "micro_batch"),
        rank=_positive(full, "rank"),
        targets=targets,
        dropout=_number(full, "dropout"),
        gradient_checkpointing=_switch(full, "gradient_checkpointing"),
        liger=_switch(full, "liger"),
        padded=_switch(full, "padded"),
        expandable_segments=_switch(full, "expandable_segments"),
        adapter_precision=_precision(str(full["adapter_precision"])),
        optimizer=str(full["optimizer"]).lower(),
        precision=_precision(str(full["precision"])),
        attention=str(full["attention"]).lower(),
        device=device.kind if device is not None else "cuda",
        card=device.name if device is not None else "",
        quant_bits=bits or 4,
        accumulates=_positive(full, "gradient_accumulation_steps") > 1,
    )


def _shared(
    shape: ModelShape, method: Any, settings: MemorySettings, asked: Mapping[str, Any], room: int, assumed: list[str]
) -> tuple[MemorySettings, MemoryEstimate]:
    """The settings with their sharding, and the estimate: what was asked for, else the simplest that fits."""
    from autoswift.hardware.memory import peak_memory
    from autoswift.hardware.sharding import SHARDINGS

    devices = _positive({"n_gpus": 1} | dict(asked), "n_gpus")
    named = str(asked.get("sharding") or "").lower().replace("-", "").replace("_", "")
    if named and named not in SHARDINGS:
        raise InputError(say("fit.bad_value", name="sharding", value=named), "", ", ".join(SHARDINGS))
    if devices == 1:
        return settings, peak_memory(shape, method, settings)
    tries = [named] if named else ["ddp", "zero2", "zero3"]
    for kind in tries:
        changed = replace(settings, devices=devices, sharding=kind)
        found = peak_memory(shape, method, changed)
        if found.high + found.context_bytes <= room:
            break
    if not named:
        assumed.append(f"sharding={changed.sharding}")
    return changed, found


def _seconds(shape: ModelShape, method: Any, device: Device | None, settings: MemorySettings) -> float | None:
    """Of one micro-batch on each device; None where the device's rate is not known."""
    from autoswift.hardware.speed import training_tokens_per_second

    if device is None:
        return None
    rate = training_tokens_per_second(
        shape,
        method,
        device,
        length=settings.length,
        micro_batch=settings.micro_batch,
        checkpointing=settings.gradient_checkpointing,
    )
    return round(settings.length * settings.micro_batch / rate, 4) if rate > 0 else None


def _positive(row: Mapping[str, Any], name: str) -> int:
    value = row[name]
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < 1e12:
        raise InputError(say("fit.bad_value", name=name, value=value), "", say("fit.bad_value_fix", name=name))
    return int(value)


def _number(row: Mapping[str, Any], name: str) -> float:
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise InputError(say("fit.bad_value", name=name, value=value), "", "0 … 1")
    return float(value)


def _switch(row: Mapping[str, Any], name: str) -> bool:
    value = row[name]
    return value.strip().lower() in TRUE if isinstance(value, str) else bool(value)


def _precision(name: str) -> str:
    """The compute precision; LitGPT's and Lightning's spellings too."""
    word = re.sub(r"[-_](true|mixed)$", "", name.lower())
    known = {
        "bf16": "bfloat16",
        "fp16": "float16",
        "16": "float16",
        "half": "float16",
        "fp32": "float32",
        "32": "float32",
        "tf32": "float32",
        "float": "float32",
    }
    found = known.get(word, word)
    if found not in ("bfloat16", "float16", "float32"):
        raise InputError(say("fit.bad_value", name="precision", value=name), "", say("fit.precisions"))
    return found


def _method(row: Mapping[str, Any]) -> tuple[Any, int]:
    """The method and the bits of its base; a LoRA on 4 or 8 bits is QLoRA.

    Raises:
        InputError: when there is no such method or quantization.
    """
    method = str(row["method"]).lower().replace("-", "")
    method = {"fullparameter": "full", "sft": "full", "longlora": "lora", "dora": "lora"}.get(method, method)
    if method not in METHODS:
        raise InputError(say("fit.bad_value", name="method", value=method), "", say("fit.methods"))
    quant = str(row.get("quant") or "").lower()
    word = quant.removeprefix("bnb.").removesuffix("-dq")
    bits = 8 if word in EIGHT_BITS else 4 if word in FOUR_BITS or method == "qlora" else 0
    if not bits and word not in NO_BITS:
        raise InputError(say("fit.bad_value", name="quant", value=quant), "", say("fit.quants"))
    return ("qlora", bits) if bits and method != "full" else (method, bits)


def _shape(row: Mapping[str, Any], assumed: list[str]) -> ModelShape:
    """The model's shape: from its folder, the catalogue, the well-known ones, `params_b`, or the size in its name.

    Raises:
        ModelError: when nothing says how large it is.
    """
    from autoswift.catalog.models import find
    from autoswift.hardware.shape import shape_by_name, shape_of

    name = str(row.get("model") or "")
    if name and (Path(name).expanduser() / "config.json").is_file():
        from autoswift.catalog.folder import inspect_folder

        return shape_of(inspect_folder(Path(name).expanduser().resolve()))
    why, facts = "", None
    if name:
        try:
            facts = find(name)
        except ModelError as exc:
            why = exc.why
    if facts is not None and facts.layers and facts.parameters:
        return shape_of(facts)
    known = shape_by_name(name) if name else None
    if known is not None:
        return known
    billions = row.get("params_b") or (facts.parameters / 1e9 if facts is not None else None) or _size_in(name)
    if isinstance(billions, bool) or not isinstance(billions, int | float) or not 0 < billions < 100_000:
        raise ModelError(say("fit.unknown_model", model=name or "–"), why, say("fit.unknown_model_fix"))
    assumed.append(say("fit.nearest", model=name or "–", size=f"{billions:g}"))
    return shape_of({"parameters": int(billions * 1e9), "model_type": facts.model_type if facts is not None else name})


def _size_in(name: str) -> float | None:
    """Billions of parameters as a model's name says them: `7B`, `0.5b`, `135M`."""
    found = re.search(r"(?<![\d.a-zA-Z])(\d+(?:\.\d+)?)([bBmM])(?![a-zA-Z])", name)
    if found is None:
        return None
    return float(found[1]) / (1000.0 if found[2] in "mM" else 1.0)


def _device(row: Mapping[str, Any], assumed: list[str]) -> Device | None:
    """The device by its name; an unknown one by the memory in its name; without a name, this machine's."""
    from autoswift.domain.profile import Device
    from autoswift.hardware.devices import lookup

    name = str(row.get("gpu") or "")
    if not name or name.lower() == "cpu":
        from autoswift.hardware.probe import probe
        from autoswift.run.places import home

        place = home()
        while not place.is_dir():
            place = place.parent
        devices = probe(place).devices
        found = next((d for d in devices if d.kind == "cpu"), devices[-1]) if name else devices[0]
        if not name:
            assumed.append(say("fit.this_machine", name=found.name))
        return found
    facts = lookup(name)
    if facts is not None:
        return facts.device()
    memory = re.search(r"(\d+)\s*[gG](?:i?[bB])?\b", name)
    assumed.append(say("fit.unknown_gpu", gpu=name))
    if memory is None:
        return None
    size = int(memory[1]) * GIB
    return Device(kind="cuda", name=name, memory_bytes=size, free_bytes=size, bf16=True)


def _room(device: Device | None) -> int:
    """Bytes of the device that processes can have; 0 when not known."""
    from autoswift.hardware.memory import usable_bytes

    return usable_bytes(device.name, device.kind, device.memory_bytes) if device is not None else 0
