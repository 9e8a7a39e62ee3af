"""NVIDIA cards, asked through the management library, else through nvidia-smi.

Three answers are understood, best first: the library's (a child process, 70 ms), `nvidia-smi -q -x` (XML, every field)
and `nvidia-smi --query-gpu` (CSV, six fields, for drivers whose XML is broken or cut off).
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree  # the driver's own output on this machine

from autoswift.domain.profile import Device
from autoswift.hardware.devices import DeviceFacts, lookup
from autoswift.hardware.source import Source

MIB = 2**20
GIB = 2**30
BF16_CAPABILITY = (8, 0)
"""Ampere is the first NVIDIA generation that multiplies bfloat16 natively."""
LIBRARY = (sys.executable, "-I", str(Path(__file__).with_name("children") / "nvml.py"))
XML = ("nvidia-smi", "-q", "-x")
CSV = ("nvidia-smi", "--query-gpu=index,name,memory.total,memory.used,compute_cap,uuid",
       "--format=csv,noheader,nounits")  # fmt: skip
DRIVER = ("/dev/nvidiactl", "/dev/dxg")
"""There where the driver is loaded: on Linux, and in Windows' subsystem for it."""
TOPOLOGY = ("nvidia-smi", "topo", "-m")
SLICES = 7
"""Compute slices of a card that can be split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one of the answers says: the cards in the driver's order, and which pairs are linked how."""

    devices: tuple[Device, ...] = ()
    slices: dict[str, tuple[Device, ...]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)


def nvidia(source: Source) -> Found:
    """The cards that this process may use, in the order in which CUDA will number them."""
    visible = source.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1", "NoDevFiles", "void", "none"):
        return Found()
    if source.real and shutil.which(XML[0]) is None and not any(Path(place).exists() for place in DRIVER):
        return Found()  # saves starting a process on every machine without a card
    found = from_library(source.run(LIBRARY)) or from_xml(source.run(XML))
    if found is None:
        found = Found(devices=tuple(parse_nvidia(source.run(CSV))))
    if not found.devices:
        return Found()
    links = found.links
    if len(found.devices) > 1 and not links:
        links = parse_topology(source.run(TOPOLOGY))
    chosen = _chosen(found, visible)
    left = {str(one.index) for one in chosen}
    links = {pair: kind for pair, kind in links.items() if set(pair.split("-")) <= left}
    return Found(devices=tuple(chosen), links=links)


