"""How long a training step takes, counted from its parts.

A step is as long as the slower of two things: the processor giving the device its kernels one by one (`launch`), and
the device working through them: matrix products, attention, what is moved through memory between them, the loss over
the vocabulary, the optimizer, unpacking of quantized weights, and a floor for each layer's many small kernels. Several
devices add what communication does not hide.

The coefficients were fitted to 93 steps on an H100 (Qwen2.5 shapes 0.5B, 1.5B, 7B; full, LoRA, QLoRA; 256 to 16,384
tokens; with and without checkpointing; benchmarks/data/speed-h100.jsonl): on saturated steps the median error is 2 %,
the largest 4 %. They are counts of bytes and operations, so another card enters by its own two rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from autoswift.domain.plan import Method
from autoswift.domain.profile import Device
from autoswift.hardware.devices import MEMORY_SHARE, lookup, products_from_sustained
from autoswift.hardware.shape import ModelShape

Sharding = Literal["none", "ddp", "zero2", "zero3", "fsdp", "megatron"]

LAYER_BYTES, LAYER_BYTES_FUSED = 12.2, 3.7
"""Moved for each token and layer, times (8 hidden + intermediate), in a forward pass; backward moves twice as much.
Norms, residuals and casts stand behind the 8 hidden. Fused: with Liger's norm, SwiGLU and rotary kernels."""
ADAPTER_BYTES = 10.7
"""Times the inputs and outputs of the adapted maps: an adapter's input is cast to float32 and back."""
LOSS_BYTES, LOSS_BYTES_FUSED = 60.5, 25.0
"""For each token and word of the vocabulary: logits, their float32 copy, softmax and gradients, read and written."""
FLOOR_SECONDS = 0.0003
"""A layer and pass on a GPU, however small the batch: some hundred kernels of a few microseconds each. Captured as a
graph, the gaps between them go too: 24 to 28 layers of LoRA at 256 tokens took 17 to 39 ms in all."""
GRAPH_FLOOR = 0.55
"""Of it, in a captured step."""
ATTENTION_SHARE = {"flash_attn": 0.66, "sdpa": 0.63, "eager": 0.30}
"""Of the products' rate. sdpa: 505 of 801 TFLOP/s fitted (its own flash kernel); flash_attn: an estimate, a little
above; eager also writes the whole score matrix, which is counted in bytes."""
OLD_ATTENTION_SHARE = 0.30
"""sdpa before Ampere: the memory-efficient kernel instead of the flash one. An estimate."""
SCORE_BYTES = 14.0
"""Eager attention, for each score of a head and pass: products at 16 bits, softmax in float32, its cast, the mask."""
OPTIMIZER_BYTES = 20.0
"""AdamW, a trained number: parameter, gradient and two moments read, three written, the gradient's norm; 16 bits."""
UNPACK_BYTES = 2.5
"""QLoRA, a weight and pass: half a byte read, two written. Seen on an H100 as 13 ms of a 7B step whatever the batch."""
LAUNCH = {"full": 0.0036, "lora": 0.0066, "qlora": 0.0108}
"""Seconds a layer that an eager step costs the processor of the H100 machine measured (10 microseconds for one small
kernel from Python): 0.08 s for 24 layers of full training, 0.17 to 0.21 s for 24 to 28 of LoRA, 0.21 to 0.36 s of
QLoRA."""
LAUNCH_MEASURED = 1.025e-5
"""Seconds for one small operation on that machine: a faster processor shortens launches in proportion."""
CHECKPOINT_LAUNCH = {True: 1.45, False: 1.8}
"""By whether checkpointing is re-entrant (swift's choice on one device) or not (on several): measured 1.35 to 1.6, and
1.6 to 2.0."""
FLOAT32_PRODUCTS = 0.125
"""Of the 16-bit rate. H100 without TF32: 52 of 715 TFLOP/s; with TF32 about half. Between the two: A100 without."""
LINK = {"nvlink": 250.0, "p2p": 20.0, "host": 10.0}
"""GB/s that collectives reach: NVLink 3 and 4 sustain 230 to 370; PCIe 4.0 x16 carries 32 in theory; through the host's
memory (cards without peer access, such as the RTX 4090) every byte crosses twice. Usual figures, not measured here."""
HIDDEN_SHARE = {"none": 0.0, "ddp": 0.7, "zero2": 0.6, "zero3": 0.5, "fsdp": 0.5}
"""Of the computing time, what communication can hide behind: gradients leave while backward goes on; weights that are
gathered layer by layer hide only behind the layer before."""
UNKNOWN_BANDWIDTH = 200.0
"""GB/s, for a device that is not in the table: below every card that training is worth trying on."""
JITTER = 0.97
"""Rows differ in length, and every step waits for the slowest device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    """What of a training's settings its speed depends on.

    Attributes:
        length: tokens in a row, on average. micro_batch: rows in a forward pass on one device.
        accumulation: forward passes for each optimizer step.
        attention: flash_attn, sdpa or eager. precision: bfloat16, float16 or float32.
        fused: Liger's kernels.
        reentrant: the kind of checkpointing; None is swift's choice: re-entrant on one device.
        graphs: the step is captured once and replayed, so launches cost nothing.
        packed: trials that share one forward pass, each with its own micro-batch.
        gpus: devices, with `sharding` over `link` (nvlink, p2p or host).
    """

    method: Method = "lora"
    length: int = 512
    micro_batch: int = 1
    accumulation: int = 1
    rank: int = 16
    checkpointing: bool = False
    attention: str = "sdpa"
    precision: str = "bfloat16"
    fused: bool = False
    reentrant: bool | None = None
    graphs: bool = False
    packed: int = 1
    gpus: int = 1
    sharding: Sharding = "none"
    link: str = "host"

    @property
    def tokens(self) -> int:
        """In one forward pass on one device, padding included."""
        return max(self.length * self.micro_batch * self.packed, 1)

    @property
    def passes(self) -> int:
        """Forward passes that a step's work amounts to: backward counts twice, checkpointing repeats the forward."""
        return 4 if self.checkpointing else 3


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Seconds of one optimizer step.

    Attributes:
        seconds: 0 when the device's rate is unknown.
        parts: products attention memory loss unpacking floor optimizer launch communication; what overlaps is listed
            in full, so they do not sum to `seconds`.
        bound: launch, compute or communication: what would have to be faster.
        tokens: that all devices and packed trials train on in it.
        busy: share of the step in which the device computes.
    """

    seconds: float
    parts: dict[str, float] = field(default_factory=dict)
    bound: str = "compute"
    tokens: int = 0
    busy: float = 1.0

    @property
    def products_share(self) -> float:
        """Of the step, the time that the matrix units need at their full rate: what the device's power goes by."""
        return min(1.0, self.parts.get("products", 0.0) / self.seconds) if self.seconds > 0 else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Over all devices and packed trials; 0 when unknown."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


