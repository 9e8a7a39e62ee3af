"""Machines and tasks that the tests of the recommendation share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from autoswift.catalog.availability import Availability
from autoswift.decide.need import Constraints
from autoswift.decide.recommend import Recommendation, recommend
from autoswift.domain.profile import GIB, Device, HardwareProfile, TaskProfile
from autoswift.hardware.devices import lookup

ONLINE = Availability(huggingface=True, modelscope=True, packaged=True)
OFFLINE = Availability(huggingface=False, modelscope=False, packaged=True)


def device(card: str) -> Device:
    """A free card of the table, or a two-core CPU of 24 GiB."""
    if card == "cpu":
        return Device(kind="cpu", name="cpu", memory_bytes=24 * GIB, free_bytes=22 * GIB, tflops=0.07)
    known = lookup(card)
    assert known is not None, card
    found = known.device()
    return replace(found, free_bytes=int(found.memory_bytes * 0.96))  # a desktop and the driver have the rest


def machine(card: str | Device) -> HardwareProfile:
    one = device(card) if isinstance(card, str) else card
    return HardwareProfile(
        devices=(one,),
        cpu_name="cpu",
        cpu_cores=2,
        memory_bytes=24 * GIB,
        memory_free_bytes=22 * GIB,
        disk_free_bytes=500 * GIB,
        platform="linux",
    )


def asked(
    card: str | Device, language: str = "zh", here: Availability = ONLINE, hours: float = 4.0, **profile: Any
) -> Recommendation:
    """What is recommended for a task said in the words of TaskProfile."""
    task = TaskProfile(text="x", language=language, **profile)
    return recommend(task, machine(card), Constraints(availability=here, seconds=hours * 3600))
