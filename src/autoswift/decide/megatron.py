"""Whether one training is shared by Megatron instead of FSDP, and why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autoswift.decide.book import Book
from autoswift.decide.fit import Fit, Room
from autoswift.decide.inputs import Inputs
from autoswift.domain.plan import ModelChoice
from autoswift.errors import InputError
from autoswift.hardware.megatron import Layout, builds, divisor, layout_of, missing
from autoswift.hardware.memory import MemoryEstimate
from autoswift.hardware.shape import ModelShape, shape_of
from autoswift.tables import explain, table

NAME = "megatron"


def with_megatron(
    found: Sequence[Fit], inputs: Inputs, model: ModelChoice, room: Room, book: Book, *, wanted: bool
) -> tuple[Fit, Layout | None, str]:
    """The way shared by Megatron where that is sensible or the user wants it.

    It is where a training needs several devices anyway and the model is a mixture of experts (transformers works on its
    experts one after the other, Megatron on all at once) or very large. Its time is told as FSDP's, which is no
    shorter: no Megatron training has been timed here.

    Args:
        found: the ways that fit, the best first. room: that they were found in.
        wanted: the user asks for it.

    Returns:
        The way, how the devices are divided (None: not by Megatron), and why not in words.

    Raises:
        InputError: when the user asks for Megatron and it cannot be.
    """
    best, shape = found[0], _shape(inputs, model)
    other = _sixteen_bits(found, inputs, shape)
    layout, why_not = _possible(other, inputs, model, room, book, wanted=wanted)
    if layout is None:
        if wanted:
            raise InputError(*explain("decide.no_megatron", why=why_not, model=model.id))
        return best, None, why_not
    other = next((one for one in found if one.devices == room.devices and one.method == other.method), other)
    estimate = _estimate(other, divisor(shape, layout), max(1, other.devices))
    if not wanted and estimate.high > room.bytes:
        return best, None, book.say("megatron.too_large", need=f"{estimate.high / 2**30:.1f}")
    return replace(other, sharding=NAME, devices=layout.devices, estimate=estimate), layout, ""  # type: ignore[arg-type]


def _shape(inputs: Inputs, model: ModelChoice) -> ModelShape:
    """The model's shape with its experts, which the plan's own choice does not tell."""
    known = (inputs.folder,) if inputs.folder is not None else inputs.models
    return shape_of(next((one for one in known if one.id == model.id), model))


def _sixteen_bits(found: Sequence[Fit], inputs: Inputs, shape: ModelShape) -> Fit:
    """The best way, or of a mixture that several devices share the best one on 16-bit weights.

    transformers keeps a layer's experts in one tensor, which 4-bit loading leaves as it is: what QLoRA seems to gain
    there it does not.
    """
    best = found[0]
    if best.method != "qlora" or best.devices < 2 or not shape.mixture or "method" in inputs.task.options:
        return best
    return next((one for one in found if one.method != "qlora" and one.devices > 1), best)


def _possible(
    best: Fit, inputs: Inputs, model: ModelChoice, room: Room, book: Book, *, wanted: bool
) -> tuple[Layout | None, str]:
    """The layout, or why there is none: first what no one can change, then what installing would."""
    shape, facts = _shape(inputs, model), table("megatron")
    if room.devices < 2:
        return None, book.say("megatron.one_device")
    if not builds(model.model_type):
        return None, book.say("megatron.no_type", type=model.model_type or "?")
    if best.method == "qlora" or room.precision != "bfloat16":
        return None, book.say("megatron.no_method")
    if not wanted and best.devices < 2:
        return None, book.say("megatron.fits_one")
    if not wanted and not shape.mixture and shape.parameters < float(facts["dense_from"]):
        return None, book.say("megatron.small", least=f"{float(facts['dense_from']) / 1e9:.0f}")
    layout = layout_of(shape, model.model_type, room.devices, room.link)
    if layout is None:
        return None, book.say("megatron.no_layout", devices=room.devices)
    lacking = missing(inputs.hardware.packages)
    if lacking:
        return None, book.say("megatron.missing", packages=", ".join(lacking), install=facts["install"])
    return layout, ""


def _estimate(best: Fit, shared: float, before: int) -> MemoryEstimate:
    """The memory with the weights, gradients and states divided by Megatron instead.

    FSDP's own estimate has them divided by the number of devices and a layer gathered; activations are left whole, so
    this is an upper bound where tensor parallelism divides those too.
    """
    estimate = best.estimate
    grown = {name: estimate.parts.get(name, 0) for name in ("weights", "adapter", "optimizer")}
    times = (before if best.devices > 1 else 1) / shared
    more = int(sum(grown.values()) * (times - 1))
    parts = estimate.parts | {name: int(value * times) for name, value in grown.items()}
    return replace(
        estimate,
        parts=parts,
        peak_bytes=estimate.peak_bytes + more,
        reserved_bytes=estimate.reserved_bytes + more,
        device_bytes=estimate.device_bytes + more,
        low=estimate.low + more,
        high=estimate.high + more,
    )
