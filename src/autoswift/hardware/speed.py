"""How long things take, by counting operations and bytes; each number stands beside where it comes from.

A measurement always beats these: the pipeline replaces the training rate by a probe's as soon as there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from autoswift.domain.plan import Method
from autoswift.domain.profile import Device
from autoswift.hardware import steps
from autoswift.hardware.devices import lookup
from autoswift.hardware.shape import ModelShape
from autoswift.hardware.steps import StepSettings, step_time

Stage = Literal["fetch", "merge", "convert", "serve", "loadtest"]

GENERATION_SHARE = 0.6
"""Of the memory's rate, what reading the weights for each token reaches: a usual figure, not measured here."""
GENERATION_LAUNCH = {"cuda": 0.0032, "npu": 0.0040, "mps": 0.0020, "cpu": 0.0020}
"""Seconds a layer and token of transformers' generation spends outside the products. cuda: 2.9 to 3.6 ms measured on an
H100 (0.5B, 1.5B, 7B: 11.5, 12.4, 11.8 tokens/s), whatever the size; with unmerged adapters 3.7 to 4.3 ms. CPU: SmolLM2
(30 layers) gave 7 to 11 tokens/s for one sequence and 38 for eight on a busy two-core machine; the others are
estimates."""
GENERATION_COMPUTE = 0.5
"""Of the training rate, what generating for many sequences reaches: their products are thin."""
NATIVE_LAUNCH = 0.00012
"""Seconds a layer and token where no Python stands between tokens (vLLM with CUDA graphs): a dozen kernels of some ten
microseconds. An estimate."""
CPU_BANDWIDTH = 16.0
"""GB/s. llama.cpp: 112 tokens/s of SmolLM2 at 8 bits (143 MB a token) on two cores."""
IMPORT_SECONDS = 15.0
"""torch, transformers, peft and swift: 10 s measured on a fast machine without swift, 5 to 12 s with half of it here,
and a first step that compiles or warms caches."""
LOAD_RATE = 0.6e9
"""Bytes/s of weights read and put on the device: a 7B (15 GB) took 25 s of a process's 39 s outside its steps."""
DOWNLOAD_RATE = 10e6
"""Bytes/s: a 100 Mbit/s line."""
BYTES_ON_DISK = 2
"""A weight as published (bfloat16)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSpeed:
    """What a server gives its users.

    Attributes:
        tokens_per_second: of all sequences together. per_sequence: of one of them.
        first_token_seconds: reading a prompt of the given length, alone.
        bound: weights, cache, compute or launch: what takes the longest in a token.
    """

    tokens_per_second: float
    per_sequence: float
    first_token_seconds: float
    bound: str


def operations_per_token(shape: ModelShape, method: Method, *, length: int, checkpointing: bool) -> float:
    """Floating-point operations that training needs for a token, attention over rows of `length` tokens included."""
    return steps.operations_per_token(shape, StepSettings(method=method, length=length, checkpointing=checkpointing))


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

    `steps.step_time` knows more (fused kernels, several devices, packed trials) and says what bounds the step.

    Args:
        shape: of the base model.
        method: full, lora or qlora.
        device: with its sustained rate.
        length: tokens in a row, on average.
        micro_batch: rows in a forward pass.
        checkpointing: whether activations are computed again in backward.
    """
    settings = StepSettings(method=method, length=length, micro_batch=micro_batch, checkpointing=checkpointing)
    return step_time(shape, device, settings).tokens_per_second


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
    weights = steps.token_weights(shape)
    # A mixture's sequences go to different experts, so more of them read more of the weights.
    read = min(shape.matrix_parameters, weights * parallel) * width / (bandwidth(device) * 1e9)
    compute = 2.0 * weights * parallel / (device.tflops * 1e12) if device.tflops > 0 else 0.0
    return parallel / (max(read, compute) + (0.0 if native else _python_launch(device) * shape.layers))


def serving_speed(
    shape: ModelShape,
    device: Device,
    *,
    parallel: int = 1,
    context: int = 1024,
    bytes_per_weight: float = 2.0,
    native: bool = True,
) -> ServingSpeed:
    """What a server reaches with that many sequences, each with `context` tokens in its cache (16 bits a number).

    Args:
        shape: of the model.
        device: that it runs on.
        parallel: sequences served at once.
        context: tokens that each sequence holds, prompt and answer; also the prompt's length for the first token.
        bytes_per_weight: 2 for 16 bits, 1.06 for q8_0, about 0.6 for 4 bits with scales.
        native: no Python between tokens (llama.cpp, vLLM).
    """
    rate = bandwidth(device) * 1e9
    cache = 2 * 2 * shape.kv_heads * shape.head_dim * shape.layers * context * parallel
    launch = NATIVE_LAUNCH if native else _python_launch(device)
    weights = steps.token_weights(shape)
    times = {
        "weights": min(shape.matrix_parameters, weights * parallel) * bytes_per_weight / rate,
        "cache": cache / rate,
        "compute": 2.0 * weights * parallel / (device.tflops * 1e12 * GENERATION_COMPUTE) if device.tflops > 0 else 0.0,
        "launch": 0.0 if device.kind == "cpu" and native else launch * shape.layers,
    }
    token = max(times["weights"] + times["cache"], times["compute"]) + times["launch"]
    first = 2.0 * weights * context / (device.tflops * 1e12) if device.tflops > 0 else 0.0
    return ServingSpeed(
        tokens_per_second=parallel / token,
        per_sequence=1.0 / token,
        first_token_seconds=max(first, token),
        bound=max(times, key=lambda name: times[name]),
    )


def bandwidth(device: Device) -> float:
    """GB/s at which weights are read for generation."""
    if device.kind == "cpu":
        return CPU_BANDWIDTH  # already what generation reached
    facts = lookup(device.name)
    known = device.bandwidth or (facts.bandwidth if facts else steps.UNKNOWN_BANDWIDTH)
    return known * GENERATION_SHARE


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


def _python_launch(device: Device) -> float:
    """Seconds a layer and token outside the products, by how fast this machine's processor launches."""
    usual = GENERATION_LAUNCH[device.kind]
    return usual * device.launch_seconds / steps.LAUNCH_MEASURED if device.launch_seconds > 0 else usual
