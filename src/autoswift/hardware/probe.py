"""The machine as this process may use it: cores, memory, disk, accelerators."""

from __future__ import annotations

import shutil
from pathlib import Path

from autoswift.domain.profile import GIB, Device, HardwareProfile
from autoswift.errors import InputError
from autoswift.hardware import cards, host
from autoswift.hardware.cpu_rate import cpu_rates, estimated
from autoswift.hardware.notes import note
from autoswift.hardware.packages import installed
from autoswift.hardware.source import Source, here
from autoswift.run.files import dumps, read_json
from autoswift.tables import explain, told

CPU_TRAINING_SHARE = 0.5
"""Of the float32 product rate, what LoRA training sustains. Measured with SmolLM2-135M (4 operations a weight and
token): 88 tokens/s, that is 47 GFLOP/s, on one thread of a core whose products reach 94; two threads gave 143."""
ASKED_FOR = {"bitsandbytes", "deepspeed", "eetq", "flash-attn", "hqq", "liger-kernel", "optimum-quanto", "torch-npu"}
ASKED_FOR |= {"megatron-core", "mcore-bridge", "transformer-engine"}
"""Packages that the rules of the device profile and the planner ask about."""


def probe(where: Path, source: Source | None = None) -> HardwareProfile:
    """Asks the machine. Missing tools mean that the accelerator is not there, never an error.

    Args:
        where: the folder that the run will write to (it need not exist yet).
        source: a recording of another machine, whose CPU is then estimated instead of measured.
    """
    source = source or here()
    cores, memory, free = host.cores(source), host.memory_bytes(source), host.memory_free_bytes(source)
    cpu, flags = _cpu(source, cores, (memory, free))
    rocm = source.real and "rocm" in installed().get("torch", "")
    found, notes, links = cards.accelerators(memory, free, source, rocm=rocm)
    if host.limited_by_cgroup(source):
        notes = (*notes, note("container_limit", cores=cores, memory=f"{memory / GIB:.1f}"))
    return HardwareProfile(
        devices=(*found, cpu),
        cpu_name=cpu.name,
        cpu_cores=cores,
        memory_bytes=memory,
        memory_free_bytes=free,
        disk_free_bytes=disk_free(where) if source.disk is None else source.disk,
        platform=f"{source.system}-{source.machine}",
        notes=notes,
        links=links,
        cpu_flags=flags,
        packages=tuple(sorted(ASKED_FOR & installed().keys())) if source.real else None,
    )


def _cpu(source: Source, cores: int, memory: tuple[int, int]) -> tuple[Device, tuple[str, ...]]:
    """The CPU as a device, and its instruction sets. `memory`: bytes in all, bytes free."""
    name, flags = host.cpu_name(source), host.cpu_flags(source)
    gflops = max(cpu_rates(name, cores).values()) if source.real else 0.0
    how = "measured"
    if not gflops:
        gflops, how = estimated(flags, cores), "estimated"
    device = Device(
        kind="cpu",
        name=name,
        memory_bytes=memory[0],
        free_bytes=memory[1],
        bf16="amx_bf16" in flags,  # elsewhere it is computed, but slower than float32
        tflops=round(gflops * CPU_TRAINING_SHARE / 1000, 4),
        tflops_source=f"{how}: {gflops:.0f} GFLOP/s in float32 matrix products x {CPU_TRAINING_SHARE:g} sustained",
    )
    return device, flags


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
