"""Accelerators of this machine, asked through their drivers' own tools (no torch in this process)."""

from __future__ import annotations

import os
import platform
import re
import sys

from autoswift.domain.profile import Device
from autoswift.hardware.devices import lookup
from autoswift.hardware.host import tool_output
from autoswift.hardware.notes import note

MIB = 2**20
BF16_CAPABILITY = (8, 0)
"""Ampere is the first NVIDIA generation that multiplies bfloat16 natively."""
NVIDIA_QUERY = ["nvidia-smi", "--query-gpu=index,name,memory.total,memory.used,compute_cap,uuid",
                "--format=csv,noheader,nounits"]  # fmt: skip
IN_USE = 0.2
"""Of a card's memory: more than a desktop and idle contexts take, so somebody else is computing on it."""
APPLE_SHARE = 0.75
"""Of a Mac's unified memory, what its driver lets the GPU take by default."""


def accelerators(memory: int, free: int) -> tuple[tuple[Device, ...], tuple[str, ...]]:
    """Every accelerator that this process may use, best first, and notes on what is unusual.

    Args:
        memory: of the host, in bytes; matters where the accelerator shares it.
        free: of it, unused.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    nvidia = parse_nvidia(tool_output(NVIDIA_QUERY), visible) if visible not in ("", "-1") else []
    ascend = parse_ascend(tool_output(["npu-smi", "info"]))
    apple = _apple(memory, free)
    found = nvidia or ascend or apple
    found.sort(key=lambda one: (-one.tflops, -one.free_bytes, one.index))
    notes = []
    names = sorted({one.name for one in found})
    if len(names) > 1:
        notes.append(note("mixed", names=", ".join(names)))
    for one in found:
        if _used_share(one) > IN_USE:
            notes.append(note("in_use", name=one.name, index=one.index, share=f"{_used_share(one):.0%}"))
    notes += [note("unknown_speed", name=name) for name in sorted({d.name for d in found if not d.tflops})]
    return tuple(found), tuple(notes)


def parse_nvidia(text: str, visible: str | None = None) -> list[Device]:
    """Devices from nvidia-smi's CSV (index, name, MiB total, MiB used, capability, uuid).

    Args:
        text: its output; lines that do not parse are left out.
        visible: CUDA_VISIBLE_DEVICES: indices or uuid prefixes, in the order that CUDA will number them.
    """
    rows: dict[str, Device] = {}
    uuids: dict[str, str] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) < 6 or not cells[0].isdigit() or not cells[2].isdigit():
            continue  # "[N/A]" for the memory of a card that is split or lost
        index, name, total, used, capability, uuid = cells[:6]
        parts = capability.split(".")
        version = (int(parts[0]), int(parts[1])) if len(parts) == 2 and all(p.isdigit() for p in parts) else (0, 0)
        facts = lookup(name + f" {round(int(total) / 1024)}gb") or lookup(name)
        memory = int(total) * MIB
        rows[index] = Device(
            kind="cuda",
            name=name,
            index=int(index),
            memory_bytes=memory,
            free_bytes=memory - (int(used) * MIB if used.isdigit() else 0),
            bf16=version >= BF16_CAPABILITY if version != (0, 0) else bool(facts and facts.bf16),
            capability=capability if version != (0, 0) else "",
            tflops=round(facts.sustained_tflops, 2) if facts else 0.0,
            tflops_source=facts.tflops_source if facts else "",
        )
        uuids[uuid] = index
    if visible is None:
        return list(rows.values())
    chosen = []
    for word in (part.strip() for part in visible.split(",")):
        by_uuid = next((i for u, i in uuids.items() if word and u.startswith(word)), None)
        if (word if word.isdigit() else by_uuid) not in rows:
            break  # CUDA too stops at the first one that it does not know
        chosen.append(rows[word if word.isdigit() else str(by_uuid)])
    return chosen


def parse_ascend(text: str) -> list[Device]:
    """Devices from `npu-smi info`: a table with two lines a chip, the second holding used / total HBM in MB."""
    found: list[Device] = []
    name = ""
    for line in text.splitlines():
        head = re.match(r"\|\s*(\d+)\s+((?:Ascend)?\s*\d{3}[A-Z0-9]*)\s*\|", line)
        if head:
            name = head.group(2).strip()
            continue
        sizes = re.findall(r"(\d+)\s*/\s*(\d+)", line)
        if name and sizes:
            used, total = (int(number) for number in sizes[-1])
            facts = lookup(f"ascend {name}")
            found.append(
                Device(
                    kind="npu",
                    name=f"Ascend {name.removeprefix('Ascend').strip()}",
                    index=len(found),
                    memory_bytes=total * MIB,
                    free_bytes=(total - used) * MIB,
                    bf16=bool(facts and facts.bf16),
                    tflops=round(facts.sustained_tflops, 2) if facts else 0.0,
                    tflops_source=facts.tflops_source if facts else "",
                )
            )
            name = ""
    return found


def _apple(memory: int, free: int) -> list[Device]:
    """The GPU of an Apple chip."""
    if sys.platform != "darwin" or platform.machine() != "arm64":
        return []
    name = tool_output(["sysctl", "-n", "machdep.cpu.brand_string"]) or "Apple"
    facts = lookup(name)
    return [
        Device(
            kind="mps",
            name=name,
            memory_bytes=int(memory * APPLE_SHARE),
            free_bytes=int(min(free, memory * APPLE_SHARE)),
            bf16=bool(facts and facts.bf16),
            tflops=round(facts.sustained_tflops, 2) if facts else 0.0,
            tflops_source=facts.tflops_source if facts else "",
        )
    ]


def _used_share(device: Device) -> float:
    return 1 - device.free_bytes / device.memory_bytes if device.memory_bytes else 0.0
