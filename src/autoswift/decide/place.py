"""What a model needs of the machine, to be trained and to be served: on one device, or shared by several."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from autoswift.catalog.models import ModelFacts
from autoswift.decide.need import Constraints, EdgeBox
from autoswift.domain.plan import Method
from autoswift.domain.profile import Device, HardwareProfile
from autoswift.hardware.margins import Margin, margin_for, with_margin
from autoswift.hardware.memory import MemorySettings, peak_memory, weight_bytes
from autoswift.hardware.serving_memory import serving_memory
from autoswift.hardware.shape import ModelShape, shape_of
from autoswift.hardware.sharding import counts
from autoswift.hardware.speed import BYTES_ON_DISK, DOWNLOAD_RATE, start_seconds
from autoswift.hardware.steps import Sharding, StepSettings, step_time
from autoswift.tables import table

SERVED = {16: "none", 8: "q8_0", 4: "q4_k_m"}
"""Bits a weight as served, and the format that the memory is counted for."""
SHARED: Sharding = "fsdp"
"""How several devices share a training's weights; Megatron, where it is taken instead, needs no more of each."""


class How(NamedTuple):
    """A way to train: the method, and how many devices share the weights."""

    method: Method
    devices: int = 1


@dataclass(frozen=True)
class Place:
    """Where it trains and serves.

    Attributes:
        device: the first of those that are alike. devices: how many are. link: the slowest between them.
        box: that the result shall run on, when it is for the edge.
    """

    device: Device
    constraints: Constraints
    box: EdgeBox | None = None
    devices: int = 1
    link: str = "host"

    @cached_property
    def room(self) -> float:
        """Bytes of each device."""
        return self.device.free_bytes * float(table("recommend")["memory_share"])

    @cached_property
    def seconds(self) -> float:
        """That fetching the model and one useful training may take."""
        return self.constraints.seconds * float(table("recommend")["time_share"])

    def spared(self, facts: ModelFacts) -> bool:
        """Whether time may not rule it out: the user named it, or nothing else can be had."""
        here = self.constraints.availability
        alone = here is not None and not (here.huggingface or here.modelscope)
        return self.constraints.named or (bool(facts.packaged) and alone)

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """All that a model's needs depend on but the free memory."""
        device = self.device
        margins = self.constraints.margins
        shared = (self.devices, self.link)
        return (device.kind, device.name, device.bf16, device.tflops, self.constraints.length, margins, *shared)


def place_of(hardware: HardwareProfile, constraints: Constraints, box: EdgeBox | None) -> Place:
    """The machine's place: of several devices that are alike, each counts with what the fullest has free."""
    alike, link = alike_of(hardware)
    device = hardware.device
    least = min(one.free_bytes for one in alike)
    device = device if device.free_bytes == least else replace(device, free_bytes=least)
    return Place(device, constraints, box, len(alike), link)


def alike_of(hardware: HardwareProfile) -> tuple[tuple[Device, ...], str]:
    """The devices that may share a training, and the slowest way between two of them (nvlink, p2p or host)."""
    device = hardware.device
    alike = tuple(one for one in hardware.devices if (one.kind, one.name) == (device.kind, device.name))
    if device.kind != "cuda":
        return (device,), "host"
    order = ("host", "p2p", "nvlink")
    links = [way for pair, way in hardware.links.items() if all(int(n) < len(alike) for n in pair.split("-"))]
    return alike, min(links, key=order.index) if links else "host"


