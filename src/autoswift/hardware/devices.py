"""Accelerators by name: what the table knows about a card."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from autoswift.domain.profile import GIB, Device
from autoswift.tables import table

REFERENCE_BYTES = 4.87e-3
"""Bytes that a training step moves through memory for each operation of its products: LoRA of a 7B model in rows of
512 tokens (hardware/steps.py counts them; the test compares). It ties a card's sustained rate to its memory's."""
MEMORY_SHARE = 0.85
"""Of a memory's rate as sold, what large copies reach: 2.85 to 2.91 of 3.35 TB/s measured on an H100."""


def sustained_from_products(tflops: float, bandwidth: float) -> float:
    """What a training step sustains, in TFLOP/s, from the products' own rate (TFLOP/s) and the memory's (GB/s)."""
    moving = REFERENCE_BYTES / (bandwidth * 1e9 * MEMORY_SHARE) if bandwidth > 0 else 0.0
    return 1.0 / (1.0 / tflops + moving * 1e12) if tflops > 0 else 0.0


def products_from_sustained(tflops: float, bandwidth: float) -> float:
    """The inverse: how fast the products alone go on a device of which the sustained rate is known."""
    if tflops <= 0:
        return 0.0
    moving = REFERENCE_BYTES / (bandwidth * 1e9 * MEMORY_SHARE) * 1e12 if bandwidth > 0 else 0.0
    # A rate that the memory could not keep up with was measured, not derived: then the products are taken as it.
    return 1.0 / (1.0 / tflops - moving) if moving * tflops < 0.9 else tflops


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """One row of the table.

    Attributes:
        memory_gib: as sold.
        tflops: dense peak at bfloat16 (float16 where `bf16` is false).
        products: share of it that large matrix products reach inside a training step.
        bandwidth: of its memory, GB/s.
        watts: the board's limit. capability: NVIDIA's compute capability, else empty.
        trains: false for chips that only infer. unified: the memory is the host's.
    """

    id: str
    kind: Literal["cuda", "npu", "mps"]
    memory_gib: float
    bf16: bool
    tflops: float
    products: float
    bandwidth: float
    source: str
    watts: float = 0.0
    capability: str = ""
    trains: bool = True
    unified: bool = False

    @property
    def sustained_tflops(self) -> float:
        """What LoRA training of a 7B model reaches on a saturated card: the products, and the memory between them."""
        return sustained_from_products(self.tflops * self.products, self.bandwidth)

    @property
    def tflops_source(self) -> str:
        """Where `sustained_tflops` comes from, for the report."""
        share = self.sustained_tflops / self.tflops
        return f"{self.source}: {self.tflops:g} TFLOP/s dense peak x {share:.2f} sustained"

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
            capability=self.capability,
            tflops=round(self.sustained_tflops, 2),
            tflops_source=self.tflops_source,
            bandwidth=self.bandwidth,
            vendor={"npu": "huawei", "mps": "apple"}.get(self.kind, "nvidia" if self.capability else "amd"),
            unified=self.unified or self.kind == "mps",
            power_limit_watts=self.watts,
        )


@lru_cache(maxsize=256)
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
        products=float(table("gpus")["products"][row["class"]]),
        bandwidth=float(row["bandwidth"]),
        source=row["source"],
        watts=float(row.get("watts", 0)),
        capability=str(row.get("capability", "")),
        trains=bool(row.get("trains", True)),
        unified=bool(row.get("unified", False)),
    )


def _words(name: str) -> set[str]:
    """The name's words in lower case; `80g`, `80 GB`, `80GiB` become `80gb`, `rtx4090` two words."""
    text = re.sub(r"\b(\d+)\s*gi?b?\b", r"\1gb", name.lower())
    text = re.sub(r"\b(rtx|gtx|ascend|tesla)(?=[a-z]?\d)", r"\1 ", text)
    text = re.sub(r"\b(\d{4})(ti|super)\b", r"\1 \2", text)
    return set(re.findall(r"[a-z0-9]+", text))
