"""The machine as this process may use it: cores, memory, disk, accelerators."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

from autoswift.domain.profile import GIB, Device, HardwareProfile
from autoswift.errors import InputError
from autoswift.hardware import cards, host
from autoswift.hardware.cpu_rate import cpu_rates
from autoswift.hardware.notes import note
from autoswift.run.files import dumps, read_json
from autoswift.tables import explain, told

CPU_TRAINING_SHARE = 0.5
"""Of the float32 product rate, what LoRA training sustains. Measured with SmolLM2-135M (4 operations a weight and
token): 88 tokens/s, that is 47 GFLOP/s, on one thread of a core whose products reach 94; two threads gave 143."""


def probe(where: Path) -> HardwareProfile:
    """Asks the machine. Missing tools mean that the accelerator is not there, never an error.

    Args:
        where: the folder that the run will write to (it need not exist yet).
    """
    cores, memory, free = host.cores(), host.memory_bytes(), host.memory_free_bytes()
    name = host.cpu_name()
    rates = cpu_rates(name, cores)
    gflops = max(rates.values())
    cpu = Device(
        kind="cpu",
        name=name,
        memory_bytes=memory,
        free_bytes=free,
        bf16=False,  # computed, but without AMX slower than float32
        tflops=round(gflops * CPU_TRAINING_SHARE / 1000, 4),
        tflops_source=f"measured: {gflops:.0f} GFLOP/s in float32 matrix products x {CPU_TRAINING_SHARE:g} sustained"
        if gflops
        else "",
    )
    found, notes = cards.accelerators(memory, free)
    if host.limited_by_cgroup():
        notes = (*notes, note("container_limit", cores=cores, memory=f"{memory / GIB:.1f}"))
    return HardwareProfile(
        devices=(*found, cpu),
        cpu_name=name,
        cpu_cores=cores,
        memory_bytes=memory,
        memory_free_bytes=free,
        disk_free_bytes=disk_free(where),
        platform=f"{sys.platform}-{platform.machine()}",
        notes=notes,
    )


def disk_free(where: Path) -> int:
    """Free bytes at a folder, or at the nearest existing one above it."""
    place = where.expanduser().absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def profile_json(profile: HardwareProfile) -> str:
    """The profile as JSON, which `from_json` reads back."""
    return dumps(profile, indent=1)


def from_json(path: Path) -> HardwareProfile:
    """A profile that `profile_json` wrote, or one written by hand, for `--hardware PROBE.json`.

    Raises:
        InputError: when the file is missing, is not JSON or does not describe a machine; names the field.
    """
    from pydantic import TypeAdapter, ValidationError

    if not path.is_file():
        raise InputError(*explain("hardware.no_file", path=path))
    raw = read_json(path)
    try:
        profile = TypeAdapter(HardwareProfile).validate_python(raw)
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or told("error.hardware.whole")
        raise InputError(*explain("hardware.not_machine", path=path, place=place, evidence=first["msg"])) from exc
    if not profile.devices:
        raise InputError(*explain("hardware.no_device", path=path))
    return profile
