"""The host as this process may use it: cores and memory under affinity and container limits."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path

from autoswift.hardware import source as asking
from autoswift.hardware.source import Source

CGROUP = Path("/sys/fs/cgroup")
UNLIMITED = 2**60
"""cgroup v1 writes "no limit" as a number near 2^63."""
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "asimd", "sve", "bf16", "i8mm")
"""Instruction sets that bear on the speed of training or serving; asimd and later are Arm's."""
APPLE_FLAGS = {"hw.optional.arm.FEAT_BF16": "bf16", "hw.optional.AdvSIMD": "asimd", "hw.optional.arm.FEAT_I8MM": "i8mm"}
ARM_PARTS = {"0xd40": "Neoverse V1", "0xd0c": "Neoverse N1", "0xd49": "Neoverse N2", "0xd42": "Cortex-A78AE",
             "0xd01": "Kunpeng 920", "0xd4f": "Neoverse V2"}  # fmt: skip
"""Arm's cpuinfo has no name, only the core's number."""


def cores(source: Source | None = None) -> int:
    """Cores that this process may keep busy: its affinity, and below that the container's CPU quota (rounded down)."""
    source = source or asking.here()
    quota = cpu_quota(read=source.read)
    return max(1, min(source.cores, math.floor(quota)) if quota else source.cores)


def cpu_quota(root: Path = CGROUP, read: Callable[[str], str] = asking.text_of) -> float | None:
    """The container's CPU quota in cores, or None."""
    for folder in _own_groups(root, "cpu", read):
        text = read(str(folder / "cpu.max"))
        if text:
            quota, _, period = text.partition(" ")
            if quota != "max":
                return int(quota) / int(period or 100_000)
        quota_v1, period_v1 = (_number(read(str(folder / f"cpu.cfs_{what}_us"))) for what in ("quota", "period"))
        if quota_v1 and period_v1 and quota_v1 > 0:
            return quota_v1 / period_v1
    return None


def memory_limit(root: Path = CGROUP, read: Callable[[str], str] = asking.text_of) -> tuple[int, int] | None:
    """The container's memory limit and use in bytes, or None."""
    for folder in _own_groups(root, "memory", read):
        for limit_name, use_name in (("memory.max", "memory.current"),
                                     ("memory.limit_in_bytes", "memory.usage_in_bytes")):  # fmt: skip
            limit = _number(read(str(folder / limit_name)))
            if limit and limit < UNLIMITED:
                # Page cache counts as used but is given back under pressure.
                cache = _statistic(read(str(folder / "memory.stat")), "inactive_file", "total_inactive_file")
                return limit, max(0, (_number(read(str(folder / use_name))) or 0) - cache)
    return None


def memory_bytes(source: Source | None = None) -> int:
    """Memory that this process may use."""
    source = source or asking.here()
    total = source.memory[0] or _meminfo(source, "MemTotal")
    limit = memory_limit(read=source.read)
    return min(total, limit[0]) if limit else total


def memory_free_bytes(source: Source | None = None) -> int:
    """Memory that nothing uses now, or that would be given up when asked for."""
    source = source or asking.here()
    free = source.memory[1] or _meminfo(source, "MemAvailable")
    limit = memory_limit(read=source.read)
    return min(free, max(0, limit[0] - limit[1])) if limit else free


def limited_by_cgroup(source: Source | None = None) -> bool:
    """Whether a container limit is below what the machine has."""
    source = source or asking.here()
    limit, quota = memory_limit(read=source.read), cpu_quota(read=source.read)
    total = source.memory[0] or _meminfo(source, "MemTotal")
    count = (os.cpu_count() or 1) if source.real else source.cores
    return bool(limit and limit[0] < total) or bool(quota and quota < count)


def cpu_name(source: Source | None = None) -> str:
    """The CPU's marketing name."""
    source = source or asking.here()
    if source.system == "darwin":
        return source.run(("sysctl", "-n", "machdep.cpu.brand_string")) or source.machine or "CPU"
    text = source.read("/proc/cpuinfo")
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model") and value.strip():
            return " ".join(value.split())
    part = re.search(r"CPU part\s*:\s*(0x[0-9a-f]+)", text)
    if part:
        return ARM_PARTS.get(part[1], f"Arm core {part[1]}")
    return (platform.processor() if source.real else "") or source.machine or "CPU"


def cpu_flags(source: Source | None = None) -> tuple[str, ...]:
    """Instruction sets that bear on speed, of those in FLAGS."""
    source = source or asking.here()
    if source.system == "darwin":
        found = {flag for key, flag in APPLE_FLAGS.items() if source.run(("sysctl", "-n", key)) == "1"}
    else:
        line = re.search(r"^(?:flags|Features)\s*:(.*)$", source.read("/proc/cpuinfo"), re.MULTILINE)
        found = set(line[1].split()) if line else set()
    return tuple(flag for flag in FLAGS if flag in found)


def _meminfo(source: Source, name: str) -> int:
    """A number of /proc/meminfo, in bytes; 0 when it is not there."""
    found = re.search(rf"^{name}:\s*(\d+) kB", source.read("/proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _own_groups(root: Path, controller: str, read: Callable[[str], str]) -> list[Path]:
    """Folders of this process's control group, innermost first; v2 at the root, v1 below the controller's name."""
    found: list[Path] = []
    for line in read("/proc/self/cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3 or (parts[1] and controller not in parts[1].split(",")):
            continue
        base = root / controller if parts[1] else root
        place = base / parts[2].lstrip("/")
        while place != base and base in place.parents:
            found.append(place)
            place = place.parent
        found.append(base)
    return [*found, root, root / controller]


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _statistic(text: str, *names: str) -> int:
    rows = dict(line.split(maxsplit=1) for line in text.splitlines() if " " in line)
    return next((int(rows[name]) for name in reversed(names) if rows.get(name, "").isdigit()), 0)


def tool_output(argv: list[str], timeout: float = asking.SECONDS) -> str:
    """The output of a driver's tool; empty when it is absent, fails or hangs (a wedged driver makes it hang)."""
    return asking.output(argv, timeout)