def from_library(text: str) -> Found | None:
    """The answer of children/nvml.py; None when it is not there or says nothing of use."""
    try:
        return _library_answer(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None


def _library_answer(told: Any) -> Found | None:
    """As `from_library`; raises what a wrong shape raises."""
    devices: list[Device] = []
    slices: dict[str, tuple[Device, ...]] = {}
    for card in told["cards"]:
        if not card.get("memory") or not card.get("name"):
            continue
        memory = (int(card["memory"]["total"]), int(card["memory"]["free"]))
        capability = ".".join(str(part) for part in card.get("capability") or ())
        one = replace(
            _device(str(card["name"]), int(card["index"]), memory, capability),
            uuid=str(card.get("uuid") or ""),
            driver=str(told.get("driver") or ""),
            runtime=str(told.get("cuda") or ""),
            processes=tuple(_processes(card.get("processes"))),
            ecc=card.get("ecc") if isinstance(card.get("ecc"), bool) else None,
            persistence=None if card.get("persistence") is None else card["persistence"] == 1,
        )
        if card.get("power_limit_mw"):
            one = replace(one, power_limit_watts=float(card["power_limit_mw"]) / 1000)
        devices.append(one)
        if card.get("mig"):
            parts = [part for part in card.get("slices") or () if part.get("memory")]
            slices[str(one.index)] = tuple(_slice(one, p["name"], p["uuid"], p["memory"]) for p in parts)
    links = {
        str(pair): "nvlink" if peer.get("nvlink") else "p2p" if peer.get("read") else "host"
        for pair, peer in (told.get("peers") or {}).items()
    }
    return Found(devices=tuple(devices), slices=slices, links=links) if devices else None


def from_xml(text: str) -> Found | None:
    """The answer of `nvidia-smi -q -x`; None when it is no XML or holds no card whose memory is known."""
    start = text.find("<nvidia_smi_log")
    try:
        root = ElementTree.fromstring(text[start:]) if start >= 0 else None  # noqa: S314
    except ElementTree.ParseError:
        return None
    if root is None:
        return None
    devices: list[Device] = []
    slices: dict[str, tuple[Device, ...]] = {}
    for index, gpu in enumerate(root.findall("gpu")):
        memory = _memory(gpu.find("fb_memory_usage"))
        if memory is None:
            continue  # lost ("GPU is lost"), or a Jetson, whose memory is the host's
        one = _device(_text(gpu, "product_name"), index, memory, _text(gpu, "compute_capability"))
        limit = _number(
            _text(gpu, "gpu_power_readings/current_power_limit") or _text(gpu, "power_readings/power_limit")
        )
        one = replace(
            one,
            uuid=_text(gpu, "uuid"),
            driver=_text(root, "driver_version"),
            runtime=_text(root, "cuda_version"),
            power_limit_watts=limit or one.power_limit_watts,
            ecc=_switch(_text(gpu, "ecc_mode/current_ecc")),
            persistence=_switch(_text(gpu, "persistence_mode")),
            processes=tuple(
                {"pid": int(_number(_text(p, "pid"))), "name": Path(_text(p, "process_name")).name,
                 "bytes": int(_number(_text(p, "used_memory")) * MIB)}
                for p in gpu.findall("processes/process_info")
                if _text(p, "type") in ("", "C", "C+G", "M+C")
            ),
        )  # fmt: skip
        devices.append(one)
        if _text(gpu, "mig_mode/current_mig") == "Enabled":
            slices[str(index)] = _xml_slices(one, gpu)
    return Found(devices=tuple(devices), slices=slices) if devices else None


def parse_nvidia(text: str, visible: str | None = None) -> list[Device]:
    """Devices from nvidia-smi's CSV (index, name, MiB total, MiB used, capability, uuid).

    Args:
        text: its output; lines that do not parse are left out.
        visible: CUDA_VISIBLE_DEVICES: indices or uuid prefixes, in the order that CUDA will number them.
    """
    devices = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) < 6 or not cells[0].isdigit() or not cells[2].isdigit():
            continue  # "[N/A]" for the memory of a card that is split or lost
        index, name, total, used, capability, uuid = cells[:6]
        memory = int(total) * MIB
        free = memory - (int(used) * MIB if used.isdigit() else 0)
        devices.append(replace(_device(name, int(index), (memory, free), capability), uuid=uuid))
    return _chosen(Found(devices=tuple(devices)), visible)


