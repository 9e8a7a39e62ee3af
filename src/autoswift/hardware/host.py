"""The host as this process may use it: cores and memory under affinity and container limits."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
UNLIMITED = 2**60
"""cgroup v1 writes "no limit" as a number near 2^63."""


def cores() -> int:
    """Cores that this process may keep busy: its affinity, and below that the container's CPU quota (rounded down)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return max(1, min(allowed, math.floor(quota)) if quota else allowed)


def cpu_quota(root: Path = CGROUP) -> float | None:
    """The container's CPU quota in cores, or None."""
    for folder in _own_groups(root, "cpu"):
        text = _read(folder / "cpu.max")
        if text:
            quota, _, period = text.partition(" ")
            if quota != "max":
                return int(quota) / int(period or 100_000)
        quota_v1, period_v1 = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota_v1 and period_v1 and quota_v1 > 0:
            return quota_v1 / period_v1
    return None


def memory_limit(root: Path = CGROUP) -> tuple[int, int] | None:
    """The container's memory limit and use in bytes, or None."""
    for folder in _own_groups(root, "memory"):
        for limit_name, use_name in (("memory.max", "memory.current"),
                                     ("memory.limit_in_bytes", "memory.usage_in_bytes")):  # fmt: skip
            limit = _number(folder / limit_name)
            if limit and limit < UNLIMITED:
                # Page cache counts as used but is given back under pressure.
                cache = _statistic(folder / "memory.stat", "inactive_file", "total_inactive_file")
                return limit, max(0, (_number(folder / use_name) or 0) - cache)
    return None


def memory_bytes() -> int:
    """Memory that this process may use."""
    total = int(psutil.virtual_memory().total)
    limit = memory_limit()
    return min(total, limit[0]) if limit else total


def memory_free_bytes() -> int:
    """Memory that nothing uses now."""
    free = int(psutil.virtual_memory().available)
    limit = memory_limit()
    return min(free, max(0, limit[0] - limit[1])) if limit else free


def limited_by_cgroup() -> bool:
    """Whether a container limit is below what the machine has."""
    limit, quota = memory_limit(), cpu_quota()
    return bool(limit and limit[0] < psutil.virtual_memory().total) or bool(quota and quota < (os.cpu_count() or 1))


def cpu_name() -> str:
    """The CPU's marketing name."""
    if sys.platform == "darwin":
        return _command(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.processor() or "CPU"
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model") and value.strip():
            return " ".join(value.split())
    return platform.processor() or platform.machine() or "CPU"


def _own_groups(root: Path, controller: str) -> list[Path]:
    """Folders of this process's control group, innermost first; v2 at the root, v1 below the controller's name."""
    found: list[Path] = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
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


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text.lstrip("-").isdigit() else None


def _statistic(path: Path, *names: str) -> int:
    rows = dict(line.split(maxsplit=1) for line in _read(path).splitlines() if " " in line)
    return next((int(rows[name]) for name in reversed(names) if rows.get(name, "").isdigit()), 0)


def _command(argv: list[str], timeout: float = 5.0) -> str:
    """The output of a small tool; empty when it is absent, fails or hangs."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def tool_output(argv: list[str], timeout: float = 10.0) -> str:
    """The output of a driver's tool; empty when it is absent, fails or hangs (a wedged driver makes it hang)."""
    return _command(argv, timeout)
