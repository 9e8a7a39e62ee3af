"""What serving a model needs in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autoswift.hardware.memory import INT8_BYTES, NF4_BYTES
from autoswift.hardware.shape import ModelShape
from autoswift.tables import table

BYTES_A_WEIGHT = {
    "none": 2.0,
    "float32": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "fp8": 1.0,
    "int8": INT8_BYTES,
    "q8_0": 34 / 32,  # llama.cpp: 32 weights and a float16 scale
    "q4_k_m": 4.85 / 8,  # llama.cpp: 4.85 bits on average
    "int4": 0.5 + 4 / 128,  # GPTQ, AWQ: a float16 scale and zero point a group of 128
    "nf4": NF4_BYTES,
}
"""Of the layers' linear maps; embedding and output projection stay at 16 bits but in llama.cpp's formats."""
WHOLE_MODEL = frozenset({"q8_0", "q4_k_m", "float32"})
PREFILL = 2048
"""Tokens of prompts worked on at a time (vLLM's and llama.cpp's usual chunk)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingEstimate:
    """Bytes on one device; `parts` are weights, cache, workspace and context."""

    parts: dict[str, int]
    cache_per_token: int

    @property
    def total_bytes(self) -> int:
        """All together."""
        return sum(self.parts.values())


def serving_memory(
    shape: ModelShape,
    *,
    length: int,
    concurrency: int = 1,
    quant: str = "none",
    cache_width: float = 2.0,
    device: str = "cuda",
    devices: int = 1,
) -> ServingEstimate:
    """Weights, the cache of keys and values, and the workspace of a forward pass.

    Args:
        shape: of the model.
        length: tokens of one conversation, prompt and answer.
        concurrency: conversations at the same time.
        quant: none, fp8, int8, int4 (GPTQ, AWQ), nf4, q8_0, q4_k_m.
        cache_width: bytes of a cached number.
        device: cuda, npu, mps or cpu.
        devices: that share it, each with a part of every layer (tensor parallel) or a part of the layers; what counts
            is one of them, with the largest part.

    Raises:
        KeyError: when the quantization is not known.
    """
    weight = BYTES_A_WEIGHT[quant]
    packed = shape.parameters if quant in WHOLE_MODEL else shape.linear_parameters
    weights = packed * weight + (shape.parameters - packed) * 2
    per_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * cache_width
    prefill = min(PREFILL, length * concurrency)
    # A layer's widest moment (both halves of the gated map, its product, residual stream) and the sampled logits.
    workspace = prefill * (3 * shape.active_intermediate + 4 * shape.hidden) * 2 + concurrency * shape.vocabulary * 8
    if devices > 1:
        # Layers are whole, and the embedding or the output projection lies beside some. A head's keys stay together.
        most, outer = math.ceil(shape.layers / devices) / shape.layers, shape.embedding / shape.parameters
        weights *= min(1.0, max(0.0, 1 - outer * (1 if shape.tied else 2)) * most + outer)
        per_token *= max(most, 1 / shape.kv_heads)
    context = 0.0 if device == "cpu" else float(table("memory")["context_gib"]) * 2**30
    context += float(table("memory")["communication_gib"]) * 2**30 if devices > 1 else 0.0
    parts = {"weights": weights, "cache": per_token * length * concurrency, "workspace": workspace, "context": context}
    return ServingEstimate(parts={k: int(v) for k, v in parts.items()}, cache_per_token=int(per_token))
