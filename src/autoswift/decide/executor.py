"""Where trials run: on this machine, or on a Ray cluster when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoswift.decide.book import Book
from autoswift.decide.inputs import Inputs
from autoswift.domain.plan import TrainingSettings
from autoswift.errors import InputError
from autoswift.tables import explain


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The executor, and what `ray` needs to know."""

    executor: str
    ray_address: str = ""
    device_share: float = 1.0


def asks_for_cluster(options: Mapping[str, Any]) -> bool:
    """Whether the user wants the executor `ray`, by its name or by an address."""
    return options.get("executor") == "ray" or bool(options.get("ray_address"))


def choose_executor(inputs: Inputs, training: TrainingSettings, peak_bytes: int, book: Book) -> Place:
    """`ray` when it is named or a cluster's address is given, else `local`.

    Args:
        training: its number of devices.
        peak_bytes: of a trial on a device.

    Raises:
        InputError: when trials do not fit into the part of a device that they are to have.
    """
    address = str(inputs.task.options.get("ray_address", ""))
    if address:
        because, others = book.say("executor.address", address=address), [("local", book.say("executor.not_local"))]
    else:
        because, others = book.say("executor"), [("ray", book.say("executor.not_ray"))]
    executor = str(book.add("executor", "ray" if address else "local", because, alternatives=others))
    if executor != "ray":
        return Place(executor=executor)
    address = str(book.add("ray_address", "", book.say("ray_address")))
    if inputs.on_cpu:
        return Place(executor=executor, ray_address=address)
    share = float(book.add("device_share", 1.0, book.say("device_share")))
    if not 0 < share <= 1 or (share != 1 and training.devices > 1):
        raise InputError(*explain("decide.device_share", share=f"{share:g}"))
    room = inputs.hardware.device.free_bytes * share
    if share != 1 and peak_bytes > room:
        raise InputError(
            *explain("decide.device_share_memory", share=share, need=peak_bytes / 2**30, room=room / 2**30)
        )
    return Place(executor=executor, ray_address=address, device_share=share)
