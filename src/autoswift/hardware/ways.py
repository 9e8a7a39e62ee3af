"""When nothing fits: what would, and what each way costs in time, money and quality."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from autoswift.domain.profile import GIB, Device, HardwareProfile
from autoswift.hardware.devices import all_devices, lookup
from autoswift.hardware.memory import MemorySettings, peak_memory, weight_bytes
from autoswift.hardware.money import price_of
from autoswift.hardware.shape import ModelShape, shape_of
from autoswift.hardware.steps import StepSettings, step_time
from autoswift.tables import table, text

Kind = Literal["smaller_model", "shorter", "two_bit", "streaming", "two_cards", "two_cards_offload", "cloud_card"]

SHARE = 0.95
"""Of a card's memory, what a training may plan with; the rest is the driver's and the display's."""
TWO_BIT_BYTES = 0.25 + 0.4 / 8
"""A weight at 2 bits with HQQ's scales (groups of 64, scales at 8 bits): 2.4 bits."""
TWO_BIT_SLOWDOWN = 1.4
"""Against NF4: unpacked in torch, not in one kernel. An estimate."""
HOST_LINK = 12e9
"""Bytes/s from the host's memory to the card over PCIe 4.0 x16 with pinned pages, of 32 in theory; half with 3.0."""
STREAM_PASSES = 3
"""Over the weights in a step: forward, once more for checkpointing, backward."""
NF4_LAYER_BYTES = 0.516
"""A weight in NF4 with its scales."""
STREAMED_LAYERS = 2
"""Layers on the card at a time: one computes while the next one arrives."""
HOST_SHARE = 0.8
"""Of the host's free memory, what the weights may take."""
SHORTEST = 256
"""Tokens: a shorter row cuts most conversations."""
MOST_CARDS = 8
"""Of one machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallerModel:
    """A candidate of the caller's: a smaller model of the same family.

    Attributes:
        values: what `shape_of` understands (parameters, layers, …), or a shape.
    """

    id: str
    values: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way out.

    Attributes:
        needs_bytes: on each device. devices: how many. device: their name.
        time_factor: of a step on the way against the same model in NF4 on this card as if it fitted; 0 when unknown.
        per_hour: what the devices cost an hour, all together; None when nothing is hired or no price is known.
        quality: same, slightly_lower, lower or unknown.
        possible: with what this machine has now; else it asks for something to be got.
        values: fill the way's text.
    """

    kind: Kind
    needs_bytes: int
    devices: int
    device: str
    time_factor: float
    per_hour: float | None
    currency: str
    quality: str
    possible: bool
    values: dict[str, str] = field(default_factory=dict)

    def sentence(self, language: str) -> str:
        """The way with its costs, for people. `language`: zh or en."""
        said = text(f"hardware.way.{self.kind}", language, **self.values)
        costs = [text(f"hardware.way.quality.{self.quality}", language)]
        if self.time_factor > 0:
            costs.insert(0, text("hardware.way.time", language, factor=f"{self.time_factor:.2g}"))
        if self.per_hour is not None:
            costs.append(text("hardware.way.money", language, price=f"{self.per_hour:.2f} {self.currency}"))
        return said + text("hardware.way.costs", language, costs=text("hardware.way.join", language).join(costs))


def ways_out(
    shape: ModelShape,
    need_bytes: int,
    hardware: HardwareProfile,
    settings: MemorySettings,
    *,
    smaller: Sequence[SmallerModel] = (),
    currency: str = "USD",
) -> tuple[Way, ...]:
    """What would train the model, or one like it: first what this machine can do, then what has to be got.

    Args:
        shape: of the model that does not fit.
        need_bytes: what its least training needs on the device; it goes into no way but bounds them.
        hardware: the machine.
        settings: of that training; the ways set what saves memory at no loss (one row at a time, checkpointing, fused
            loss, growing segments).
        smaller: models that could be taken instead, the best first.
        currency: of prices, USD or CNY.
    """
    maker = _Ways(shape, need_bytes, hardware, settings, currency)
    found = [*maker.smaller(smaller), *maker.shorter(), *maker.two_bit(), *maker.streaming()]
    found += [*maker.two_cards(), *maker.offloaded(), *maker.cloud()]
    return tuple(sorted(found, key=lambda way: not way.possible))


