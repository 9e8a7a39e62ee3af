"""What a training needs in memory, as recovery knows it: the model of the plan, corrected by what was really seen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autoswift.decide.replan import needed_bytes, settings_of
from autoswift.domain.plan import Plan
from autoswift.domain.profile import GIB, Device
from autoswift.hardware.margins import comparable
from autoswift.hardware.memory import MemoryEstimate, peak_memory
from autoswift.hardware.shape import shape_of
from autoswift.tables import table

OF_MEMORY = ("method", "precision", "lora_rank", "per_device_train_batch_size", "gradient_accumulation_steps",
             "gradient_checkpointing", "optimizer", "max_length", "use_liger_kernel", "attention")  # fmt: skip
"""Settings of a trial that its memory depends on."""
BELIEVED = 4.0
"""A correction beyond this factor says that the model is of another training than the one that ran (a shape that is not
known, another process on the card that came and went): then nothing is read off it. Corrections on measured cells were
below 1.1."""
SMALLEST = 2**28
"""Bytes of room below which no training of a language model runs: a smaller figure is none."""
OVER = 1.02
"""The need after running out of memory, over the least that no longer fits: how much was missing is not known."""

_AMOUNT = r"([\d.]+) (bytes|[KMGT]iB)"
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SAID = {
    "asked": re.compile(r"[Tt]ried to allocate " + _AMOUNT),
    "total": re.compile(r"total capaci?ty of " + _AMOUNT),
    "free": re.compile("of which " + _AMOUNT + " is free"),
    "process": re.compile("this process has " + _AMOUNT + " memory in use"),
    "torch": re.compile("memory " + _AMOUNT + " is allocated by PyTorch"),
    "idle": re.compile("and " + _AMOUNT + " is reserved by PyTorch but unallocated"),
    "allowed": re.compile(_AMOUNT + " allowed"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """What an out-of-memory message says, in bytes; 0 where it does not.

    Attributes:
        asked: that could not be had. total: of the device. free: of it. allowed: to the process.
        process: what the process has. torch, idle: of that, used by tensors, and kept by the allocator.
    """

    asked: int = 0
    total: int = 0
    free: int = 0
    process: int = 0
    torch: int = 0
    idle: int = 0
    allowed: int = 0

    @property
    def used(self) -> int:
        """By the process. In a container the driver's list of processes may leave it out: then by torch alone."""
        return max(self.process, self.torch + self.idle)

    @property
    def room(self) -> int:
        """What the process could have: others on the device have taken the rest."""
        room = self.used + self.free if self.used else 0
        return min(room or self.allowed, self.allowed or room)

    @property
    def least(self) -> int:
        """What it needed at the least. What the allocator only keeps may have been of use or not: it is left out."""
        return self.used - min(self.idle, self.asked) + self.asked if self.used else 0


def shortage(words: str) -> Shortage:
    """Reads torch's message."""
    found = {name: pattern.search(words) for name, pattern in _SAID.items()}
    return Shortage(**{name: int(float(m[1]) * _UNITS[m[2]]) for name, m in found.items() if m})


class MemoryModel:
    """Bytes that settings need on the device, by the closed form times what was seen.

    Attributes:
        room: bytes that it may have. factor: what was seen, over the closed form.
        believed: False while the closed form is far from what happens. exact: a message has told what was needed.

    Args:
        plan: of the search. device: that it runs on; None guesses by the number format.
    """

    def __init__(self, plan: Plan, device: Device | None) -> None:
        self.plan = plan
        guess = Device(kind="cpu" if plan.training.precision == "float32" else "cuda", name="")
        self.device = device or guess
        self.room = plan.estimate.memory_limit_bytes
        self.factor = 1.0
        self.believed, self.exact = True, False

    def needs(self, settings: Mapping[str, Any]) -> int:
        """The upper bound on the device, with what was seen."""
        return int(needed_bytes(self._estimate(settings)) * self.factor)

    def peak(self, settings: Mapping[str, Any], measured: int) -> float:
        """Takes a training's real peak; the model never again says less than what was seen.

        Returns:
            Measured over predicted.
        """
        predicted = comparable(self._estimate(settings), self.device.kind)
        ratio = measured / max(predicted, 1)
        if 1 / BELIEVED <= ratio <= BELIEVED:
            self.factor = max(self.factor, ratio)
        return ratio

    def ran_out(self, settings: Mapping[str, Any], words: str) -> None:
        """Takes an out-of-memory: the need was above the room, and both may be in its message."""
        said = shortage(words)
        estimate = self._estimate(settings)
        told = said.room + (estimate.context_bytes if said.allowed else 0)
        room = min(self.room, told) if said.room else self.room
        raw = needed_bytes(estimate)
        factor = max(self.factor, said.least / max(raw, 1), OVER * room / max(raw, 1))
        self.exact = self.exact or bool(said.least)
        # A need above the room is no surprise, by however much; one far below it is another training's.
        self.believed = factor <= BELIEVED and room >= SMALLEST
        if self.believed:
            self.room, self.factor = room, factor

    def as_planned(self, words: str) -> bool:
        """Whether the device had as much room as the plan counted with: others have not taken any of it since.

        Nine tenths, since what others hold moves a little.
        """
        said = shortage(words)
        # What a process is allowed counts its allocator alone, not the context beside it.
        room = said.room + (int(float(table("memory")["context_gib"]) * GIB) if said.allowed else 0)
        return 0 < self.plan.estimate.memory_limit_bytes * 0.9 <= room

    def share(self, settings: Mapping[str, Any]) -> float:
        """Of the room that settings need; 0 where the model is not believed."""
        return self.needs(settings) / max(self.room, 1) if self.believed else 0.0

    def _estimate(self, settings: Mapping[str, Any]) -> MemoryEstimate:
        known = {name: settings[name] for name in OF_MEMORY if name in settings}
        training = replace(self.plan.training, **known)
        sizes = settings_of(training, self.device, training.max_length)
        return peak_memory(shape_of(self.plan.model), training.method, sizes)
