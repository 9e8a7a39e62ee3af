"""The fastest way to train that fits: every combination that is possible here, timed and weighed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from autoswift.decide.padding import pass_lengths
from autoswift.domain.plan import Method
from autoswift.domain.profile import Device, LengthStats
from autoswift.hardware.margins import with_margin
from autoswift.hardware.memory import MemoryEstimate, MemorySettings, peak_memory
from autoswift.hardware.shape import ModelShape
from autoswift.hardware.sharding import counts
from autoswift.hardware.speed import GENERATION_LAUNCH
from autoswift.hardware.steps import LAUNCH_MEASURED, Sharding, StepSettings, mean_step_seconds, step_time

TIE = 1.02
"""Two ways whose times differ by less are the same to the step model (its median error on saturated cards): then the
one that changes less from plain training is taken."""
QUANTIZED = 1.3
"""How much faster 4-bit weights must be where 16-bit ones fit too. They cost a little quality (QLoRA, Dettmers et al.
2023, table 4: within a point) and at equal settings they are slower (1.02 to 1.6 times, measured on an H100)."""
QUICK = 0.5
"""Of the launches that the step model counts with, those of a quick processor. The model's are of a slow virtual one; a
desktop's cost half. Only a larger micro-batch makes 4 bits faster, and only where launches are the limit: so where the
processor is not known, 4 bits must be faster than 16 on a quick one."""
SHARED = 1.15
"""How much less device time a training that several devices share must take: none has been timed here."""
GROUPED = 1.05
"""How much faster rows sorted by length must be: the rows of a step are then more like one another than random ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What may be used.

    Attributes:
        device: one of the devices; all are alike.
        devices: how many may share one training.
        bytes: of each that the plan may use.
        link: nvlink, p2p or host, between them.
        liger: Liger's kernels are installed and run there.
        attention: the implementation that runs there.
        precision: float32, bfloat16 or float16. optimizer: the AdamW of the device.
        margins: factor on the predicted memory by method, where trainings were measured.
    """

    device: Device
    bytes: int
    devices: int = 1
    link: str = "host"
    liger: bool = False
    attention: str = "sdpa"
    precision: str = "bfloat16"
    optimizer: str = "adamw_torch"
    margins: tuple[tuple[Method, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What is to be trained.

    Attributes:
        length: tokens of the longest row that is trained on; rows: of all rows.
        batch: rows of an optimizer step at most.
        rank: the largest that the search may try.
        largest_micro: rows in a forward pass at most.
        micro, gradient_checkpointing, liger, grouped, sharding: where the user settled them; 0 and None elsewhere.
    """

    length: int
    rows: LengthStats
    batch: int
    rank: int
    largest_micro: int
    micro: int = 0
    gradient_checkpointing: bool | None = None
    liger: bool | None = None
    grouped: bool | None = None
    sharding: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One way to train.

    Attributes:
        estimate: of the memory on each device. seconds_per_row: of training, over all devices; 0 when unknown.
        told_seconds: of the chosen way, what the plan counts with: at least `seconds_per_row`.
        changes: by how much it departs from plain training; decides between equals.
        grouped: rows of like length go together.
    """

    method: Method
    micro_batch: int
    gradient_checkpointing: bool
    liger: bool
    sharding: Sharding
    devices: int
    estimate: MemoryEstimate
    seconds_per_row: float
    changes: int
    told_seconds: float = 0.0
    grouped: bool = False

    @property
    def device_seconds(self) -> float:
        """Of training on a row: several devices that each train a trial do more than when they share one."""
        return self.seconds_per_row * self.devices

    @property
    def needed_bytes(self) -> int:
        """On each device: the upper bound of what the allocator takes, and the context beside it."""
        return self.estimate.high + max(0, self.estimate.device_bytes - self.estimate.reserved_bytes)


def ways(shape: ModelShape, methods: Sequence[Method], need: Need, room: Room) -> list[Fit]:
    """All ways that fit, the fastest first.

    Args:
        shape: of the base model.
        methods: that may be used.
        need: what is to be trained.
        room: what may be used.
    """
    stairs = _stairs(shape, tuple(methods), need, _any_size(room))
    fitting = [one for one in _all(shape, tuple(methods), need, _any_size(room)) if one.needed_bytes <= room.bytes]
    if not fitting:
        return []
    best = stairs[bisect_right([need for need, _ in stairs], room.bytes) - 1][1]
    same = replace(best, told_seconds=0.0)
    rest = sorted(
        (one for one in fitting if one != same),
        key=lambda one: (one.device_seconds, one.changes),
    )
    return [best, *rest]


@lru_cache(maxsize=256)
def _stairs(shape: ModelShape, methods: tuple[Method, ...], need: Need, room: Room) -> tuple[tuple[int, Fit], ...]:
    """What is chosen from which memory on, upwards, with the time that is told of it.

    A little more memory may choose 16-bit weights that take longer than the 4-bit ones below it, up to `QUANTIZED`
    times, and as long again where a quick processor may halve that.
    Each is told to take at least as long as what more memory chooses, so that more memory never makes a plan slower.
    """
    known: dict[int, float] = {}  # by identity: all of them are kept in `_all`

    def sure(one: Fit) -> float:
        if id(one) not in known:
            known[id(one)] = _launched_quickly(shape, one, need, room)
        return known[id(one)]

    steps: list[tuple[int, Fit]] = []
    fitting: list[Fit] = []
    for one in sorted(_all(shape, methods, need, room), key=lambda fit: fit.needed_bytes):
        fitting.append(one)
        best = _preferred(fitting, sure)
        if not steps or best.device_seconds <= steps[-1][1].device_seconds * QUANTIZED / QUICK:
            steps.append((one.needed_bytes, best))
    told = 0.0
    for place in range(len(steps) - 1, -1, -1):
        chosen = steps[place][1]
        told = max(told, chosen.device_seconds)
        steps[place] = (steps[place][0], replace(chosen, told_seconds=told / chosen.devices))
    return tuple(steps)


def _preferred(fitting: Sequence[Fit], sure: Callable[[Fit], float]) -> Fit:
    """The best of all, 4-bit weights only where they are surely faster.

    Args:
        sure: device-seconds of a way where a quick processor launches it.
    """
    plain = _nearest([one for one in fitting if one.method != "qlora"])
    packed = _nearest([one for one in fitting if one.method == "qlora"])
    if plain is None or packed is None:
        return plain or packed or fitting[0]
    return packed if _handicapped(packed) * QUANTIZED * TIE < sure(plain) * _handicap(plain) else plain


def _nearest(fitting: Sequence[Fit]) -> Fit | None:
    """The fastest, or of those that are as fast the one that changes least."""
    if not fitting:
        return None
    least = min(_handicapped(one) for one in fitting)
    near = [one for one in fitting if _handicapped(one) <= least * TIE]
    return min(near, key=lambda one: (one.changes, one.device_seconds, one.needed_bytes))


def _handicapped(one: Fit) -> float:
    return one.device_seconds * _handicap(one)


def _handicap(one: Fit) -> float:
    return (GROUPED if one.grouped else 1.0) * (SHARED if one.devices > 1 else 1.0)


def smallest(shape: ModelShape, methods: Sequence[Method], need: Need, room: Room) -> Fit:
    """The way that needs the least memory, whether it fits or not."""
    return min(_all(shape, tuple(methods), need, _any_size(room)), key=lambda one: one.needed_bytes)


def _any_size(room: Room) -> Room:
    """The same without its size, on which neither time nor need depends: what was computed for one serves all."""
    return replace(room, bytes=0, device=replace(room.device, free_bytes=0, memory_bytes=0, processes=()))


@lru_cache(maxsize=256)
def _all(shape: ModelShape, methods: tuple[Method, ...], need: Need, room: Room) -> tuple[Fit, ...]:
    return tuple(
        one
        for method in methods
        for share in _shares(need, room)
        for micro in _micros(need, share[1])
        for flags in _flags(need, room)
        for one in _weighed(shape, method, micro, flags, share, need, room)
    )


def _groupings(need: Need, room: Room, micro: int) -> tuple[bool, ...]:
    """Whether rows of like length may go together: of no use for one row, and not counted for on a CPU."""
    if need.grouped is not None:
        return (need.grouped,)
    return (False,) if micro <= 1 or room.device.kind == "cpu" else (False, True)


def _flags(need: Need, room: Room) -> Iterator[tuple[bool, bool]]:
    """(gradient checkpointing, Liger)."""
    ligers = ((False, True) if room.liger else (False,)) if need.liger is None else (need.liger,)
    both = (False, True) if need.gradient_checkpointing is None else (need.gradient_checkpointing,)
    yield from ((checkpointing, liger) for liger in ligers for checkpointing in both)


def _shares(need: Need, room: Room) -> tuple[tuple[Sharding, int], ...]:
    """How a training may be shared: not at all, or by some or all devices with the weights divided."""
    every: tuple[tuple[Sharding, int], ...] = tuple(("fsdp" if n > 1 else "none", n) for n in counts(room.devices))
    return every if need.sharding is None else tuple(one for one in every if one[0] == need.sharding)


def _micros(need: Need, devices: int) -> Iterator[int]:
    """Micro-batches that may be tried: the user's own, or powers of two."""
    if need.micro:
        yield need.micro
        return
    size, largest = 1, min(need.largest_micro, max(1, need.batch // devices))
    while size <= largest:
        yield size
        size *= 2


def _weighed(
    shape: ModelShape,
    method: Method,
    micro: int,
    flags: tuple[bool, bool],
    share: tuple[Sharding, int],
    need: Need,
    room: Room,
) -> Iterator[Fit]:
    """The ways with these flags: rows at random, or those of like length together."""
    checkpointing, liger = flags
    sharding, devices = share
    estimate = peak_memory(
        shape,
        method,
        MemorySettings(
            length=need.length,
            micro_batch=micro,
            rank=need.rank,
            gradient_checkpointing=checkpointing,
            optimizer=room.optimizer,
            precision=room.precision,
            attention=room.attention,
            device=room.device.kind,
            card=room.device.name,
            liger=liger,
            padded=micro > 1,
            expandable_segments=room.device.kind == "cuda",
            devices=devices,
            sharding=sharding,
        ),
    )
    estimate = with_margin(estimate, dict(room.margins).get(method, 1.0))
    for grouped in _groupings(need, room, micro):
        one = Fit(
            method=method,
            micro_batch=micro,
            gradient_checkpointing=checkpointing,
            liger=liger,
            sharding=sharding,
            devices=devices,
            estimate=estimate,
            seconds_per_row=0.0,
            changes=checkpointing + liger + grouped + 2 * (method == "qlora") + 3 * (devices > 1),
            grouped=grouped,
        )
        yield replace(one, seconds_per_row=_row_seconds(shape, one, need, room))


def _launched_quickly(shape: ModelShape, one: Fit, need: Need, room: Room) -> float:
    """Device-seconds of a row where the processor is not known and may be a quick one; else those of the way."""
    if room.device.kind == "cpu" or room.device.launch_seconds > 0:
        return one.device_seconds
    quick = replace(room, device=replace(room.device, launch_seconds=QUICK * LAUNCH_MEASURED))
    return _row_seconds(shape, one, need, quick) * one.devices


def _row_seconds(shape: ModelShape, one: Fit, need: Need, room: Room) -> float:
    """Seconds of training on a row, over all devices."""
    step = StepSettings(
        method=one.method,
        micro_batch=one.micro_batch,
        accumulation=max(1, need.batch // (one.micro_batch * one.devices)),
        rank=need.rank,
        checkpointing=one.gradient_checkpointing,
        attention=room.attention,
        precision=room.precision,
        fused=one.liger,
        gpus=one.devices,
        sharding=one.sharding,
        link=room.link,
    )
    micro, rows = step.micro_batch, step.micro_batch * step.gpus
    if room.device.kind != "cpu":
        lengths = pass_lengths(need.rows, micro, need.length, grouped=one.grouped)
        return mean_step_seconds(shape, room.device, step, lengths) / (rows * step.accumulation)
    # A CPU's products gain from a larger batch about what its padding costs.
    length = max(1, round(min(need.rows.mean, need.length)))
    seconds = step_time(shape, room.device, replace(step, length=length)).seconds
    # Between its products a CPU also runs Python, once a layer and pass; backward counts twice. Its rate was measured
    # with passes of the largest micro-batch, so only passes beyond those come on top.
    passes = max(0.0, step.accumulation - rows * step.accumulation / need.largest_micro)
    between = 3 * GENERATION_LAUNCH["cpu"] * shape.layers * passes if seconds > 0 else 0.0
    return (seconds + between) / (rows * step.accumulation)
