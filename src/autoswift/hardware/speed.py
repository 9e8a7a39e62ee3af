"""stub"""

from __future__ import annotations

from autoswift.domain.plan import Method
from autoswift.domain.profile import Device
from autoswift.hardware.shape import ModelShape


def training_tokens_per_second(
    shape: ModelShape, method: Method, device: Device, *, length: int, rank: int = 16, checkpointing: bool = True
) -> float:
    """Tokens a second that training gets through on one device; 0 when the device's rate is unknown."""
    raise NotImplementedError


def generation_tokens_per_second(shape: ModelShape, device: Device, *, parallel: int = 1, bytes_per_weight: float = 2.0) -> float:
    """Tokens a second that generation gives, all sequences together."""
    raise NotImplementedError


def start_seconds(shape: ModelShape, device: Device) -> float:
    """Seconds before the first training step of a fresh process (imports, loading weights)."""
    raise NotImplementedError


def stage_seconds(stage: str, shape: ModelShape, device: Device, *, tokens: int = 0, rate: float = 0.0) -> float:
    """Seconds of a stage: train generate merge convert serve fetch."""
    raise NotImplementedError
