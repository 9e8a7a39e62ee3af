"""What is said when a model does not fit: how much it needs, and every way that would train it, with its cost."""

from __future__ import annotations

from autoswift.catalog.models import ModelFacts, all_models
from autoswift.decide.inputs import Inputs
from autoswift.errors import InputError
from autoswift.hardware.memory import MemorySettings, peak_memory
from autoswift.hardware.shape import ModelShape, shape_of
from autoswift.hardware.ways import SmallerModel, nf4_text, ways_out
from autoswift.tables import explain

LENGTH = 512
"""Tokens of a row where the data's are not known yet: usual dialogues."""


def does_not_fit(
    name: str, shape: ModelShape, need: int, room: int, inputs: Inputs, length: int = LENGTH
) -> InputError:
    """The error with the ways out.

    Args:
        name: of the model. shape: its.
        need, room: bytes of its least training, and bytes that may be used.
        inputs: of the plan.
        length: tokens of the longest row.
    """
    language = inputs.task.language
    device = inputs.hardware.device
    settings = MemorySettings(
        length=length, micro_batch=1, device=device.kind, precision="bfloat16" if device.bf16 else "float16"
    )
    ways = ways_out(shape, need, inputs.hardware, settings, smaller=_smaller(name, shape))
    listed = "\n".join(f"- {way.sentence(language)}" for way in ways)
    facts = {"need": need / 2**30, "room": room / 2**30, "nf4": nf4_text(shape, inputs.hardware, language)}
    return InputError(*explain("decide.memory", model=name, ways=listed, **facts))


def named_does_not_fit(facts: ModelFacts, inputs: Inputs) -> InputError:
    """The same for a model that the user named, before anything else is known of the training."""
    shape, device = shape_of(facts), inputs.hardware.device
    settings = MemorySettings(
        length=LENGTH, micro_batch=1, device=device.kind, precision="bfloat16" if device.bf16 else "float16"
    )
    least = peak_memory(shape, "qlora" if device.kind == "cuda" else "lora", settings).high
    return does_not_fit(facts.id, shape, least, device.free_bytes, inputs)


def _smaller(name: str, shape: ModelShape) -> list[SmallerModel]:
    """Curated chat models below it: of the same family first, the largest first."""
    below = [m for m in all_models() if m.kind == "chat" and 0 < m.parameters < shape.parameters]
    family = name.lower().rpartition("/")[2].partition("-")[0]
    below.sort(key=lambda m: (not m.id.startswith(family), -m.parameters, m.id))
    return [SmallerModel(id=one.id, values=one) for one in below]
