"""From an exit code, a log and what was seen to a symptom of the table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from autoswift.domain.protocols import Symptom
from autoswift.recover.allocation import taken_by_others
from autoswift.tables import table

SIGKILL_CODE = 128 + 9

SENTENCE = 900
"""Characters of a line that are kept as evidence: torch's whole sentence on memory has about 700, and is read again."""

SIGNALS = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}

_ASIDE = re.compile(
    r"\b(User|Future|Deprecation|Runtime|Resource)?Warning\b|\bWARN(ING)?\b|\bretrying\b", re.IGNORECASE
)
"""Lines that tell of something which was survived: they name no cause while another line does."""

_SAVING = re.compile(r"in (?!_maybe_log_save_evaluate)\w*sav(e|ing)\w*")
_ANSWERING = re.compile(r"in (_?evaluate|evaluation_loop|prediction_(step|loop)|_?generate|_validate|score)\b")
_LOADING = re.compile(
    r"in (_?load_\w+|from_pretrained|_move_model_to_device|set_module_tensor_to_device|prepare_model\w*)\b"
    r"|Loading (checkpoint shards|weights):",
)
_STEPS = re.compile(r"^(?!Loading|Val:|Map|Fetching).*(?:\||max_steps': '|… )\s*(\d+) ?/ ?\d+", re.MULTILINE)
"""Progress bars of training: `|  12/400 [`, and swift's own field."""


def rows() -> list[dict[str, Any]]:
    """The table of symptoms, in order."""
    return list(table("symptoms"))


def row(name: str) -> dict[str, Any]:
    """One row; the row `unknown` for a name that is not in the table."""
    found = {r["name"]: r for r in rows()}
    return found.get(name, found["unknown"])


def ladder(symptom: Symptom) -> list[str]:
    """The remedies of a symptom in their order, those of its phase where the table has some for it."""
    one = row(symptom.name)
    return list((one.get("phases") or {}).get(symptom.phase, one["remedies"]))


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


def phase_of(log: str, *, started: bool | None = None, steps: int | None = None) -> str:
    """What a training was doing when it ended: load, first_step, long_batch, evaluation or save.

    Args:
        log: its last lines; the functions of a traceback tell most.
        started: whether its first step had begun; None when nobody saw.
        steps: that it had made; None when nobody counted, then the log's progress bar is read.
    """
    frames = log[log.rfind("Traceback (most recent call last)") :] if "Traceback" in log else log
    if started is False:
        return "load"
    for pattern, phase in ((_SAVING, "save"), (_ANSWERING, "evaluation")):
        if pattern.search(frames):
            return phase
    counted = [int(n) for n in _STEPS.findall(log)] if steps is None else [steps]
    if not started and not any(counted) and _LOADING.search(frames):
        return "load"
    return "long_batch" if any(counted) else "first_step"


def diagnose(
    exit_code: int | None,
    log: str,
    *,
    oom_kills_before: int = 0,
    started: bool | None = None,
    steps: int | None = None,
) -> Symptom:
    """Names what ended a child.

    Args:
        exit_code: 128 + n for signal n; None when it was ended by us.
        log: its last lines.
        oom_kills_before: `oom_kills()` when it started, so that a kill by the kernel is told from any other.
        started, steps: as `phase_of` takes them.
    """
    name, line = _searched(log)
    if name == "device_out_of_memory" and taken_by_others(log):
        name = "device_taken"
    if (name == "killed" or (not name and exit_code == SIGKILL_CODE)) and oom_kills() > oom_kills_before:
        name, line = "host_out_of_memory", "killed by the kernel (oom_kill counter rose)"
    if not name and exit_code == SIGKILL_CODE:
        name, line = "killed", "the process was killed (SIGKILL)"
    if name:
        phase = phase_of(log, started=started, steps=steps) if name.endswith("_out_of_memory") else ""
        return Symptom(name=name, evidence=line, transient=row(name)["transient"], phase=phase)
    lines = [ln for ln in log.splitlines() if ln.strip()]
    signal = SIGNALS.get((exit_code or 0) - 128, "")
    ended = f"exit code {exit_code}{f' ({signal})' if signal else ''}"
    return Symptom(name="unknown", evidence=f"{ended}: {lines[-1].strip()[:SENTENCE] if lines else 'no output'}")


def _searched(log: str) -> tuple[str, str]:
    """The first row of the table that the log shows, and the line that shows it; empty texts when none does."""
    lines = log.splitlines()
    for told in ([ln for ln in lines if not _ASIDE.search(ln)], lines):
        whole = "\n".join(told)
        for one in rows():
            for pattern in one["patterns"]:
                found = re.search(pattern, whole, re.IGNORECASE)
                if found:
                    line = next((ln for ln in told if found.group(0) in ln), found.group(0))
                    return one["name"], line.strip()[:SENTENCE]
    return "", ""