def parse_topology(text: str) -> dict[str, str]:
    """How pairs of cards are linked, from the matrix of `nvidia-smi topo -m`: nvlink, p2p (one PCIe switch) or host."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line.split() for line in plain.splitlines() if line.strip()]
    header = next((line for line in lines if line[0] == "GPU0"), [])
    columns = [word for word in header if re.fullmatch(r"GPU\d+", word)]
    links = {}
    for line in lines:
        if not re.fullmatch(r"GPU\d+", line[0]) or line is header or len(line) <= len(columns):
            continue
        one = int(line[0][3:])
        for column, word in zip(columns, line[1:], strict=False):
            two = int(column[3:])
            if one < two and re.fullmatch(r"NV\d+|PIX|PXB|PHB|NODE|SYS", word):
                links[f"{one}-{two}"] = (
                    "nvlink" if word.startswith("NV") else "p2p" if word in ("PIX", "PXB") else "host"
                )
    return links


def _chosen(found: Found, visible: str | None) -> list[Device]:
    """The devices that the variable leaves, in its order; a split card stands for its slices."""
    units: list[tuple[Device, ...]] = [found.slices.get(str(one.index), (one,)) for one in found.devices]
    flat = [one for unit in units for one in unit]
    if visible is None:
        return flat
    chosen: list[Device] = []
    for word in (part.strip() for part in visible.split(",")):
        if word.isdigit():
            match = next((u[:1] for one, u in zip(found.devices, units, strict=True) if one.index == int(word)), ())
        else:
            match = tuple(one for one in flat if word and one.uuid.lower().startswith(word.lower()))[:1]
        if not match or match[0] in chosen:
            break  # CUDA too stops at the first one that it does not know
        chosen.extend(match)
    return chosen


def _device(name: str, index: int, memory: tuple[int, int], capability: str) -> Device:
    """What the answers have in common. `memory`: bytes in all, bytes free."""
    facts = lookup(f"{name} {round(memory[0] / GIB)}gb") or lookup(name)
    known = version(capability)
    return Device(
        kind="cuda",
        vendor="nvidia",
        name=name,
        index=index,
        memory_bytes=memory[0],
        free_bytes=max(0, min(memory)),
        bf16=known >= BF16_CAPABILITY if known != (0, 0) else bool(facts and facts.bf16),
        capability=capability if known != (0, 0) else (facts.capability if facts else ""),
        **speed_of(facts),
    )


def speed_of(facts: DeviceFacts | None, share: float = 1.0) -> dict[str, Any]:
    """A device's fields that come from the table; of a slice, its share of them."""
    if facts is None:
        return {}
    return {
        "tflops": round(facts.sustained_tflops * share, 2),
        "tflops_source": facts.tflops_source,
        "bandwidth": round(facts.bandwidth * share, 1),
        "power_limit_watts": facts.watts * share,
    }


def version(capability: str) -> tuple[int, int]:
    """`8.6` as numbers; (0, 0) when it is not known."""
    parts = capability.split(".")
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 and all(p.isdigit() for p in parts) else (0, 0)


def _slice(card: Device, name: str, uuid: str, memory: Any) -> Device:
    """A MIG instance: `1g.10gb` in its name says how many of the seven compute slices it has."""
    found = re.search(r"(\d)g\.\d+gb", name)
    share = int(found[1]) / SLICES if found else 1 / SLICES
    facts = lookup(f"{card.name} {round(card.memory_bytes / GIB)}gb") or lookup(card.name)
    label = name if name.startswith(card.name) else f"{card.name} {name}".strip()
    return replace(
        card,
        name=label,
        uuid=uuid,
        mig=found[0] if found else "slice",
        memory_bytes=int(memory["total"]),
        free_bytes=int(memory["free"]),
        **speed_of(facts, share),
    )


def _xml_slices(card: Device, gpu: ElementTree.Element) -> tuple[Device, ...]:
    """MIG instances; XML gives their memory and slices, the uuid only from drivers that print it."""
    found = []
    for one in gpu.findall("mig_devices/mig_device"):
        memory = _memory(one.find("fb_memory_usage"))
        if memory is None:
            continue
        count = int(_number(_text(one, "device_attributes/shared/multiprocessor_count")))
        compute = max(1, round(count / 16))  # an A100 or H100 slice has 14 to 18 multiprocessors
        name = f"MIG {compute}g.{round(memory[0] / GIB)}gb"
        found.append(_slice(card, name, _text(one, "uuid"), {"total": memory[0], "free": memory[1]}))
    return tuple(found)


def _processes(rows: Sequence[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Of the library, which does not name them."""
    return [{"pid": int(row.get("pid", 0)), "name": "", "bytes": int(row.get("bytes", 0))} for row in rows or ()]


def _memory(element: ElementTree.Element | None) -> tuple[int, int] | None:
    """Bytes in all and free of an `fb_memory_usage`; what the driver reserves for itself counts as used."""
    if element is None:
        return None
    total, free, used = (_number(_text(element, name)) for name in ("total", "free", "used"))
    if total <= 0:
        return None
    return int(total * MIB), int((free or total - used) * MIB)


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _number(text: str) -> float:
    """`24564 MiB`, `450.00 W`, `N/A`: the number, 0 when there is none."""
    found = re.match(r"\d+(?:\.\d+)?", text)
    return float(found[0]) if found else 0.0


def _switch(text: str) -> bool | None:
    return {"Enabled": True, "Disabled": False}.get(text)
