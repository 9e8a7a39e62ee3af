"""How several devices share a training's memory."""

from __future__ import annotations

from dataclasses import dataclass

from autoswift.hardware.shape import ModelShape

BUCKET = 200_000_000
"""Numbers in one bucket of gradients: ms-swift's ZeRO-2 configuration (reduce and gather buckets, 2e8 each)."""
SHARDINGS = ("none", "ddp", "zero2", "zero3", "fsdp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """By how much one device's share of each part shrinks, and what sharing costs.

    Attributes:
        weights, gradients, optimizer: divisors.
        master_bytes: float32 copies of trained weights that the sharding optimizer keeps.
        buffers: bytes of buckets. gathered: bytes of whole layers put together during a step.
    """

    weights: float = 1.0
    gradients: float = 1.0
    optimizer: float = 1.0
    master_bytes: float = 0.0
    buffers: float = 0.0
    gathered: float = 0.0


def shards_of(shape: ModelShape, kind: str, devices: int, *, trained: int, adapter: bool) -> Shards:
    """What a kind of sharding does.

    DDP keeps a bucket for each gradient. ZeRO-2 shares optimizer states and gradients, with a float32 master copy of
    what is trained; ZeRO-3 and FSDP share the weights too and gather a layer (the next one beside it) and once the
    embedding.

    Args:
        shape: of the model.
        kind: none, ddp, zero2, zero3 or fsdp.
        devices: that share.
        trained: weights with gradients. adapter: they are an adapter's, which is small.

    Raises:
        ValueError: when there is no such kind.
    """
    if kind not in SHARDINGS:
        raise ValueError(f"no such sharding: {kind}; choose one of {', '.join(SHARDINGS)}")
    if devices <= 1 or kind == "none":
        return Shards()
    width = 4 if adapter else 2
    if kind == "ddp":
        return Shards(buffers=float(trained * width))
    bucket = float(min(2 * BUCKET, 2 * trained) * 2)
    master = 0.0 if adapter else 4.0 * trained / devices
    # The states of ZeRO are float32 whatever the weights are: twice those of a bfloat16 AdamW.
    optimizer = float(devices) if adapter or kind == "fsdp" else devices / 2
    if kind == "zero2":
        return Shards(gradients=devices, optimizer=optimizer, master_bytes=master, buffers=bucket)
    gathered = 2.0 * (2 * shape.layer_parameters + shape.embedding)
    return Shards(
        weights=devices,
        gradients=devices,
        optimizer=optimizer,
        master_bytes=master if kind == "zero3" else 0.0,
        buffers=float(min(bucket, 4.0 * shape.hidden**2)),
        gathered=gathered,
    )


def counts(devices: int) -> tuple[int, ...]:
    """Numbers of devices that one training may take of so many: powers of two, and all."""
    powers = [2**n for n in range(devices.bit_length()) if 2**n <= devices]
    return tuple(sorted({*powers, max(devices, 1)}))
