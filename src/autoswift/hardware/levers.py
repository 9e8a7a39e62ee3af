"""What would save the most memory, a change at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from autoswift.domain.plan import Method
from autoswift.hardware.memory import MemoryEstimate, MemorySettings, peak_memory
from autoswift.hardware.shape import ModelShape

SHORTEST = 256
"""Tokens: below, most conversations would be cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lever:
    """A change and what it does.

    Attributes:
        name: checkpointing, fused_loss, micro_batch, optimizer, lora, qlora, length, sharding, rank, flash.
        value: what it sets, for a person.
        saved_bytes: of the device's peak.
        estimate: after the change.
        method, settings: after the change.
    """

    name: str
    value: str
    saved_bytes: int
    estimate: MemoryEstimate
    method: Method
    settings: MemorySettings


def levers(shape: ModelShape, method: Method, settings: MemorySettings, *, devices: int = 1) -> list[Lever]:
    """Each change by itself, the one that saves most first; those that save nothing are left out.

    Args:
        shape: of the base model.
        method: full, lora or qlora.
        settings: that it starts from.
        devices: that the training could share.
    """
    now = peak_memory(shape, method, settings).device_bytes
    found = []
    for name, value, new_method, changed in _changes(method, settings, devices):
        estimate = peak_memory(shape, new_method, changed)
        saved = now - estimate.device_bytes
        if saved > 0:
            found.append(
                Lever(
                    name=name,
                    value=value,
                    saved_bytes=saved,
                    estimate=estimate,
                    method=new_method,
                    settings=changed,
                )
            )
    return sorted(found, key=lambda one: -one.saved_bytes)


def _changes(method: Method, s: MemorySettings, devices: int) -> Iterator[tuple[str, str, Method, MemorySettings]]:
    if not s.gradient_checkpointing:
        yield "checkpointing", "true", method, replace(s, gradient_checkpointing=True)
    if not (s.liger or s.fused_loss) and s.device in ("cuda", "npu"):
        yield "fused_loss", "liger", method, replace(s, liger=True)
    if s.micro_batch > 1:
        yield "micro_batch", "1", method, replace(s, micro_batch=1, padded=False)
    if s.attention == "eager":
        yield "flash", "sdpa", method, replace(s, attention="sdpa")
    if s.length >= 2 * SHORTEST:
        yield "length", str(s.length // 2), method, replace(s, length=s.length // 2)
    if devices > 1 and s.sharding in ("none", "ddp"):
        for kind in ("zero2", "zero3"):
            yield "sharding", kind, method, replace(s, sharding=kind, devices=devices)
    yield from _methods(method, s)


def _methods(method: Method, s: MemorySettings) -> Iterator[tuple[str, str, Method, MemorySettings]]:
    """Changes of what is trained, and of how its weights and states are kept."""
    if method == "full":
        yield "lora", "lora", "lora", s
        if "8bit" not in s.optimizer and s.device == "cuda":
            yield "optimizer", "adamw_bnb_8bit", method, replace(s, optimizer="adamw_bnb_8bit")
    elif s.rank > 8:
        yield "rank", "8", method, replace(s, rank=8)
    if method != "qlora" and s.device in ("cuda", "cpu"):
        yield "qlora", "nf4", "qlora", replace(s, quant_bits=4)