@dataclass(slots=True)
class Wants:
    """What a model needs on a kind of device, worked out when asked for.

    Attributes:
        ways: to train there, the plain one first: on one device, shared by more and more, and the same in 4 bits.
        serve: bytes of each device, by bits and number of devices, on one device first.
        fetch, start: seconds before the first step.
    """

    shape: ModelShape
    settings: MemorySettings
    place: Place
    ways: tuple[How, ...]
    serve: dict[tuple[int, int], int]
    fetch: float
    start: float
    margins: tuple[Margin, ...] = ()
    known: dict[tuple[str, How], float] = field(default_factory=dict)
    long: dict[int, int] = field(default_factory=dict)

    def train(self, how: How) -> int:
        """Upper bound of the bytes of each device that training takes."""
        key = ("bytes", how)
        if key not in self.known:
            self.known[key] = self._high(how, self.settings)
        return int(self.known[key])

    def _high(self, how: How, settings: MemorySettings) -> int:
        margin = margin_for(self.margins, self.shape.family, how.method)
        shared = replace(settings, devices=how.devices, sharding=SHARED) if how.devices > 1 else settings
        return with_margin(peak_memory(self.shape, how.method, shared), margin.factor if margin else 1.0).high

    def least(self, length: int) -> int:
        """Upper bound of the bytes that training on one row of a length takes at least, in whatever way."""
        if length not in self.long:
            settings = replace(self.settings, length=length, rank=max(table("rules")["lora"]["ranks"]))
            self.long[length] = min(self._high(how, settings) for how in self.ways)
        return self.long[length]

    def weights(self, how: How) -> int:
        """Bytes of the base's weights alone: when they do not fit, nothing does."""
        key = ("weights", how)
        if key not in self.known:
            self.known[key] = weight_bytes(self.shape, how.method, self.settings.precision) // how.devices
        return int(self.known[key])

    def rate(self, how: How) -> float:
        """Tokens a second that training gets through; 0 where the device's rate is unknown."""
        key = ("rate", how)
        if key not in self.known:
            step = StepSettings(
                method=how.method, length=self.settings.length, checkpointing=True, gpus=how.devices,
                sharding=SHARED if how.devices > 1 else "none", link=self.place.link,
            )  # fmt: skip
            self.known[key] = step_time(self.shape, self.place.device, step).tokens_per_second
        return self.known[key]

    def seconds(self, how: How) -> float:
        """Until one useful training is done; without the training where the device's rate is unknown."""
        rate = self.rate(how)
        return self.fetch + (self.start + float(table("recommend")["useful_tokens"]) / rate if rate > 0 else 0.0)

    def first(self, room: float, limit: float) -> tuple[How | None, bool]:
        """The first way that fits and is done by the limit, else the first that fits, and whether it is in time."""
        late = None
        for how in self.ways:
            if self.weights(how) <= room and self.train(how) <= room:
                if self.seconds(how) <= limit:
                    return how, True
                late = late or how
        return late, False

    def soonest(self, room: float) -> float:
        """Seconds of the quickest way that fits."""
        return min(self.seconds(how) for how in self.ways if self.weights(how) <= room and self.train(how) <= room)

    def smallest(self, room: float) -> int:
        """Bytes of each device that it needs at least; the weights alone say enough where they are too large."""
        last = self.ways[-1]
        return self.weights(last) if self.weights(last) > room else min(self.train(how) for how in self.ways)


def wants(facts: ModelFacts, place: Place) -> Wants:
    """What a model needs on the place's kind of device."""
    device, shape, rules = place.device, shape_of(facts), table("recommend")
    precision = "bfloat16" if device.bf16 else "float32" if device.kind == "cpu" else "float16"
    length, cuda = place.constraints.length, device.kind == "cuda"
    settings = MemorySettings(
        length=length, device=device.kind, card=device.name, precision=precision, expandable_segments=cuda
    )
    # bitsandbytes' 4 bits train on NVIDIA cards; elsewhere LoRA at full precision is what there is.
    methods: tuple[Method, ...] = ("lora", "qlora") if cuda else ("lora",)
    shares = counts(place.devices)
    serving = rules["serving"]
    serve = {
        (bits, count): serving_memory(
            shape,
            length=int(serving["context"]),
            concurrency=int(serving["parallel"]),
            quant=SERVED[bits],
            device=device.kind,
            devices=count,
        ).total_bytes
        for bits in ((8, 4) if device.kind == "cpu" else (16, 8, 4))
        for count in shares
    }
    return Wants(
        shape=shape,
        settings=settings,
        place=place,
        ways=tuple(How(method, count) for method in methods for count in shares),
        serve=serve,
        fetch=0.0 if facts.packaged or facts.path else facts.parameters * BYTES_ON_DISK / DOWNLOAD_RATE,
        start=start_seconds(shape, device),
        margins=place.constraints.margins,
    )
