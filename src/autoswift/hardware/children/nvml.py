"""Asks NVIDIA's management library about the cards: `python -I nvml.py` prints one JSON object, or nothing.

A process of its own, because a call into a wedged driver never returns and cannot be interrupted. Each answer that the
library refuses (a virtual machine, an old driver) is left out; only the list of the cards must be there.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

LIBRARIES = ("libnvidia-ml.so.1", "libnvidia-ml.so", "nvml.dll")
TEXT = 96
"""Bytes of the library's longest text (a UUID)."""
NOT_AVAILABLE = 2**64 - 1
"""The library's word for a number that it does not have, such as the memory of another container's process."""
READ, NVLINK = 0, 2
"""Peer-to-peer capabilities that are asked for (NVML_P2P_CAPS_INDEX_*)."""
MOST_LINKS, MOST_PROCESSES = 18, 512


class Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class Process(ctypes.Structure):
    """nvmlProcessInfo_t."""

    _fields_ = [
        ("pid", ctypes.c_uint),
        ("memory", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


class Library:
    """The library, each function giving its value or None."""

    def __init__(self) -> None:
        for name in LIBRARIES:
            try:
                self.functions = ctypes.CDLL(name)
                break
            except OSError:
                continue
        else:
            raise OSError("no NVML")
        if self.call("nvmlInit_v2") != 0:
            raise OSError("NVML does not start")

    def call(self, function: str, *arguments: Any) -> int:
        """The function's return code; -1 when this version has no such function."""
        found = getattr(self.functions, function, None)
        return int(found(*arguments)) if found is not None else -1

    def number(self, function: str, *arguments: Any, kind: Any = ctypes.c_uint) -> int | None:
        """A number that the function writes to its last argument."""
        value = kind()
        return int(value.value) if self.call(function, *arguments, ctypes.byref(value)) == 0 else None

    def pair(self, function: str, *arguments: Any) -> list[int] | None:
        """Two numbers that it writes to its last two."""
        one, two = ctypes.c_int(), ctypes.c_int()
        done = self.call(function, *arguments, ctypes.byref(one), ctypes.byref(two)) == 0
        return [one.value, two.value] if done else None

    def words(self, function: str, *arguments: Any) -> str:
        """A text."""
        text = ctypes.create_string_buffer(TEXT)
        return text.value.decode("utf-8", "replace") if self.call(function, *arguments, text, TEXT) == 0 else ""

    def handle(self, function: str, *arguments: Any) -> ctypes.c_void_p | None:
        """A handle of a card or of a slice of one."""
        found = ctypes.c_void_p()
        return found if self.call(function, *arguments, ctypes.byref(found)) == 0 else None

    def memory(self, card: Any) -> dict[str, int] | None:
        """Bytes in all, free and used."""
        found = Memory()
        if self.call("nvmlDeviceGetMemoryInfo", card, ctypes.byref(found)) != 0:
            return None
        return {"total": found.total, "free": found.free, "used": found.used}

    def processes(self, card: Any) -> list[dict[str, Any]]:
        """Processes that compute on the card, with their bytes where they may be known."""
        room, count = (Process * MOST_PROCESSES)(), ctypes.c_uint(MOST_PROCESSES)
        if self.call("nvmlDeviceGetComputeRunningProcesses_v3", card, ctypes.byref(count), room) != 0:
            return []
        rows = room[: count.value]
        return [{"pid": row.pid, "bytes": 0 if row.memory == NOT_AVAILABLE else row.memory} for row in rows]

    def links(self, card: Any) -> int:
        """NVLink lanes that are up."""
        return sum(
            self.number("nvmlDeviceGetNvLinkState", card, ctypes.c_uint(link)) == 1 for link in range(MOST_LINKS)
        )

    def slices(self, card: Any) -> list[dict[str, Any]]:
        """The instances that a card is split into."""
        found = []
        for number in range(self.number("nvmlDeviceGetMaxMigDeviceCount", card) or 0):
            one = self.handle("nvmlDeviceGetMigDeviceHandleByIndex", card, ctypes.c_uint(number))
            if one is not None:
                found.append({
                    "name": self.words("nvmlDeviceGetName", one),
                    "uuid": self.words("nvmlDeviceGetUUID", one),
                    "memory": self.memory(one),
                })  # fmt: skip
        return found

    def card(self, index: int) -> dict[str, Any] | None:
        """Everything about one card."""
        card = self.handle("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index))
        if card is None:
            return None
        mig = self.pair("nvmlDeviceGetMigMode", card)
        ecc = self.pair("nvmlDeviceGetEccMode", card)
        return {
            "index": index,
            "name": self.words("nvmlDeviceGetName", card),
            "uuid": self.words("nvmlDeviceGetUUID", card),
            "memory": self.memory(card),
            "capability": self.pair("nvmlDeviceGetCudaComputeCapability", card),
            "processes": self.processes(card),
            "power_limit_mw": self.number("nvmlDeviceGetEnforcedPowerLimit", card),
            "power_mw": self.number("nvmlDeviceGetPowerUsage", card),
            "ecc": ecc[0] == 1 if ecc else None,
            "persistence": self.number("nvmlDeviceGetPersistenceMode", card),
            "mig": mig[0] == 1 if mig else False,
            "slices": self.slices(card) if mig and mig[0] == 1 else [],
            "nvlinks": self.links(card),
        }

    def peers(self, count: int) -> dict[str, dict[str, bool]]:
        """For each pair of cards, whether they read each other's memory, and over NVLink."""
        cards = [self.handle("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index)) for index in range(count)]
        found: dict[str, dict[str, bool]] = {}
        for one in range(count):
            for two in range(one + 1, count):
                if cards[one] is None or cards[two] is None:
                    continue
                answers = {
                    name: self.number("nvmlDeviceGetP2PStatus", cards[one], cards[two], ctypes.c_int(capability))
                    for name, capability in (("read", READ), ("nvlink", NVLINK))
                }
                found[f"{one}-{two}"] = {name: answer == 0 for name, answer in answers.items()}
        return found


def main() -> None:
    """Prints what was found."""
    try:
        library = Library()
    except OSError:
        return
    count = library.number("nvmlDeviceGetCount_v2") or 0
    cards = [card for index in range(count) if (card := library.card(index)) is not None]
    cuda = library.number("nvmlSystemGetCudaDriverVersion_v2", kind=ctypes.c_int)
    json.dump(
        {
            "driver": library.words("nvmlSystemGetDriverVersion"),
            "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else "",
            "cards": cards,
            "peers": library.peers(count),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
