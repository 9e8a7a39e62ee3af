"""Which process a number means: numbers are used again, and a clock that is set moves start times told in seconds."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

MARK = "AUTOSWIFT_CHILD_OF"
"""Variable with the run folder, in the environment of every child and so of all that it starts."""


def identity(pid: int) -> str:
    """What tells a process from any other, also from a later one with its number; empty when there is none.

    On Linux the boot's id and the clock ticks from the boot to the process's start, which no setting of the clock
    changes; elsewhere the start time in seconds.
    """
    try:
        # The name in the second field may hold spaces and brackets; what follows the last bracket does not.
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return f"{_boot()}:{stat[19]}"
    except (OSError, IndexError):
        pass
    try:
        return f"{psutil.Process(pid).create_time():.0f}" if not _linux() else ""
    except psutil.Error:
        return ""


def is_marked(pid: int, folder: Path) -> bool | None:
    """Whether a process comes from a child of that run folder; None where its environment cannot be read."""
    try:
        return psutil.Process(pid).environ().get(MARK) == str(folder)
    except (psutil.Error, OSError):
        return None


def members(group: int) -> list[int]:
    """The live processes of a group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _linux() -> bool:
    return Path("/proc/self/stat").exists()
