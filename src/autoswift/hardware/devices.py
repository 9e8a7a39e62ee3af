"""Accelerators by name: what the table knows about a card."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from autoswift.domain.profile import GIB, Device
from autoswift.tables import table


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """One row of the table.

    Attributes:
        memory_gib: as sold.
        tflops: dense peak at bfloat16 (float16 where `bf16` is false). efficiency: share of it that training sustains.
        bandwidth: of its memory, GB/s.
    """

    id: str
    kind: Literal["cuda", "npu", "mps"]
    memory_gib: float
    bf16: bool
    tflops: float
    efficiency: float
    bandwidth: float
    source: str

    @property
    def sustained_tflops(self) -> float:
        """What LoRA training reaches on a saturated card."""
        return self.tflops * self.efficiency

    @property
    def tflops_source(self) -> str:
        """Where `sustained_tflops` comes from, for the report."""
        return f"{self.source}: {self.tflops:g} TFLOP/s dense peak x {self.efficiency:g} sustained"

    def device(self, index: int = 0) -> Device:
        """A whole free card of this kind, for planning without one."""
        memory = int(self.memory_gib * GIB)
        return Device(
            kind=self.kind,
            name=self.id,
            index=index,
            memory_bytes=memory,
            free_bytes=memory,
            bf16=self.bf16,
            tflops=round(self.sustained_tflops, 2),
            tflops_source=self.tflops_source,
        )


def lookup(name: str) -> DeviceFacts | None:
    """The card by any spelling: `NVIDIA A100-SXM4-80GB`, `a100-80g`, `RTX 4090`, `rtx4090`, `Apple M2 Max`.

    A word that makes another card of it (Ti, SUPER, Laptop, …) must be in the table's row too, so an unknown variant
    is None, never its faster sibling.
    """
    words = _words(name)
    distinguishing = {str(word) for word in table("gpus")["words_that_distinguish"]} & words
    best: tuple[int, dict[str, Any]] | None = None
    for row in table("gpus")["devices"]:
        for spelling in row["names"]:
            wanted = {str(word) for word in spelling}
            if wanted <= words and distinguishing <= wanted and (best is None or len(wanted) > best[0]):
                best = (len(wanted), row)
    return _facts(best[1]) if best else None


def all_devices() -> tuple[DeviceFacts, ...]:
    """Every card in the table."""
    return tuple(_facts(row) for row in table("gpus")["devices"])


def _facts(row: dict[str, Any]) -> DeviceFacts:
    return DeviceFacts(
        id=row["id"],
        kind=row["kind"],
        memory_gib=float(row["memory_gib"]),
        bf16=bool(row["bf16"]),
        tflops=float(row["tflops"]),
        efficiency=float(table("gpus")["efficiency"][row["class"]]),
        bandwidth=float(row["bandwidth"]),
        source=row["source"],
    )


def _words(name: str) -> set[str]:
    """The name's words in lower case; `80g`, `80 GB`, `80GiB` become `80gb`, `rtx4090` two words."""
    text = re.sub(r"\b(\d+)\s*gi?b?\b", r"\1gb", name.lower())
    text = re.sub(r"\b(rtx|gtx|ascend|tesla)(?=[a-z]?\d)", r"\1 ", text)
    text = re.sub(r"\b(\d{4})(ti|super)\b", r"\1 \2", text)
    return set(re.findall(r"[a-z0-9]+", text))