def step_time(shape: ModelShape, device: Device, settings: StepSettings) -> StepTime:
    """The time of one optimizer step.

    Args:
        shape: of the base model.
        device: one of the devices, with its sustained rate (7B LoRA) and its memory's.
        settings: of the training.
    """
    total = settings.tokens * settings.accumulation * settings.gpus
    if device.tflops <= 0:
        return StepTime(seconds=0.0, tokens=total)
    if device.kind == "cpu":
        seconds = sum(_operations(shape, settings)) / (device.tflops * 1e12) * settings.accumulation
        return StepTime(seconds=seconds, parts={"products": seconds}, tokens=total)
    parts = _device_parts(shape, device, settings)
    launch = 0.0 if settings.graphs else launch_seconds(shape, device, settings)
    computing = sum(parts.values())
    one = max(computing, launch)
    optimizer = _optimizer_seconds(shape, device, settings)
    traffic = communication_seconds(shape, settings)
    exposed = max(0.0, traffic - HIDDEN_SHARE[settings.sharding] * one) if settings.gpus > 1 else 0.0
    seconds = one * settings.accumulation + optimizer + exposed
    if settings.gpus > 1:
        seconds /= JITTER
    bound = "communication" if exposed > one else "launch" if launch > computing else "compute"
    busy = min(1.0, (computing * settings.accumulation + optimizer) / seconds)
    parts = {name: value * settings.accumulation for name, value in (parts | {"launch": launch}).items()}
    parts |= {"optimizer": optimizer, "communication": traffic}
    return StepTime(seconds=seconds, parts=parts, bound=bound, tokens=total, busy=busy)


