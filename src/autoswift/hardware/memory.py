"""What a training step needs in memory, in closed form.

The peak is the largest of the moments of a step, each a sum of what is alive then: the weights, the adapters, the
optimizer's states, and what the trace of such a step had alive beside them (`activations`); or it is the optimizer's
update. The moments come from traces of live storages, so the sum is a trace's to a thousandth. On an H100 it was 0.01 %
off max_memory_allocated (median of 53 cells; 95th percentile 0.09 %), with expandable segments, and up to 1.5 % without
them, where blocks end in an unsplit rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from autoswift.domain.plan import Method
from autoswift.domain.profile import GIB
from autoswift.hardware.activations import Moment, Recipe, layer_bytes, moments, nearest
from autoswift.hardware.shape import ModelShape
from autoswift.hardware.sharding import Shards, shards_of
from autoswift.tables import table

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Per weight: 4 bits, a byte a block of 64 for its scale, and a float32 for 256 scales."""
INT8_BYTES = 1.0
"""Per weight; the float32 scale of a row is nothing beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    """What of a training's settings its memory depends on.

    Attributes:
        length: tokens in a row. micro_batch: rows in a forward pass.
        rank: of the LoRA; unused for `full`. targets: all, attention or qv. dropout: of the LoRA.
        precision: float32, bfloat16 or float16. attention: sdpa, flash_attn or eager.
        device: cuda npu mps cpu. card: its name, for the size of the libraries' workspace.
        liger: Liger's kernels, the fused loss among them. fused_loss: the same, under its older name.
        accumulates: gradients of earlier micro-batches are kept during the next (gradient accumulation above 1).
        padded: rows of a micro-batch differ in length, so that attention needs a mask.
        adapter_precision: float32 as ms-swift keeps them; bfloat16 for a trainer without autocast.
        quant_bits: 4 or 8, of the base in `qlora`.
        expandable_segments: the allocator may grow its segments (PYTORCH_CUDA_ALLOC_CONF).
        devices, sharding: number of devices, and none, ddp, zero2, zero3 or fsdp.
        extra_trained: further weights trained as copies in the adapters' precision (an embedding, say).
    """

    length: int
    micro_batch: int = 1
    rank: int = 16
    gradient_checkpointing: bool = True
    optimizer: str = "adamw_torch"
    precision: str = "bfloat16"
    attention: str = "sdpa"
    device: str = "cuda"
    fused_loss: bool = False
    accumulates: bool = True
    targets: str = "all"
    dropout: float = 0.0
    card: str = ""
    liger: bool = False
    padded: bool = False
    adapter_precision: str = "float32"
    quant_bits: int = 4
    expandable_segments: bool = True
    devices: int = 1
    sharding: str = "none"
    extra_trained: int = 0

    @property
    def tokens(self) -> int:
        """Tokens in a forward pass."""
        return self.length * self.micro_batch

    @property
    def width(self) -> int:
        """Bytes of a number at the compute precision."""
        return 4 if self.precision == "float32" else 2


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes of the peak on one device.

    Attributes:
        parts: weights adapter gradients optimizer activations logits workspace; they sum to the peak.
        peak_bytes: live tensors (what torch's max_memory_allocated says).
        reserved_bytes: with the allocator's slack; `low` and `high` bound it. On a CPU: the process's resident size.
        device_bytes: with the context (what nvidia-smi shows); on a CPU the same as reserved.
        context_bytes: of `device_bytes`, what is not the allocator's.
        least_bytes: on the device when memory runs short: the allocator then gives back what it only keeps.
        moment: loss, layer or update: when the peak is reached.
        assumed: what of the model's shape was not known.
        approximated: what of the settings has no trace of its own and was taken from the nearest that has.
    """

    parts: dict[str, int] = field(default_factory=dict)
    peak_bytes: int = 0
    reserved_bytes: int = 0
    device_bytes: int = 0
    low: int = 0
    high: int = 0
    context_bytes: int = 0
    least_bytes: int = 0
    moment: str = ""
    assumed: tuple[str, ...] = ()
    approximated: tuple[str, ...] = ()


