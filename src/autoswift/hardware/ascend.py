"""Ascend cards, read from the table that `npu-smi info` prints.

The chips differ in what they can do: 910A trains in float16 alone, 910B and 910C also in bfloat16, 310 and 310P only
infer and are left out.
"""

from __future__ import annotations

import re
from dataclasses import replace

from autoswift.domain.profile import Device
from autoswift.hardware.devices import lookup
from autoswift.hardware.nvidia import speed_of
from autoswift.hardware.source import Source

MIB = 2**20
COMMAND = ("npu-smi", "info")
CANN = "/usr/local/Ascend/ascend-toolkit/latest/version.cfg"
HEAD = re.compile(r"\|\s*(\d+)\s+((?:Ascend)?\s*\d{3}[A-Za-z0-9_]*)\s*\|\s*(\S+)")
CHIP = re.compile(r"\|\s*(\d+)(?:\s+(\d+))?\s*\|\s*([0-9A-Fa-f]{4}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f])")
PROCESS = re.compile(r"\|\s*(\d+)\s+(\d+)\s*\|\s*(\d+)\s*\|\s*(.*?)\s*\|\s*(\d+)\s*\|")


def ascend(source: Source) -> tuple[list[Device], list[str]]:
    """The chips that this process may train on, and the names of those that cannot train."""
    visible = source.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    text = source.run(COMMAND)
    runtime = next(iter(re.findall(r"ersion\s*=\s*\[?(?:[\d.]+:)?([\w.]+)", source.read(CANN))), "") if text else ""
    found = [replace(one, runtime=runtime) for one in parse_ascend(text)]
    able = [one for one in found if trains(one.name)]
    unable = sorted({one.name for one in found if not trains(one.name)})
    return chosen(able, visible), unable


def chosen(devices: list[Device], visible: str | None) -> list[Device]:
    """Those that ASCEND_RT_VISIBLE_DEVICES leaves: numbers and ranges (`0-3`), in its order."""
    if visible is None:
        return devices
    wanted: list[int] = []
    for word in visible.replace(" ", "").split(","):
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        if ends is None:
            break
        wanted += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    by_index = {one.index: one for one in devices}
    return [by_index[index] for index in wanted if index in by_index]


def trains(name: str) -> bool:
    """Whether the chip has the operators of a backward pass."""
    facts = lookup(name)
    return facts.trains if facts else "310" not in name


def parse_ascend(text: str) -> list[Device]:
    """Devices from `npu-smi info`: a table with two lines a chip, the second holding used / total memory in MB.

    A chip with on-package memory prints two pairs, its DDR (0 / 0) and its HBM; the last one counts.
    """
    found: list[Device] = []
    owners: dict[tuple[str, str], int] = {}
    version = next(iter(re.findall(r"npu-smi\s+([\w.]+)", text)), "")
    name = card = ""
    for line in text.splitlines():
        head = HEAD.match(line)
        if head:
            card, name = head[1], head[2].strip()
            continue
        sizes = re.findall(r"(\d+)\s*/\s*(\d+)", line)
        if name and sizes:
            chip = CHIP.match(line)
            number = int(chip[2]) if chip and chip[2] else len(found)
            owners[card, chip[1] if chip else "0"] = len(found)
            found.append(_device(name, number, [int(part) * MIB for part in sizes[-1]], version))
            name = ""
            continue
        process = PROCESS.match(line)
        position = owners.get((process[1], process[2])) if process else None
        if process and position is not None:
            row = {"pid": int(process[3]), "name": process[4], "bytes": int(process[5]) * MIB}
            found[position] = replace(found[position], processes=(*found[position].processes, row))
    return found


def _device(name: str, index: int, memory: list[int], version: str) -> Device:
    """memory: bytes used, bytes in all."""
    short = name.removeprefix("Ascend").strip()
    # A 910 that says nothing more is the first one; with 64 GB a chip it is a 910C, which reports itself so.
    if short == "910" and memory[1] > 48 * 2**30:
        short = "910C"
    facts = lookup(f"ascend {short}")
    return Device(
        kind="npu",
        vendor="huawei",
        name=f"Ascend {short}",
        index=index,
        memory_bytes=memory[1],
        free_bytes=max(0, memory[1] - memory[0]),
        bf16=bool(facts and facts.bf16),
        driver=version,
        **speed_of(facts),
    )