def mean_step_seconds(shape: ModelShape, device: Device, settings: StepSettings, lengths: Sequence[float]) -> float:
    """Seconds of a step on average, whose rows have these lengths in turn: as the mean of `step_time` for each.

    The parts are polynomials of the length (attention its square, the floor and the unpacking none of it), so one
    count serves all.
    """
    if device.tflops <= 0:
        return 0.0
    longest = max(1, round(max(lengths)))
    whole = step_time(shape, device, replace(settings, length=longest))
    if device.kind == "cpu" or settings.attention == "eager":  # eager scores are moved, too
        each = [step_time(shape, device, replace(settings, length=max(1, round(one)))).seconds for one in lengths]
        return sum(each) / len(each)
    parts = {name: whole.parts[name] / settings.accumulation for name in _PASS}
    fixed = parts["floor"] + parts["unpacking"]
    linear = parts["products"] + parts["memory"] + parts["loss"]
    launch = whole.parts["launch"] / settings.accumulation
    traffic, hidden = whole.parts["communication"], HIDDEN_SHARE[settings.sharding]
    seconds = 0.0
    for length in lengths:
        share = max(1, round(length)) / longest
        one = max(fixed + linear * share + parts["attention"] * share * share, launch)
        exposed = max(0.0, traffic - hidden * one) if settings.gpus > 1 else 0.0
        seconds += one * settings.accumulation + exposed
    seconds = seconds / len(lengths) + whole.parts["optimizer"]
    return seconds / JITTER if settings.gpus > 1 else seconds


_PASS = ("products", "attention", "memory", "loss", "unpacking", "floor")
"""Parts of a forward and backward pass on a device."""


def operations_per_token(shape: ModelShape, settings: StepSettings) -> float:
    """Floating-point operations that training needs for a token: products and attention."""
    return sum(_operations(shape, settings)) / settings.tokens


def launch_seconds(shape: ModelShape, device: Device, settings: StepSettings) -> float:
    """What giving the device the kernels of one forward and backward pass costs the processor."""
    seconds = LAUNCH[settings.method] * shape.layers
    if settings.checkpointing:
        seconds *= CHECKPOINT_LAUNCH[settings.gpus == 1 if settings.reentrant is None else settings.reentrant]
    return seconds * (device.launch_seconds / LAUNCH_MEASURED if device.launch_seconds > 0 else 1.0)


def communication_seconds(shape: ModelShape, settings: StepSettings) -> float:
    """Seconds of an optimizer step's transfers, hidden ones included.

    Gradients are summed over all devices (each sends and receives twice its share); ZeRO-3 and FSDP also gather the
    weights for every pass.
    """
    if settings.gpus < 2 or settings.sharding == "none":
        return 0.0
    share = (settings.gpus - 1) / settings.gpus
    trained = shape.parameters if settings.method == "full" else shape.lora_parameters(settings.rank)
    sent = 2.0 * trained * (2 if settings.method == "full" else 4) * share
    if settings.sharding in ("zero3", "fsdp"):
        width = 0.53 if settings.method == "qlora" else 2.0  # bytes: NF4 with its scales, or 16 bits
        gathers = settings.passes - 1  # forward and backward each gather once, checkpointing once more
        sent += gathers * settings.accumulation * shape.parameters * width * share
    return sent / (LINK[settings.link] * 1e9)


def scaling(shape: ModelShape, device: Device, settings: StepSettings) -> float:
    """Of ideal speed-up over one device, the share that several reach (1 for one device).

    The single device is taken with the same micro-batch, as if the model fitted it.
    """
    if settings.gpus < 2:
        return 1.0
    alone = step_time(shape, device, replace(settings, gpus=1, sharding="none"))
    together = step_time(shape, device, settings)
    return alone.seconds / together.seconds if together.seconds > 0 else 0.0


