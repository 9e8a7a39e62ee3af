"""What the cards of a training took, by NVIDIA's own counters; loaded by path beside the plug-in."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

LIBRARIES = ("libnvidia-ml.so.1", "libnvidia-ml.so", "nvml.dll")


class Meter:
    """Joules since it was made, over some cards.

    Args:
        uuids: of the cards, as `GPU-…`.
        library: NVML's functions; None loads them.
    """

    def __init__(self, uuids: Sequence[str], library: Any = None) -> None:
        self.library = library if library is not None else _load()
        self.handles = [one for uuid in uuids if (one := self._handle(uuid)) is not None] if self.library else []
        if len(self.handles) < len(uuids):
            self.handles = []  # a part of the cards would be told as the whole
        self.begin = self._total()

    def joules(self) -> float | None:
        """None where a card does not count (before Volta, some virtual machines), or the counter was set back."""
        now = self._total()
        return now - self.begin if now is not None and self.begin is not None and now >= self.begin else None

    def _handle(self, uuid: str) -> Any:
        handle = ctypes.c_void_p()
        found = self.library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle))
        return handle if found == 0 else None

    def _total(self) -> float | None:
        total = 0.0
        for handle in self.handles:
            millijoules = ctypes.c_ulonglong()
            if self.library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)) != 0:
                return None
            total += millijoules.value / 1000
        return total if self.handles else None


def of_this_training() -> Meter:
    """A meter of the cards that this process and its fellows train on; it counts nothing where there are none."""
    import torch

    if not torch.cuda.is_available():
        return Meter([], library=False)
    count = min(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count())
    names = [str(getattr(torch.cuda.get_device_properties(n), "uuid", "")) for n in range(count)]
    return Meter([name if name.startswith("GPU-") else f"GPU-{name}" for name in names])


def _load() -> Any:
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if library.nvmlInit_v2() == 0:
            return library
    return False
