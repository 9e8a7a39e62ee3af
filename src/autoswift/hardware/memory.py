"""What a training step needs in memory, in closed form.

The peak is the largest of three moments of a step, each a sum of what is alive then:
    loss      all saved activations + three float32 copies of the logits (the output, its softmax, their gradient)
    layer     backward through one layer: its activations, its temporaries, the gradients made so far
    update    the optimizer: gradients, states and one temporary copy (AdamW works on all tensors at once)
The coefficients count what a decoder layer saves for backward. They were fitted to a trace of live storages over fake
tensors (Qwen2 and Llama shapes, 0.5B to 7B, LoRA and full, with and without checkpointing, bfloat16 and float32), which
itself came out 0.1 to 0.8 % under what an H100 measured; the tests hold the traced cells. Errors are on the safe side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from autoswift.domain.plan import Method
from autoswift.domain.profile import GIB
from autoswift.hardware.shape import ModelShape

LIBRARY_WORKSPACE = int(0.14 * GIB)
"""cuBLAS and attention workspaces: 0.04 to 0.13 GiB above the trace, measured on an H100."""
CUDA_CONTEXT = int(0.75 * GIB)
"""Measured on an H100: what the card shows above the allocator."""
CPU_LIBRARIES = int(0.9 * GIB)
"""Resident size of a training process before its model: 0.4 GiB with torch, transformers and peft, the rest swift's."""
RESERVED = {"cpu": (1.1, 1.6, 2.0), "other": (1.03, 1.10, 1.19)}
"""Allocator over live tensors: low, middle, high. CUDA: 3 to 19 % measured (fragmentation). CPU: SmolLM2 in float32
had 1.5, 1.7 and 2.0 times its tensors resident after three steps (2 x 256, 4 x 256, 2 x 512 with checkpointing); the
C library keeps freed blocks below 32 MB. With MALLOC_MMAP_THRESHOLD_=1048576 it was 1.1."""
NF4_BYTES = 0.5 + 0.127 / 8
"""Per weight: 4 bits, and 0.127 bits of block scales (blocks of 64, scales quantized again)."""
OPTIMIZER_COPIES = {
    "adamw_torch": (2.0, True),
    "adamw_torch_fused": (2.0, False),
    "adamw_8bit": (0.5, False),
    "adamw_bnb_8bit": (0.5, False),
    "paged_adamw_8bit": (0.5, False),
    "paged_adamw_32bit": (2.0, False),
    "lion_8bit": (0.25, False),
    "adafactor": (0.05, False),
    "sgd": (0.0, False),
}
"""States as copies of a float32 parameter, and whether the update makes a temporary copy of all parameters.

AdamW keeps two moments; in 8 bits they take a quarter; Adafactor keeps rows and columns only (a few percent).
An unknown optimizer is counted as AdamW.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    """What of a training's settings its memory depends on.

    Attributes:
        length: tokens in a row. micro_batch: rows in a forward pass.
        rank: of the LoRA on every linear map; unused for `full`.
        precision: float32, bfloat16 or float16.
        attention: sdpa, flash_attn or eager.
        device: cuda npu mps cpu.
        fused_loss: the loss is computed in slices, so that the logits never exist as a whole (Liger).
        accumulates: gradients of earlier micro-batches are kept during the next (gradient accumulation above 1).
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
    """Bytes of the peak.

    Attributes:
        parts: weights adapter gradients optimizer activations logits workspace; they sum to the peak.
        peak_bytes: live tensors (what torch's max_memory_allocated says).
        reserved_bytes: with the allocator's slack; `low` and `high` bound it. On a CPU: the process's resident size.
        device_bytes: with the context (what nvidia-smi shows); on a CPU the same as reserved.
        moment: loss, layer or update: when the peak is reached.
        assumed: what of the model's shape was not known.
    """

    parts: dict[str, int] = field(default_factory=dict)
    peak_bytes: int = 0
    reserved_bytes: int = 0
    device_bytes: int = 0
    low: int = 0
    high: int = 0
    moment: str = ""
    assumed: tuple[str, ...] = ()


def peak_memory(shape: ModelShape, method: Method, settings: MemorySettings) -> MemoryEstimate:
    """The peak of a training step.

    Args:
        shape: of the base model.
        method: full, lora or qlora.
        settings: of the training.
    """
    trained, state, temporary = _trained(shape, method, settings)
    gradients = trained * _trained_width(method, settings)
    resident = {
        "weights": weight_bytes(shape, method, settings.precision),
        "adapter": 0 if method == "full" else gradients,
        "optimizer": state,
        "workspace": _workspace(shape, method, settings),
    }
    kept, boundary, layer, temporaries = _activations(shape, method, settings)
    per_layer = gradients // max(shape.layers, 1)
    logits = _logits(shape, settings)
    carried = gradients if settings.accumulates else 0
    # Backward frees a layer's boundary as it makes that layer's gradients: the sum is largest at one of the ends.
    if settings.gradient_checkpointing:
        in_layer = max((boundary * shape.layers, max(per_layer, carried)), (boundary, gradients), key=sum)
    else:
        in_layer = (kept - layer, max(per_layer, carried))
    moments = {
        "loss": {"gradients": carried, "activations": kept, "logits": logits},
        "layer": {"gradients": in_layer[1], "activations": in_layer[0] + layer + temporaries, "logits": 0},
        "update": {"gradients": gradients + temporary, "activations": 0, "logits": 0},
    }
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    parts = {name: int(value) for name, value in (resident | moments[moment]).items()}
    return _estimate(parts, moment, shape, settings)


