"""stub"""

from __future__ import annotations

from dataclasses import dataclass, field

from autoswift.domain.plan import Method
from autoswift.hardware.shape import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    """What of a training's settings its memory depends on."""

    length: int
    micro_batch: int = 1
    rank: int = 16
    gradient_checkpointing: bool = True
    optimizer: str = "adamw_torch"
    precision: str = "bfloat16"
    attention: str = "sdpa"
    device: str = "cuda"
    fused_loss: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes by part (weights adapter gradients optimizer activations logits workspace), and their peak."""

    parts: dict[str, int] = field(default_factory=dict)
    peak_bytes: int = 0
    reserved_bytes: int = 0
    device_bytes: int = 0
    low: int = 0
    high: int = 0
    assumed: tuple[str, ...] = ()


def peak_memory(shape: ModelShape, method: Method, settings: MemorySettings) -> MemoryEstimate:
    """stub"""
    raise NotImplementedError
