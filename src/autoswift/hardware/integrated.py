"""Accelerators that share the host's memory: Apple's chips and NVIDIA's Jetson boards."""

from __future__ import annotations

import re

from autoswift.domain.profile import GIB, Device
from autoswift.hardware.devices import lookup
from autoswift.hardware.nvidia import speed_of
from autoswift.hardware.source import Source

APPLE_SHARES = ((36 * GIB, 2 / 3), (2**62, 3 / 4))
"""Of a Mac's memory, what Metal lets the GPU take by default, by the memory's size: recommendedMaxWorkingSetSize is two
thirds up to 36 GB (10.7 of 16, 21.3 of 32) and three quarters above (48 of 64, 72 of 96)."""
WIRED = "iogpu.wired_limit_mb"
"""Set by the user (sudo sysctl) to raise that limit; 0 is the default."""
MACOS_BF16 = 14
"""The first macOS whose Metal multiplies bfloat16; torch refuses it before."""
JETSON_RELEASE, JETSON_MODEL = "/etc/nv_tegra_release", "/proc/device-tree/model"
JETSON_CAPABILITY = {"thor": "11.0", "orin": "8.7", "xavier": "7.2", "tx2": "6.2", "nano": "5.3"}
JETSON_SHARE = 0.85
"""Of a Jetson's memory: the system and its display keep one to two GB of 8 to 64."""


def apple(source: Source, memory: int, free: int) -> list[Device]:
    """The GPU of an Apple chip.

    Args:
        source: where to ask.
        memory: of the host, in bytes. free: of it, unused or to be had.
    """
    if source.system != "darwin" or source.machine != "arm64":
        return []
    name = source.run(("sysctl", "-n", "machdep.cpu.brand_string")) or "Apple"
    version = source.run(("sw_vers", "-productVersion"))
    limit = source.run(("sysctl", "-n", WIRED))
    share = next(part for most, part in APPLE_SHARES if memory <= most)
    usable = int(limit) * 2**20 if limit.isdigit() and int(limit) > 0 else int(memory * share)
    usable = min(usable, memory)
    facts = lookup(name)
    major = version.partition(".")[0]
    return [
        Device(
            kind="mps",
            vendor="apple",
            name=name,
            memory_bytes=usable,
            free_bytes=min(free, usable),
            bf16=bool(facts and facts.bf16) and (not major.isdigit() or int(major) >= MACOS_BF16),
            unified=True,
            runtime=f"macOS {version}" if version else "",
            **speed_of(facts),
        )
    ]


def jetson(source: Source, memory: int, free: int) -> list[Device]:
    """The GPU of a Jetson board. Its nvidia-smi, where there is one, does not know its memory.

    Args:
        source: where to ask.
        memory: of the host, in bytes. free: of it, unused.
    """
    release = source.read(JETSON_RELEASE)
    model = source.read(JETSON_MODEL)
    if source.machine != "aarch64" or not (release or "jetson" in model.lower()):
        return []
    name = re.sub(r"\b(NVIDIA|Developer Kit|Engineering Reference|Module)\b|\(.*?\)", "", model)
    name = " ".join(name.split()) or "Jetson"
    facts = lookup(name)
    capability = next((c for word, c in JETSON_CAPABILITY.items() if word in name.lower()), "")
    found = re.search(r"R(\d+)\b.*?REVISION:\s*([\d.]+)", release)
    usable = int(memory * JETSON_SHARE)
    return [
        Device(
            kind="cuda",
            vendor="nvidia",
            name=name,
            memory_bytes=usable,
            free_bytes=min(free, usable),
            bf16=int(capability.partition(".")[0] or 0) >= 8,
            capability=capability,
            unified=True,
            driver=f"L4T {found[1]}.{found[2]}" if found else "",
            **speed_of(facts),
        )
    ]
