"""AMD cards, asked through rocm-smi. They train where the training environment's torch is a ROCm build."""

from __future__ import annotations

import json
import re
from typing import Any

from autoswift.domain.profile import Device
from autoswift.hardware.devices import lookup
from autoswift.hardware.nvidia import speed_of
from autoswift.hardware.source import Source

COMMAND = ("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--showdriverversion", "--json")
ROCM = "/opt/rocm/.info/version"
NAMES = ("Card Series", "Card series", "Card Model", "Card model")


def amd(source: Source) -> list[Device]:
    """The cards that this process may use."""
    text = source.run(COMMAND)
    found = parse_amd(text, source.read(ROCM)) if text else []
    visible = source.environ.get("HIP_VISIBLE_DEVICES", source.environ.get("ROCR_VISIBLE_DEVICES"))
    if visible is None:
        return found
    by_index = {str(one.index): one for one in found}
    chosen = []
    for word in visible.replace(" ", "").split(","):
        if word not in by_index:
            break
        chosen.append(by_index[word])
    return chosen


def parse_amd(text: str, runtime: str = "") -> list[Device]:
    """Devices from rocm-smi's JSON: `card0` to its fields, all of them strings.

    Args:
        text: its output.
        runtime: ROCm's version.
    """
    start = text.find("{")
    try:
        told: Any = json.loads(text[start:]) if start >= 0 else {}
    except ValueError:
        return []
    found: list[Device] = []
    driver = str(told.get("system", {}).get("Driver version", "")) if isinstance(told, dict) else ""
    for key, card in sorted(told.items()) if isinstance(told, dict) else ():
        number = re.fullmatch(r"card(\d+)", str(key))
        if number is None or not isinstance(card, dict):
            continue
        total, used = (_number(card, f"VRAM Total {what}Memory (B)") for what in ("", "Used "))
        if total <= 0:
            continue
        name = next((str(card[n]) for n in NAMES if card.get(n) not in (None, "", "N/A")), "AMD GPU")
        facts = lookup(name)
        found.append(
            Device(
                kind="cuda",
                vendor="amd",
                name=name,
                index=int(number[1]),
                memory_bytes=total,
                free_bytes=max(0, total - used),
                bf16=bool(facts and facts.bf16),
                capability="",
                driver=driver,
                runtime=f"ROCm {runtime}" if runtime else "ROCm",
                **speed_of(facts),
            )
        )
    return found


def _number(card: dict[str, Any], name: str) -> int:
    word = str(card.get(name, ""))
    return int(word) if word.isdigit() else 0