def nf4_text(shape: ModelShape, hardware: HardwareProfile, language: str) -> str:
    """Says plainly that the weights alone, in 4 bits, are larger than the device, or how much they leave.

    Args:
        shape: of the model. hardware: the machine. language: zh or en.
    """
    weights = weight_bytes(shape, "qlora", "bfloat16")
    device = hardware.device
    key = "weights_do_not_fit" if weights > device.memory_bytes * SHARE else "weights_fit"
    return text(
        f"hardware.way.{key}",
        language,
        weights=f"{shape.parameters / 2 / 1e9:.0f}",
        all=f"{weights / 1e9:.0f}",
        gib=f"{weights / GIB:.1f}",
        device=device.name,
        memory=f"{device.memory_bytes / GIB:.0f}",
    )


class _Ways:
    """The ways of one question."""

    def __init__(
        self, shape: ModelShape, need: int, hardware: HardwareProfile, settings: MemorySettings, currency: str
    ) -> None:
        self.shape, self.need, self.hardware, self.currency = shape, need, hardware, currency
        self.device = hardware.device
        cuda = self.device.kind == "cuda"
        self.settings = replace(
            settings, micro_batch=1, gradient_checkpointing=True, liger=cuda, expandable_segments=cuda, devices=1,
            sharding="none",
        )  # fmt: skip
        self.room = int(self.device.memory_bytes * SHARE)
        self.base = self._step(shape, "qlora")
        self.estimate = peak_memory(shape, "qlora", settings)
        self.weights = weight_bytes(shape, "qlora", "bfloat16")

    def smaller(self, models: Sequence[SmallerModel]) -> Iterator[Way]:
        """The first of them that fits, in bf16 LoRA where that fits, else in NF4."""
        methods = ("lora", "qlora") if self.device.kind == "cuda" else ("lora",)
        for model in models:
            shape = model.values if isinstance(model.values, ModelShape) else shape_of(model.values)
            for method in methods:
                estimate = peak_memory(shape, method, self.settings)  # type: ignore[arg-type]
                if estimate.high <= self.room and shape.parameters < self.shape.parameters:
                    yield self._way(
                        "smaller_model",
                        estimate.high,
                        time=self._factor(self._step(shape, method)),
                        quality="lower",
                        values={"model": model.id, "method": method, "need": _gib(estimate.high)},
                    )
                    return

    def shorter(self) -> Iterator[Way]:
        """Half the row, then a quarter: where it is the activations that are too large."""
        method = "qlora" if self.device.kind == "cuda" else "lora"
        for part in (2, 4):
            length = self.settings.length // part
            if length < SHORTEST:
                return
            estimate = peak_memory(self.shape, method, replace(self.settings, length=length, micro_batch=1))  # type: ignore[arg-type]
            if estimate.high <= self.room:
                values = {"length": str(length), "need": _gib(estimate.high)}
                yield self._way("shorter", estimate.high, time=0.0, quality="slightly_lower", values=values)
                return

    def two_bit(self) -> Iterator[Way]:
        """HQQ at two bits on this card."""
        if self.device.kind != "cuda":
            return
        packed = self.shape.packed_parameters
        weights = int((self.shape.parameters - packed) * 2 + packed * TWO_BIT_BYTES)
        need = self.estimate.high - self.weights + weights
        if need <= self.room:
            values = {"weights": f"{weights / 1e9:.0f}", "need": _gib(need)}
            yield self._way("two_bit", need, time=TWO_BIT_SLOWDOWN, quality="lower", values=values)

    def streaming(self) -> Iterator[Way]:
        """The 4-bit layers stay in the host's memory and pass through the card."""
        if self.device.kind != "cuda" or self.device.unified:
            return
        resident = self._streamed()
        if resident > self.room:
            return
        copying = STREAM_PASSES * self.weights / HOST_LINK
        time = max(copying, self.base) / self.base if self.base > 0 else 0.0
        fits_host = self.weights <= self.hardware.memory_free_bytes * HOST_SHARE
        values = {
            "host": _gib(self.weights),
            "free": _gib(self.hardware.memory_free_bytes),
            "need": _gib(resident),
            "seconds": f"{copying:.1f}",
        }
        yield self._way("streaming", resident, time=time, quality="same", possible=fits_host, values=values)

    def _streamed(self) -> int:
        """Bytes on a card whose layers come from elsewhere, two at a time; embedding and output projection stay."""
        kept = self.shape.embedding * (2 if self.shape.tied else 4)
        layers = STREAMED_LAYERS * self.shape.layer_parameters * NF4_LAYER_BYTES
        return int(self.estimate.high - self.weights + kept + layers)

    def offloaded(self) -> Iterator[Way]:
        """Two of these cards with FSDP and QLoRA, the shards in the host's memory."""
        if self.device.kind != "cuda" or self.device.unified or self._streamed() > self.room:
            return
        have = sum((one.kind, one.name) == (self.device.kind, self.device.name) for one in self.hardware.devices)
        price = price_of(self.device, currency=self.currency)
        # Each card copies its half of the weights and gets the other half from its neighbour.
        copying = STREAM_PASSES * self.weights / 2 / HOST_LINK
        time = max(copying, self.base) / 2 / self.base if self.base > 0 else 0.0
        fits_host = self.weights <= self.hardware.memory_free_bytes * HOST_SHARE
        values = {"name": self.device.name, "need": _gib(self._streamed()), "host": _gib(self.weights)}
        yield self._way(
            "two_cards_offload",
            self._streamed(),
            time=time,
            quality="same",
            possible=have >= 2 and fits_host,
            devices=2,
            per_hour=price.per_hour * 2 if price and have < 2 else None,
            currency=price.currency if price else self.currency,
            values=values,
        )

    def two_cards(self) -> Iterator[Way]:
        """The fewest of these cards that hold it with FSDP and QLoRA."""
        if self.device.kind != "cuda" or self.device.unified:
            return
        have = sum((one.kind, one.name) == (self.device.kind, self.device.name) for one in self.hardware.devices)
        for count in range(2, MOST_CARDS + 1):
            shared = replace(self.settings, sharding="fsdp", devices=count)
            estimate = peak_memory(self.shape, "qlora", shared)
            if estimate.high > self.room:
                continue
            price = price_of(self.device, currency=self.currency)
            step = StepSettings(
                method="qlora", length=self.settings.length, checkpointing=True, gpus=count, sharding="fsdp",
                micro_batch=self.settings.micro_batch,
            )  # fmt: skip
            values = {"count": str(count), "name": self.device.name, "need": _gib(estimate.high)}
            yield self._way(
                "two_cards",
                estimate.high,
                time=self._factor(step_time(self.shape, self.device, step).seconds / count),
                quality="same",
                possible=have >= count,
                devices=count,
                per_hour=price.per_hour * count if price and have < count else None,
                currency=price.currency if price else self.currency,
                values=values,
            )
            return

    def cloud(self) -> Iterator[Way]:
        """The cheapest single card that can be hired and holds it, by the price of the same work."""
        best: tuple[float, Way] | None = None
        for facts in all_devices():
            card = facts.device()
            price = price_of(facts.id, currency=self.currency)
            # Without a capability it is AMD's, for which the environment would have to be another one.
            if not facts.capability or price is None or not _hired(facts.id):
                continue
            if self.estimate.high > card.memory_bytes * SHARE:
                continue
            seconds = self._step(self.shape, "qlora", card)
            if seconds <= 0:
                continue
            way = self._way(
                "cloud_card",
                self.estimate.high,
                time=self._factor(seconds),
                quality="same",
                possible=False,
                device=facts.id,
                per_hour=price.per_hour,
                currency=price.currency,
                values={"name": facts.id, "memory": f"{facts.memory_gib:g}", "need": _gib(self.estimate.high)},
            )
            if best is None or seconds * price.per_hour < best[0]:
                best = (seconds * price.per_hour, way)
        if best:
            yield best[1]

    def _step(self, shape: ModelShape, method: str, device: Device | None = None) -> float:
        settings = StepSettings(
            method=method,  # type: ignore[arg-type]
            length=self.settings.length,
            micro_batch=self.settings.micro_batch,
            checkpointing=self.settings.gradient_checkpointing,
        )
        return step_time(shape, device or self.device, settings).seconds

    def _factor(self, seconds: float) -> float:
        return seconds / self.base if self.base > 0 else 0.0

    def _way(
        self,
        kind: Kind,
        needs: int,
        *,
        time: float,
        quality: str,
        values: dict[str, str],
        possible: bool = True,
        **more: object,
    ) -> Way:
        rest = {"devices": 1, "device": self.device.name, "per_hour": None, "currency": self.currency} | more
        return Way(
            kind=kind,
            needs_bytes=int(needs),
            time_factor=round(time, 3),
            quality=quality,
            possible=possible,
            values=values,
            **rest,  # type: ignore[arg-type]
        )


def _hired(name: str) -> bool:
    facts = lookup(name)
    row = table("prices")["devices"].get(facts.id if facts else name, {})
    return bool(row.get("cloud"))


def _gib(value: float) -> str:
    return f"{value / GIB:.1f}"