def peak_memory(shape: ModelShape, method: Method, settings: MemorySettings) -> MemoryEstimate:
    """The peak of a training step.

    Args:
        shape: of the base model.
        method: full, lora or qlora.
        settings: of the training.
    """
    count = trained_parameters(shape, method, settings)
    width = _trained_width(method, settings)
    shards = shards_of(shape, settings.sharding, settings.devices, trained=count, adapter=method != "full")
    recipe = recipe_of(shape, method, settings)
    states, paged = _states(shape, method, settings, count, width)
    resident = {
        "weights": weight_bytes(shape, method, settings.precision, settings.quant_bits) / shards.weights,
        "adapter": 0.0 if method == "full" else count * width / shards.weights,
        "optimizer": states / shards.optimizer + shards.master_bytes,
        "workspace": _workspace(settings) + shards.buffers,
    }
    gradients = count * width / shards.gradients
    traced = moments(recipe, shape, settings.micro_batch, settings.length, settings.rank)
    found = [_alive(one, gradients, settings, shards) for one in traced]
    found.append(_update(shape, settings, count / shards.optimizer, gradients, width))
    top = max(found, key=lambda one: one.total)
    layer = layer_bytes(recipe, shape, settings.micro_batch, settings.length, settings.rank)
    # What is reserved is never given back while there is room: its peak may be another moment's.
    holes = [_holes(shape, method, settings, (gradients, layer), logits=logits) for logits in (False, True)]
    reserved = max(one.total + holes[one.logits > 0] for one in found)
    if method == "full":
        if top.logits > 0:
            reserved += float(_slack(settings)["freed"]) * max(gradients - top.activations, 0.0)
        reserved = max(reserved, *(_refilled(shape, settings, one, found[-1], gradients) for one in found[:-1]))
    parts = {name: int(value) for name, value in resident.items()}
    parts |= {"gradients": int(top.gradients), "activations": int(top.activations), "logits": int(top.logits)}
    moment = "update" if top is found[-1] else "loss" if top.logits > 0 else "layer"
    kept = reserved - top.total
    return _estimate(parts, moment, shape, settings, (paged / shards.optimizer, kept, layer), nearest(recipe)[1])


def recipe_of(shape: ModelShape, method: Method, settings: MemorySettings) -> Recipe:
    """Which traces the settings ask for."""
    attention = "eager" if settings.attention == "eager" else "fused"
    if settings.padded and attention == "fused" and not settings.attention.startswith("flash"):
        attention = "mask"  # a flash kernel takes the rows' lengths instead
    return Recipe(
        family=shape.family,
        method=method,
        precision="32" if settings.precision == "float32" else "16",
        checkpointing=settings.gradient_checkpointing,
        attention=attention,
        liger=settings.liger or settings.fused_loss,
        targets="attention" if shape.mixture and settings.targets == "all" else settings.targets,
        dropout=settings.dropout > 0 and method != "full",
        adapter="pure" if settings.adapter_precision != "float32" and method != "full" else "",
        tied=shape.tied,
    )


def trained_parameters(shape: ModelShape, method: Method, settings: MemorySettings) -> int:
    """Weights that get gradients."""
    if method == "full":
        return shape.parameters
    return shape.lora_parameters(settings.rank, settings.targets) + settings.extra_trained


def weight_bytes(shape: ModelShape, method: Method, precision: str, quant_bits: int = 4) -> int:
    """The base model's weights; QLoRA packs the layers' linear maps and keeps the others in the given precision."""
    width = 4 if precision == "float32" else 2
    if method != "qlora":
        return shape.parameters * width
    packed = shape.packed_parameters
    return int((shape.parameters - packed) * width + packed * (NF4_BYTES if quant_bits == 4 else INT8_BYTES))


