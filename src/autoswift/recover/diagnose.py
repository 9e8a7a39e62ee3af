"""From an exit code, a log and what was seen to a symptom of the table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from autoswift.domain.protocols import Symptom
from autoswift.tables import table

SIGKILL_CODE = 128 + 9


def rows() -> list[dict[str, Any]]:
    """The table of symptoms, in order."""
    return list(table("symptoms"))


def row(name: str) -> dict[str, Any]:
    """One row; the row `unknown` for a name that is not in the table."""
    found = {r["name"]: r for r in rows()}
    return found.get(name, found["unknown"])


def oom_kills() -> int:
    """How often the kernel killed a process of our memory cgroup; 0 where it cannot be read."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            found = re.search(r"^oom_kill (\d+)", Path(path).read_text(encoding="ascii"), re.MULTILINE)
        except OSError:
            continue
        if found:
            return int(found.group(1))
    return 0


def diagnose(exit_code: int | None, log: str, *, oom_kills_before: int = 0) -> Symptom:
    """Names what ended a child.

    Args:
        exit_code: 128 + n for signal n; None when it was ended by us.
        log: its last lines.
        oom_kills_before: `oom_kills()` when it started, so that a kill by the kernel is told from any other.
    """
    for one in rows():
        for pattern in one["patterns"]:
            found = re.search(pattern, log, re.IGNORECASE)
            if found:
                line = next((ln for ln in log.splitlines() if found.group(0) in ln), found.group(0))
                return Symptom(name=one["name"], evidence=line.strip()[:300], transient=one["transient"])
    if exit_code == SIGKILL_CODE:
        if oom_kills() > oom_kills_before:
            return Symptom(name="host_out_of_memory", evidence="killed by the kernel (oom_kill counter rose)")
        return Symptom(name="killed", evidence="the process was killed (SIGKILL)", transient=True)
    lines = [ln for ln in log.splitlines() if ln.strip()]
    return Symptom(name="unknown", evidence=f"exit code {exit_code}: {lines[-1][:300] if lines else 'no output'}")
