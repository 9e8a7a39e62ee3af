"""How long things take, by counting operations and bytes; each number stands beside where it comes from.

A measurement always beats these: the pipeline replaces the training rate by a probe's as soon as there is one.
"""

from __future__ import annotations

from typing import Literal

from autoswift.domain.plan import Method
from autoswift.domain.profile import Device
from autoswift.hardware.devices import lookup
from autoswift.hardware.shape import ModelShape

Stage = Literal["fetch", "merge", "convert", "serve", "loadtest"]

LAUNCH_SECONDS = 0.0065
"""A layer and training step on a GPU, however small the batch: launching the kernels from Python. Measured on an H100
with all-linear LoRA: 172 ms for 24 layers, 178 and 207 ms for 28 at 256 tokens, while the products took a tenth."""
CHECKPOINT_LAUNCH = 1.33
"""Checkpointing runs each forward twice: a third more launches, measured."""
QLORA_SLOWDOWN = 1.3
"""bfloat16 LoRA is 1.2 to 1.4 times as fast: every product first unpacks its 4-bit weights."""
ADAPTER_RANK = 16
"""Assumed for the adapter's own operations, which are about one percent of the base's."""
GENERATION_SHARE = 0.6
"""Of the memory's rate, what reading the weights for each token reaches: a usual figure, not measured here."""
GENERATION_LAUNCH = {"cuda": 0.0010, "npu": 0.0015, "mps": 0.0010, "cpu": 0.0020}
"""Seconds a layer and token of transformers' generation spends outside the products. CPU: SmolLM2 (30 layers) gave 7
to 11 tokens/s for one sequence and 38 for eight on a busy two-core machine; the others are estimates."""
CPU_BANDWIDTH = 16.0
"""GB/s. llama.cpp: 112 tokens/s of SmolLM2 at 8 bits (143 MB a token) on two cores."""
UNKNOWN_BANDWIDTH = 200.0
"""GB/s, for a device that is not in the table: below every card that training is worth trying on."""
IMPORT_SECONDS = 15.0
"""torch, transformers, peft and swift: 10 s measured on a fast machine without swift, 5 to 12 s with half of it here,
and a first step that compiles or warms caches."""
LOAD_RATE = 0.6e9
"""Bytes/s of weights read and put on the device: a 7B (15 GB) took 25 s of a process's 39 s outside its steps."""
DOWNLOAD_RATE = 10e6
"""Bytes/s: a 100 Mbit/s line."""
BYTES_ON_DISK = 2
"""A weight as published (bfloat16)."""


def operations_per_token(shape: ModelShape, method: Method, *, length: int, checkpointing: bool) -> float:
    """Floating-point operations that training needs for a token.

    Forward is 2 a weight, backward through the activations 2, the weights' own gradients 2 (adapter only, unless the
    method is full); checkpointing repeats the forward but the output projection. Attention sees half of the row on
    average: 2 products of `length` / 2 by the query's width, each 2 operations, once forward and twice backward.
    """
    weights = shape.matrix_parameters
    adapter = 0 if method == "full" else shape.lora_parameters(ADAPTER_RANK)
    attention = 2 * length * shape.heads * shape.head_dim * shape.layers
    base = 6 * weights if method == "full" else 4 * weights + 6 * adapter
    again = 2 * max(weights - shape.embedding, 0) + attention if checkpointing else 0
    return float(base + 3 * attention + again)


def training_tokens_per_second(
    shape: ModelShape,
    method: Method,
    device: Device,
    *,
    length: int,
    micro_batch: int = 1,
    checkpointing: bool = True,
) -> float:
    """Tokens a second that training gets through on one device; 0 when the device's rate is unknown.

    Args:
        shape: of the base model.
        method: full, lora or qlora.
        device: with its sustained rate.
        length: tokens in a row, on average.
        micro_batch: rows in a forward pass.
        checkpointing: whether activations are computed again in backward.
    """
    if device.tflops <= 0:
        return 0.0
    tokens = max(length * micro_batch, 1)
    operations = operations_per_token(shape, method, length=length, checkpointing=checkpointing)
    seconds = operations * tokens / (device.tflops * 1e12)
    if device.kind != "cpu":  # on a CPU the products dwarf the launches
        seconds = max(seconds, shape.layers * LAUNCH_SECONDS * (CHECKPOINT_LAUNCH if checkpointing else 1.0))
    return tokens / (seconds * (QLORA_SLOWDOWN if method == "qlora" else 1.0))


def generation_tokens_per_second(
    shape: ModelShape, device: Device, *, parallel: int = 1, bytes_per_weight: float = 0.0, native: bool = False
) -> float:
    """Tokens a second that generation gives, all sequences together; never 0.

    Args:
        shape: of the model.
        device: that it runs on.
        parallel: sequences that share one pass over the weights.
        bytes_per_weight: 0 takes 4 on a CPU and 2 elsewhere.
        native: no Python between tokens (llama.cpp, vLLM).
    """
    width = bytes_per_weight or (4.0 if device.kind == "cpu" else 2.0)
    read = shape.matrix_parameters * width / (bandwidth(device) * 1e9)
    compute = 2.0 * shape.matrix_parameters * parallel / (device.tflops * 1e12) if device.tflops > 0 else 0.0
    launch = 0.0 if native else GENERATION_LAUNCH[device.kind] * shape.layers
    return parallel / (max(read, compute) + launch)


def bandwidth(device: Device) -> float:
    """GB/s at which weights are read for generation."""
    if device.kind == "cpu":
        return CPU_BANDWIDTH  # already what generation reached
    facts = lookup(device.name)
    return (facts.bandwidth if facts else UNKNOWN_BANDWIDTH) * GENERATION_SHARE


def start_seconds(shape: ModelShape, device: Device) -> float:
    """Seconds before the first training step of a fresh process: imports and loading."""
    width = 4 if device.kind == "cpu" else 2
    return IMPORT_SECONDS + shape.parameters * width / LOAD_RATE


def stage_seconds(stage: Stage, shape: ModelShape, device: Device) -> float:
    """Seconds of a stage that neither trains nor generates.

    Measured with SmolLM2-135M on two cores: merge 13 s, conversion 10 to 12 s with its
    check, server up in 0.5 s, load test 17 s.
    The size enters at the rate at which a disk is read and written again.
    """
    size = shape.parameters * BYTES_ON_DISK
    copy = size / LOAD_RATE
    if stage == "fetch":
        return size / DOWNLOAD_RATE
    if stage == "merge":
        return 13.0 + 2 * copy
    if stage == "convert":
        return 11.0 + 2 * copy
    if stage == "serve":
        return 2.0 + copy + (0.0 if device.kind == "cpu" else IMPORT_SECONDS)  # GPU servers import torch first
    return 17.0  # starting the load generator, and its own warm-up