def usable_bytes(name: str, kind: str, memory_bytes: int) -> int:
    """What processes can have of a device's memory.

    A card is sold in round numbers; error correction and the driver take their part before any process does.

    Args:
        name: of the device. kind: cuda npu mps cpu.
        memory_bytes: as sold, or as a probe reads it: a number of whole GiB is taken as sold.
    """
    facts = table("memory")["usable"]
    if kind not in ("cuda", "npu"):
        return memory_bytes
    if memory_bytes % GIB:
        return int(memory_bytes * float(facts["probed"]))
    words = set(name.lower().replace("-", " ").replace("_", " ").split())
    checked = any(card in words for card in facts["error_correcting"])
    return int(memory_bytes * float(facts["corrected" if checked else "sold"]))


def on_card(estimate: MemoryEstimate, memory_bytes: int) -> MemoryEstimate:
    """The estimate with its bounds as a card of that size shows them.

    A card never shows more reserved than it has: where memory runs short, the allocator first gives back what it only
    keeps. An estimate whose live tensors alone are larger stays as it is.

    Args:
        estimate: of one device. memory_bytes: as sold, or as a probe reads it.
    """
    most = memory_bytes - estimate.context_bytes
    if estimate.peak_bytes > most or estimate.high <= most:
        return estimate
    reserved = min(estimate.reserved_bytes, most)
    return replace(
        estimate, reserved_bytes=reserved, high=most, device_bytes=reserved + estimate.context_bytes,
        low=min(estimate.low, reserved),
    )  # fmt: skip


def _trained_width(method: Method, settings: MemorySettings) -> int:
    """Bytes of a trained number: ms-swift keeps adapters in float32; full training follows the model."""
    if method == "full":
        return settings.width
    return 4 if settings.adapter_precision == "float32" else 2


def _optimizer(settings: MemorySettings) -> dict[str, Any]:
    known: dict[str, dict[str, Any]] = table("memory")["optimizers"]
    return known.get(settings.optimizer, known["adamw_torch"])


def _states(shape: ModelShape, method: Method, settings: MemorySettings, count: int, width: int) -> tuple[float, float]:
    """Bytes of the optimizer's states: in torch's memory, and in pages that the driver moves in and out."""
    facts = _optimizer(settings)
    size = count * (float(facts["copies"]) * width + float(facts["bytes"]))
    if facts.get("embedding_full") and method == "full":  # the trainer keeps an embedding's states in 32 bits
        size += shape.embedding * (8.0 - float(facts["bytes"]))
    return (0.0, size) if facts.get("paged") else (size, 0.0)


def _alive(moment: Moment, gradients: float, settings: MemorySettings, shards: Shards) -> Moment:
    """A moment of forward or backward with the gradients that are alive then.

    A trace starts without gradients. With accumulation they are all there from the micro-batch before, and what a
    trace has of them late in backward are those same ones.
    """
    extra = gradients if settings.accumulates and not moment.late else 0.0
    own = moment.gradients / (shards.gradients if moment.late else 1.0) + extra + shards.gathered
    return Moment(moment.activations, moment.logits, own, moment.late)


def _update(shape: ModelShape, settings: MemorySettings, count: float, gradients: float, width: int) -> Moment:
    """The optimizer's step: gradients, and a temporary copy where it works on all tensors at once."""
    copies = float(_optimizer(settings)["temporary"])
    # On a CPU torch updates one tensor after the other: the temporary is at most the embedding.
    temporary = min(count, shape.embedding) * width if settings.device == "cpu" else count * width * copies
    return Moment(0.0, 0.0, gradients + temporary, True)


def _workspace(settings: MemorySettings) -> float:
    """Buffers of the libraries that torch's allocator hands out."""
    if settings.device != "cuda":
        return 0.0
    facts = table("memory")["workspace"]
    card = settings.card.lower()
    large = any(name in card for name in facts["large_names"])
    return float(facts["large_mib"] if large else facts["mib"]) * 2**20


def _slack(settings: MemorySettings) -> dict[str, Any]:
    found: dict[str, Any] = table("memory")["reserved"]["expandable" if settings.expandable_segments else "plain"]
    return found


def _kind(settings: MemorySettings) -> str:
    """Of step, as the table names it."""
    fused = settings.liger or settings.fused_loss
    return ("liger_" if fused else "") + ("checkpointed" if settings.gradient_checkpointing else "kept")


