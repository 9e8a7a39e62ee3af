"""`fit`: does a training fit a device, and how fast would it be?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoswift.cli.inspect import Batch, batch_rows
from autoswift.cli.options import Command, Json, say
from autoswift.errors import AutoSwiftError, InputError, ModelError

if TYPE_CHECKING:
    from autoswift.domain.profile import Device
    from autoswift.hardware.shape import ModelShape

GIB = 2**30
METHODS = ("full", "lora", "qlora")
FOUR_BITS = frozenset({"4", "4bit", "4-bit", "int4", "nf4", "bnb", "bnb4", "bnb_4bit", "bnb-4bit"})
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
    quant: Annotated[str | None, _given("quant", "--quant", "4bit")] = None,
    checkpointing: Annotated[
        bool | None,
        typer.Option("--gradient-checkpointing/--no-gradient-checkpointing", help="cli.opt.fit.gradient_checkpointing"),
    ] = None,
    optimizer: Annotated[str | None, _given("optimizer", "--optimizer", "NAME")] = None,
    precision: Annotated[str | None, _given("precision", "--precision", "NAME")] = None,
    attention: Annotated[str | None, _given("attention", "--attention", "NAME")] = None,
    n_gpus: Annotated[int | None, _given("n_gpus", "--n-gpus", "N")] = None,
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
        "gradient_checkpointing": checkpointing,
        "optimizer": optimizer,
        "precision": precision,
        "attention": attention,
        "n_gpus": n_gpus,
    }
    answer = estimate({name: value for name, value in row.items() if value is not None})
    if as_json:
        print_json(answer)
    else:
        from autoswift.cli.facts import fit_view

        console().print(fit_view(answer))


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
    from autoswift.hardware.memory import MemorySettings, peak_memory
    from autoswift.hardware.speed import training_tokens_per_second

    assumed: list[str] = []
    device = _device(row, assumed)
    defaults = DEFAULTS | {"precision": "float32" if device is not None and device.kind == "cpu" else "bfloat16"}
    asked = {name: value for name, value in row.items() if value is not None}
    assumed += [f"{name}={str(value).lower()}" for name, value in defaults.items() if name not in asked]
    full: dict[str, Any] = defaults | asked
    method = _method(full)
    shape = _shape(asked, assumed)
    numbers = {name: _positive(full, name) for name in ("length", "micro_batch", "rank", "n_gpus")}
    settings = MemorySettings(
        length=numbers["length"],
        micro_batch=numbers["micro_batch"],
        rank=numbers["rank"],
        gradient_checkpointing=bool(full["gradient_checkpointing"]),
        optimizer=str(full["optimizer"]),
        precision=_precision(str(full["precision"])),
        attention=str(full["attention"]),
        device=device.kind if device is not None else "cuda",
        accumulates=_positive(full, "gradient_accumulation_steps") > 1,
    )
    if numbers["n_gpus"] > 1:
        assumed.append(say("fit.ddp"))
    found = peak_memory(shape, method, settings)
    assumed += [say("fit.part_assumed", name=name) for name in found.assumed]
    rate = 0.0
    if device is not None:
        rate = training_tokens_per_second(
            shape,
            method,
            device,
            length=settings.length,
            micro_batch=settings.micro_batch,
            checkpointing=settings.gradient_checkpointing,
        )
    return {
        "model": asked.get("model"),
        "method": method,
        "peak_gib": round(found.peak_bytes / GIB, 4),
        "low": round(found.low / GIB, 4),
        "high": round(found.high / GIB, 4),
        "reserved_gib": round(found.reserved_bytes / GIB, 4),
        "device_gib": round(found.device_bytes / GIB, 4),
        "fits": found.device_bytes <= device.memory_bytes if device is not None and device.memory_bytes else None,
        "parts": {name: round(value / GIB, 4) for name, value in found.parts.items()},
        "seconds_per_step": round(settings.length * settings.micro_batch / rate, 4) if rate > 0 else None,
        "assumed": assumed,
    }


def _positive(row: Mapping[str, Any], name: str) -> int:
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1:
        raise InputError(say("fit.bad_value", name=name, value=value), "", say("fit.bad_value_fix", name=name))
    return int(value)


def _precision(name: str) -> str:
    known = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32"}
    found = known.get(name.lower(), name.lower())
    if found not in ("bfloat16", "float16", "float32"):
        raise InputError(say("fit.bad_value", name="precision", value=name), "", say("fit.precisions"))
    return found


def _method(row: Mapping[str, Any]) -> Any:
    """The method; a LoRA on 4 bits is QLoRA."""
    method = str(row["method"]).lower()
    if method not in METHODS:
        raise InputError(say("fit.bad_value", name="method", value=method), "", say("fit.methods"))
    quant = str(row.get("quant") or "").lower()
    return "qlora" if method == "lora" and quant in FOUR_BITS else method


def _shape(row: Mapping[str, Any], assumed: list[str]) -> ModelShape:
    """The model's shape: from its folder, the catalogue, `params_b`, or the size in its name.

    Raises:
        ModelError: when nothing says how large it is.
    """
    from autoswift.catalog.models import find
    from autoswift.hardware.shape import shape_of

    name = str(row.get("model") or "")
    if name and (Path(name).expanduser() / "config.json").is_file():
        from autoswift.catalog.folder import inspect_folder

        return shape_of(inspect_folder(Path(name).expanduser().resolve()))
    if name:
        try:
            return shape_of(find(name))
        except ModelError as exc:
            unknown = exc
    billions = row.get("params_b") or _size_in(name)
    if isinstance(billions, bool) or not isinstance(billions, int | float) or not 0 < billions < 100_000:
        raise ModelError(
            say("fit.unknown_model", model=name or "–"), unknown.why if name else "", say("fit.unknown_model_fix")
        )
    assumed.append(say("fit.nearest", model=name or "–", size=f"{billions:g}"))
    return shape_of({"parameters": int(billions * 1e9)})


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
