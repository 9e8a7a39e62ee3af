"""What torch's message of missing device memory says of who holds the memory."""

from __future__ import annotations

import re

OTHERS = 0.2
"""Share of the device that others must hold before the failure is theirs: below, the training is simply too large."""

FITS = 0.9
"""The training would have fitted alone when its own memory and what it asked for stay under this share of the device:
the rest is the context, the libraries' work space and fragments."""

CONTEXT_GIB = 1.0
"""A process's CUDA context and libraries, where the message counts torch's own memory only (0.5 to 0.8 measured)."""

_GIB = {"bytes": 2.0**-30, "KiB": 2.0**-20, "MiB": 2.0**-10, "GiB": 1.0, "TiB": 2.0**10}
_SIZE = r"([\d.]+) (bytes|[KMGT]iB)"
_TOTAL = re.compile(rf"total capac(?:i)?ty of {_SIZE}|; {_SIZE} total capacity")
_FREE = re.compile(rf"of which {_SIZE} is free|; {_SIZE} free")
_ASKED = re.compile(rf"Tried to allocate {_SIZE}")
_PROCESS = re.compile(rf"this process has {_SIZE} memory in use")
_TORCH = re.compile(rf"memory {_SIZE} is allocated by PyTorch")
_IDLE = re.compile(rf"and {_SIZE} is reserved by PyTorch but unallocated")
_RESERVED = re.compile(rf"; {_SIZE} (?:reserved in total|cached)")


def taken_by_others(log: str) -> bool:
    """Whether the device was full because other processes were on it.

    Told from the message's own numbers: what is neither free nor this process's belongs to others. Inside a container
    the message names this process like a foreign one, so torch's own count stands beside what it says of the process.
    """
    line = next((ln for ln in reversed(log.splitlines()) if "Tried to allocate" in ln), "")
    total, free, asked = (_gib(p, line) for p in (_TOTAL, _FREE, _ASKED))
    if total is None or free is None or asked is None:
        return False
    process = _gib(_PROCESS, line) or 0.0
    torch = (_gib(_TORCH, line) or 0.0) + (_gib(_IDLE, line) or 0.0) or _gib(_RESERVED, line) or 0.0
    own = max(process, torch + CONTEXT_GIB)
    return total - free - own > OTHERS * total and own + asked < FITS * total


def _gib(pattern: re.Pattern[str], line: str) -> float | None:
    found = pattern.search(line)
    if not found:
        return None
    number, unit = (g for g in found.groups() if g is not None)
    return float(number) * _GIB[unit]
