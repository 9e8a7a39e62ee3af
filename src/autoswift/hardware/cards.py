"""Accelerators of a machine, asked through their drivers' own tools (no torch in this process)."""

from __future__ import annotations

from autoswift.domain.profile import GIB, Device
from autoswift.hardware.amd import amd
from autoswift.hardware.ascend import ascend, parse_ascend
from autoswift.hardware.integrated import apple, jetson
from autoswift.hardware.notes import note
from autoswift.hardware.nvidia import nvidia, parse_nvidia, version
from autoswift.hardware.source import Source, here

IN_USE = 0.2
"""Of a card's memory: more than a desktop and idle contexts take, so somebody else is computing on it."""
OLDEST_CAPABILITY = (7, 5)
"""torch's builds for CUDA 13 have kernels from Turing on; Volta and Pascal need one for CUDA 12.6."""
OLDEST_CUDA = 13
"""Of the driver: torch as pip brings it is built for CUDA 13; a driver of CUDA 12 does not run it."""


def accelerators(
    memory: int, free: int, source: Source | None = None, *, rocm: bool = False
) -> tuple[tuple[Device, ...], tuple[str, ...], dict[str, str]]:
    """Every accelerator that this process may use, best first; notes on what is unusual; links between them.

    Args:
        memory: of the host, in bytes; matters where the accelerator shares it.
        free: of it, unused.
        source: where to ask; by default this machine.
        rocm: the training environment's torch is a ROCm build, so AMD cards can train.
    """
    source = source or here()
    notes: list[str] = []
    cuda = nvidia(source)
    found = list(cuda.devices) or jetson(source, memory, free)
    if not found:
        found, unable = ascend(source)
        notes += [note("cannot_train", name=name) for name in unable]
    if not found:
        cards = amd(source)
        found = cards if rocm else []
        notes += [note("needs_rocm", name=name) for name in sorted({c.name for c in cards})] if not rocm else []
    found = found or apple(source, memory, free)
    found.sort(key=lambda one: (-one.tflops, -one.free_bytes, one.index))
    return tuple(found), (*notes, *_notes(found)), cuda.links


def _notes(found: list[Device]) -> list[str]:
    names = sorted({one.name for one in found})
    notes = [note("mixed", names=", ".join(names))] if len(names) > 1 else []
    for one in found:
        notes += _others(one)
    for name in names:
        one = next(d for d in found if d.name == name)
        notes += _software(one) if one.vendor == "nvidia" else []
        notes += [] if one.tflops else [note("unknown_speed", name=name)]
    return list(dict.fromkeys(notes))


def _others(one: Device) -> list[str]:
    """Who else uses the card."""
    share = 1 - one.free_bytes / one.memory_bytes if one.memory_bytes else 0.0
    if share <= IN_USE or one.unified:
        return []
    notes = [note("in_use", name=one.name, index=one.index, share=f"{share:.0%}")]
    biggest = max(one.processes, key=lambda row: int(row["bytes"]), default=None)
    if biggest and biggest["bytes"]:
        size = f"{biggest['bytes'] / GIB:.1f}"
        notes.append(note("used_by", pid=biggest["pid"], name=biggest["name"] or "?", size=size))
    return notes


def _software(one: Device) -> list[str]:
    """What torch as it is installed by default asks of the card and its driver."""
    if one.unified:
        return [note("jetson", name=one.name)]
    notes = []
    if (0, 0) != version(one.capability) < OLDEST_CAPABILITY:
        notes.append(note("old_card", name=one.name, capability=one.capability))
    major = one.runtime.partition(".")[0]
    if major.isdigit() and int(major) < OLDEST_CUDA:
        notes.append(note("old_driver", driver=one.driver, cuda=one.runtime, needed=f"{OLDEST_CUDA}.0"))
    return notes


__all__ = ["accelerators", "parse_ascend", "parse_nvidia"]