def _holes(
    shape: ModelShape, method: Method, settings: MemorySettings, sizes: tuple[float, float], *, logits: bool
) -> float:
    """Bytes that the allocator keeps at most beside what is alive at a moment.

    Without expandable segments two freed segments never become one, so that the 16-bit logits leave a hole that their
    float32 copies do not fit into. With them freed neighbours join; but cuBLAS's workspace of backward, made in the
    first step right behind the 16-bit logits, stays there, and what later steps put before it (optimizer states, other
    pieces) may leave too little room for the logits: then their place, too, is lost, as large as a float32 copy
    together. Besides, about a layer's activations are in pieces. tables/memory.yaml says where the shares come from.

    Args:
        sizes: bytes of all gradients, and of what a layer keeps. logits: the moment has them.
    """
    facts, (gradients, layer) = _slack(settings), sizes
    fused = settings.liger or settings.fused_loss
    holes = float(facts["gib"]) * GIB + float(facts["layer_mib"]) * 2**20 * shape.layers
    words = settings.width * settings.tokens * shape.vocabulary if logits and not fused else 0
    holes += max(float(a) * words + float(b) * layer for a, b in facts[method][_kind(settings)])
    if method == "qlora" and not words:
        holes += float(facts["unpacked"]) * 2 * shape.hidden * shape.active_intermediate
    return holes + float(facts["trained" if method == "full" else "adapter"]) * gradients


def _refilled(shape: ModelShape, settings: MemorySettings, moment: Moment, update: Moment, gradients: float) -> float:
    """Of full training: bytes reserved at most when a step is laid into what the update before it left.

    That is in pieces of a weight's size: (plain) logits do not fit into them at all and activations half; (expandable)
    neighbours join, and logits fit the better the smaller they are beside it.
    """
    facts, freed = _slack(settings), update.total
    if moment.late:
        return 0.0
    fused = settings.liger or settings.fused_loss
    total = max(freed, moment.activations) + float(facts["pieces"]) * min(moment.activations, freed)
    total += moment.logits * min(1.0, float(facts["joined"]) * moment.logits / freed)
    if fused:
        total += float(facts["embedding"]) * shape.embedding * settings.width
    elif not settings.expandable_segments:
        total += settings.width * settings.tokens * shape.vocabulary
    holes = float(facts["gib"]) * GIB + float(facts["layer_mib"]) * 2**20 * shape.layers
    return total + holes + float(facts["trained"]) * gradients


def _estimate(
    parts: dict[str, int],
    moment: str,
    shape: ModelShape,
    settings: MemorySettings,
    beside: tuple[float, float, float],
    approximated: tuple[str, ...],
) -> MemoryEstimate:
    """With the allocator's slack and the context.

    Args:
        beside: bytes in pages that the driver moves, the allocator's holes at most, one layer's activations.
    """
    paged, holes, layer = beside
    peak = sum(parts.values())
    facts = table("memory")["reserved"]
    if settings.device == "cpu":
        bounds, own, base = facts["cpu"], parts["weights"], float(facts["cpu"]["gib"]) * GIB
        low, reserved, high = (
            int(min(own + float(bounds[name]) * (peak - own), float(bounds["most"]) * peak) + base)
            for name in ("low", "middle", "high")
        )
        context, least = 0, low
    else:
        low, reserved, high = (int(peak + holes * float(facts["shares"][n])) for n in ("low", "middle", "high"))
        context = int(float(table("memory")["context_gib"]) * GIB + paged)
        if settings.devices > 1:
            context += int(float(table("memory")["communication_gib"]) * GIB)
        least = int(peak + float(facts["short"][_kind(settings)]) * layer) + context
    return MemoryEstimate(
        parts=parts,
        peak_bytes=peak,
        reserved_bytes=reserved,
        device_bytes=reserved + context,
        low=low,
        high=high,
        context_bytes=context,
        least_bytes=least,
        moment=moment,
        assumed=shape.assumed,
        approximated=approximated,
    )