def memory_rate(device: Device) -> float:
    """Bytes a second that copies reach; that of a mid-range card where nothing is known."""
    if device.bandwidth > 0:
        return device.bandwidth * 1e9 * MEMORY_SHARE
    facts = lookup(device.name)
    return (facts.bandwidth if facts else UNKNOWN_BANDWIDTH) * 1e9 * MEMORY_SHARE


def products_rate(device: Device, precision: str = "bfloat16") -> float:
    """Operations a second of large matrix products inside a step."""
    rate = products_from_sustained(device.tflops, memory_rate(device) / 1e9 / MEMORY_SHARE) * 1e12
    return rate * FLOAT32_PRODUCTS if precision == "float32" and device.kind == "cuda" else rate


def token_weights(shape: ModelShape) -> int:
    """Weights that a token is multiplied by: of a mixture of experts, those of its own experts only."""
    idle = 3 * shape.hidden * (shape.experts_intermediate - shape.token_intermediate) * shape.layers
    return max(shape.matrix_parameters - (idle if shape.mixture else 0), 1)


def _operations(shape: ModelShape, settings: StepSettings) -> tuple[float, float]:
    """Operations of one forward and backward pass: products, attention.

    Forward is 2 a weight, backward through the activations 2, the weights' own gradients 2 (of the adapter only, unless
    the method is full); checkpointing repeats the forward but the output projection. A causal token sees half of the
    row on average; backward through attention is 2.5 times its forward.
    """
    weights = token_weights(shape)
    adapter = 0 if settings.method == "full" else shape.lora_parameters(settings.rank)
    each = 6 * weights if settings.method == "full" else 4 * weights + 6 * adapter
    attention = 2 * settings.length * shape.heads * shape.head_dim * shape.layers
    times = 3.5
    if settings.checkpointing:
        each += 2 * max(weights - shape.embedding, 0) + 2 * adapter
        times += 1.0
    return float(each * settings.tokens), float(times * attention * settings.tokens)


def _device_parts(shape: ModelShape, device: Device, settings: StepSettings) -> dict[str, float]:
    """Seconds of one forward and backward pass on the device, by part."""
    products, attention = _operations(shape, settings)
    rate, moved = products_rate(device, settings.precision), memory_rate(device)
    tokens, passes = settings.tokens, settings.passes
    wide = 2.0 if settings.precision == "float32" else 1.0
    layer = (8 * shape.hidden + shape.active_intermediate) * shape.layers
    through = layer * (LAYER_BYTES_FUSED if settings.fused else LAYER_BYTES) * wide
    if settings.method != "full":
        adapted = shape.attention_io if shape.mixture else shape.linear_io
        through += adapted * shape.layers * ADAPTER_BYTES
    if settings.attention == "eager":
        through += SCORE_BYTES * shape.heads * settings.length * shape.layers
    share = ATTENTION_SHARE.get(settings.attention, ATTENTION_SHARE["sdpa"])
    if settings.attention == "sdpa" and device.kind == "cuda" and device.capability and _old(device.capability):
        share = OLD_ATTENTION_SHARE
    loss = shape.vocabulary * tokens * (LOSS_BYTES_FUSED if settings.fused else LOSS_BYTES)
    inner = max(shape.matrix_parameters - shape.embedding, 0)
    return {
        "products": products / rate,
        "attention": attention / (rate * share),
        "memory": through * tokens * passes / moved,
        "loss": loss / moved,
        "unpacking": inner * UNPACK_BYTES * (passes - 1) / moved if settings.method == "qlora" else 0.0,
        "floor": FLOOR_SECONDS * shape.layers * passes * (GRAPH_FLOOR if settings.graphs else 1.0),
    }


def _optimizer_seconds(shape: ModelShape, device: Device, settings: StepSettings) -> float:
    trained = shape.parameters if settings.method == "full" else shape.lora_parameters(settings.rank) * settings.packed
    shards = settings.gpus if settings.sharding in ("zero2", "zero3", "fsdp") else 1
    return trained * OPTIMIZER_BYTES / shards / memory_rate(device)


def _old(capability: str) -> bool:
    return int(capability.partition(".")[0] or 8) < 8
