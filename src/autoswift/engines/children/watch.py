"""Early warnings of a training, from inside its process: memory nearly full, gradients that grow or are lost.

What only this process can see, or sees first; the control process watches the losses. Loaded by path, as its siblings.
"""

from __future__ import annotations

import importlib.util
import math
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

MEMORY = 0.92
"""Share of a memory that is nearly full. The peak of a longer batch is a few percent above that of the usual one, and
the allocator loses another few to fragments; what the planner leaves free is more than this."""

OWN = 0.2
"""Share of the machine's memory that this process must hold itself: one that others fill is not mended by our using
less."""

NANS = 3
"""Losses in a row that are no numbers although their gradients are (as in recover/detect.py)."""

CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)

GIB = 2.0**30

_GRADIENTS = Path(__file__).resolve().parents[2] / "recover" / "gradients.py"


def _gradients() -> Any:
    """A fresh watch of gradients: the one module that both processes use, so that it imports nothing."""
    key = "autoswift_child_gradients"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, _GRADIENTS)
        if spec is None or spec.loader is None:
            raise ImportError(f"{_GRADIENTS} is missing")
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        spec.loader.exec_module(module)
    return sys.modules[key].Gradients()


class Watch:
    """Watches one training; `take` answers warnings as the fields of their events, each once."""

    def __init__(self) -> None:
        self.gradients = _gradients()
        self.nan_losses, self.harmless = 0, False
        self._told: set[str] = set()

    def take(self, metrics: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Takes the metrics of a logging step."""
        norm = metrics.get("grad_norm")
        self.nan_losses = 0 if math.isfinite(metrics["loss"]) else self.nan_losses + 1
        # A batch of rows whose answers were cut off has no loss, and a gradient of zero: the weights are as they were.
        self.harmless = self.nan_losses < NANS and norm is not None and math.isfinite(norm)
        if self.nan_losses == 1:
            yield {"symptom": "nan", "text": f"loss {metrics['loss']}, gradient norm {norm}"}
        if norm is not None:
            growth = self.gradients.take(norm)
            if self.gradients.broken == 1:
                yield {"symptom": "nan_gradient", "text": f"gradient norm {norm}: such a step changes nothing"}
            if growth is not None:
                words = f"the gradient norm is {norm:.3g}, {growth:.0f} times its usual value"
                yield {"symptom": "gradients_growing", "text": words, "metrics": {"gradient_growth": growth}}
        for symptom, share, words in (device_memory(), host_memory()):
            if share > MEMORY and symptom not in self._told:
                self._told.add(symptom)
                yield {"symptom": symptom, "text": words, "metrics": {"memory_share": round(share, 4)}}

    @property
    def lost(self) -> bool:
        """Whether the numbers are not finite any more."""
        return bool(self.gradients.lost) or (self.nan_losses > 0 and not self.harmless)


def device_memory() -> tuple[str, float, str]:
    """The share of the device that the training's peak and all others take.

    What torch keeps for itself can be given back, so a training counts by what it had in use at most.
    """
    if not torch.cuda.is_available():
        return "memory_high", 0.0, ""
    free, total = torch.cuda.mem_get_info()
    peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.memory_reserved()
    share = (peak + max(0, total - free - reserved)) / total
    fraction = getattr(torch.cuda, "get_per_process_memory_fraction", None)
    if fraction is not None:
        share = max(share, peak / (fraction() * total))
    return "memory_high", share, f"{share:.0%} of the device's {total / GIB:.1f} GiB, its peak {peak / GIB:.1f} GiB"


def host_memory() -> tuple[str, float, str]:
    """The share of the machine's, the container's or the process's memory that is in use, whichever is nearest its end.

    0 where this process holds little of it.
    """
    process, machine = psutil.Process().memory_info(), psutil.virtual_memory()
    known: list[tuple[float, float, float]] = [(machine.total, machine.total - machine.available, process.rss)]
    known += [(limit, used, process.rss) for limit, used in _cgroup() if limit < machine.total]
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most != resource.RLIM_INFINITY:
        known.append((most, process.vms, process.vms))
    share, limit = max((used / limit if own > OWN * limit else 0.0, limit) for limit, used, own in known)
    return "host_memory_high", share, f"{share:.0%} of {limit / GIB:.1f} GiB, {process.rss / GIB:.1f} GiB its own"


def _cgroup() -> Iterator[tuple[float, float]]:
    """Limit and use of this container, without the files that the kernel would drop."""
    for limit, usage, stat in CGROUPS:
        try:
            most, used = Path(limit).read_text(encoding="ascii").strip(), float(Path(usage).read_text(encoding="ascii"))
            rows = dict(line.split() for line in Path(stat).read_text(encoding="ascii").splitlines())
        except (OSError, ValueError):
            continue
        droppable = float(rows.get("inactive_file", rows.get("total_inactive_file", 0)))
        yield math.inf if most == "max" else float(most), used - droppable
        return


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a memory, of the device or of the machine, was too small."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