def weight_bytes(shape: ModelShape, method: Method, precision: str) -> int:
    """The base model's weights; QLoRA keeps the linear maps in 4 bits, embedding and output projection at 16."""
    width = 4 if precision == "float32" else 2
    if method != "qlora":
        return shape.parameters * width
    kept = shape.embedding * (1 if shape.tied else 2)
    return int(kept * width + max(shape.parameters - kept, 0) * NF4_BYTES)


def _trained_width(method: Method, settings: MemorySettings) -> int:
    """Bytes of a trained number: adapters are kept in float32 (PEFT's default), full training follows the model."""
    return settings.width if method == "full" else 4


def _trained(shape: ModelShape, method: Method, settings: MemorySettings) -> tuple[int, int, int]:
    """Trained weights; bytes of optimizer states; bytes of the update's temporaries."""
    count = shape.parameters if method == "full" else shape.lora_parameters(settings.rank)
    copies, copies_all = OPTIMIZER_COPIES.get(settings.optimizer, OPTIMIZER_COPIES["adamw_torch"])
    width = _trained_width(method, settings)
    state_width = width if copies >= 1 else 4  # 8-bit states are a share of float32 whatever the weights are
    # On a CPU torch updates one tensor after the other: the temporary is at most the embedding.
    temporary = count * width if copies_all and settings.device != "cpu" else min(count, shape.embedding) * width
    return count, int(count * copies * state_width), temporary


def _activations(shape: ModelShape, method: Method, settings: MemorySettings) -> tuple[int, int, int, int]:
    """Bytes kept until the loss; of one checkpoint; of one layer's saved activations; of its temporaries in backward.

    bfloat16, a token and layer: two norms (input, its float32 copy, the normalised one and the output for the adapter:
    20 hidden), attention (query and output 4, key and value 4), the gated MLP (8 intermediate), the adapter's inner
    activations (14 rank), the norms' and attention's statistics. float32 has no second copies: 16 hidden, and double.
    """
    h, i = shape.hidden, shape.intermediate
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    rank = 0 if method == "full" else settings.rank
    width = settings.width
    per_token = (20 if width == 2 else 16) * h + 2 * width * (q + kv) + 4 * width * i + 7 * width * rank
    per_token += 4 * shape.heads + 8
    if settings.micro_batch > 1 and settings.attention != "flash_attn":
        per_token += 2 * width * (q - kv)  # a padded batch needs a mask, and with a mask keys and values are repeated
    if settings.attention == "eager":
        per_token += (width + 4) * shape.heads * settings.length  # softmax in float32, and its cast
    casts = 2 * shape.lora_parameters(rank) // max(shape.layers, 1) if width == 2 else 0  # autocast keeps a copy
    layer = per_token * settings.tokens + casts
    temporaries = (7 * i + 14 * h if width == 2 else 9 * i + 8 * h) * settings.tokens
    boundary = width * h * settings.tokens
    tail = (6 * h + 2 * width * shape.head_dim + 500) * settings.tokens  # final norm, rotary tables, ids and mask
    kept = (boundary if settings.gradient_checkpointing else layer) * shape.layers + tail
    return kept, boundary, layer, temporaries


def _logits(shape: ModelShape, settings: MemorySettings) -> int:
    """Three float32 copies; with the fused loss only of a slice, chosen so that it is about as large as the input."""
    tokens = settings.tokens
    if settings.fused_loss:
        slices = math.ceil(shape.vocabulary / shape.hidden)
        tokens = min(tokens, 1 << math.ceil(math.log2(max(tokens / slices, 1))))
        return 3 * 4 * shape.vocabulary * tokens + settings.width * shape.hidden * settings.tokens
    return 3 * 4 * shape.vocabulary * tokens


def _workspace(shape: ModelShape, method: Method, settings: MemorySettings) -> int:
    """Libraries' buffers, the padding mask, and for 4 bits one linear map at 16 bits."""
    mask = 3 * settings.micro_batch * settings.length**2 if settings.micro_batch > 1 else 0  # bool, and as bf16 bias
    dequantized = 2 * shape.hidden * shape.intermediate if method == "qlora" else 0
    return (0 if settings.device == "cpu" else LIBRARY_WORKSPACE) + mask + dequantized


def _estimate(parts: dict[str, int], moment: str, shape: ModelShape, settings: MemorySettings) -> MemoryEstimate:
    peak = sum(parts.values())
    cpu = settings.device == "cpu"
    libraries = CPU_LIBRARIES if cpu else 0
    low, reserved, high = (int(peak * factor) + libraries for factor in RESERVED["cpu" if cpu else "other"])
    return MemoryEstimate(
        parts=parts,
        peak_bytes=peak,
        reserved_bytes=reserved,
        device_bytes=reserved + (0 if cpu else CUDA_CONTEXT),
        low=low,
        high=high,
        moment=moment,
        assumed=shape.assumed,
    )
