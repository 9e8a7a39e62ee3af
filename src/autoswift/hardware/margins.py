"""How much memory trainings took beside what was predicted for them, and what the next plan makes of it.

Each training's peak stands in `$AUTOSWIFT_HOME/memory.jsonl` beside its prediction. Trainings on the same device, of
the same family of models, by the same method have one margin: a factor on the prediction. It never leaves the upper
bound under a peak that was measured. It goes below 1 only on the word of several trainings that agree, slowly, and not
below a floor. The order of the lines does not matter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autoswift.domain.profile import Device
from autoswift.hardware.memory import MemoryEstimate
from autoswift.run.files import append_line
from autoswift.run.places import home

AGREEING = 8
"""Trainings that must agree before the margin shrinks: by chance, all of eight draws lie under a distribution's 70 %
quantile in one case of 17, of four in one of 4."""
SPREAD = 0.03
"""Ratios within this share of the highest agree. The prediction's own 95th percentile on measured cells is under it."""
FLOOR = 0.9
"""The margin goes no lower: a longer row, another library, another driver may take back a tenth."""
BELIEVED = (0.05, 10.0)
"""Measured over predicted. What is outside was no training step, or is a damaged line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One training's peak, in bytes, beside its prediction.

    Attributes:
        device: kind and name. family: of the model's layers. method: full, lora or qlora.
        measured: what the engine reported: the allocator's live peak; on a CPU the process's.
        predicted: the same by the closed form alone, without a margin.
        whole: every row was trained on, so that the longest one was among them.
        run, trial, attempt: whose it was.
    """

    device: str
    family: str
    method: str
    measured: int
    predicted: int
    whole: bool = False
    run: str = ""
    trial: int = 0
    attempt: int = 1

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.measured / self.predicted

    @property
    def identity(self) -> tuple[str, int, int]:
        """What it is remembered by: the same again is no further evidence."""
        return self.run, self.trial, self.attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Margin:
    """A factor on predictions of memory.

    Attributes:
        family, method: that it holds for; an empty method stands for all.
        factor: on the prediction. count: of the trainings behind it; low, high: of their ratios.
        source: trials (of earlier runs), trace or probe (of this model in this run).
    """

    family: str
    method: str
    factor: float = 1.0
    count: int = 0
    low: float = 1.0
    high: float = 1.0
    source: str = "trials"


def place() -> Path:
    """Where measured peaks are kept."""
    return home() / "memory.jsonl"


def device_key(device: Device) -> str:
    """Kind and name: what a device shares with others of its model."""
    return f"{device.kind} {device.name}".strip()


def margin_of(seen: Iterable[Seen]) -> Margin | None:
    """The margin of trainings on one device, of one family, by one method; None without any."""
    peaks: dict[tuple[str, int, int], Seen] = {}
    for one in seen:
        known = peaks.get(one.identity)
        if known is None or (one.ratio, one.whole) > (known.ratio, known.whole):
            peaks[one.identity] = one
    if not peaks:
        return None
    rows = sorted(peaks.values(), key=lambda one: (one.ratio, one.identity))
    low, high = rows[0].ratio, rows[-1].ratio
    whole = [one.ratio for one in rows if one.whole]
    factor = max(1.0, high)
    if high < 1.0 and len(whole) >= AGREEING and whole[-1] - whole[0] <= SPREAD * whole[-1]:
        # With 8 trainings an eighth of the way from 1 to their highest ratio, with 70 nine tenths of it.
        factor = max(FLOOR, high + (1.0 - high) * (AGREEING - 1) / len(whole))
    factor = math.ceil(factor * 1e4) / 1e4  # upwards: a rounded factor must not be under the ratio
    count = len(rows)
    return Margin(
        family=rows[0].family, method=rows[0].method, factor=factor, count=count, low=round(low, 4), high=round(high, 4)
    )


def margins(seen: Iterable[Seen], device: Device) -> tuple[Margin, ...]:
    """Every margin that holds on a device, by family and method."""
    here = device_key(device)
    groups: dict[tuple[str, str], list[Seen]] = {}
    for one in seen:
        if one.device == here:
            groups.setdefault((one.family, one.method), []).append(one)
    found = (margin_of(groups[key]) for key in sorted(groups))
    return tuple(one for one in found if one is not None)


def margin_for(known: Iterable[Margin], family: str, method: str) -> Margin | None:
    """The first that holds: one of this run's own (they come first), else that of earlier trainings."""
    return next((one for one in known if one.family == family and one.method in ("", method)), None)


def with_margin(estimate: MemoryEstimate, factor: float) -> MemoryEstimate:
    """The estimate times the factor, its lower bound never raised; what is not the allocator's stays."""
    if factor == 1.0:
        return estimate
    parts = {name: math.ceil(value * factor) for name, value in estimate.parts.items()}
    reserved = math.ceil(estimate.reserved_bytes * factor)
    own = estimate.least_bytes - estimate.context_bytes
    return replace(
        estimate,
        parts=parts,
        peak_bytes=sum(parts.values()) if parts else math.ceil(estimate.peak_bytes * factor),
        reserved_bytes=reserved,
        device_bytes=reserved + estimate.context_bytes,
        low=min(estimate.low, math.ceil(estimate.low * factor)),
        high=math.ceil(estimate.high * factor),
        least_bytes=math.ceil(own * factor) + estimate.context_bytes,
    )


def comparable(estimate: MemoryEstimate, kind: str) -> int:
    """What of an estimate an engine's measured peak is to be set beside.

    Args:
        estimate: of the training. kind: of the device: a CPU's engine can tell its process's resident size only.
    """
    return estimate.reserved_bytes if kind == "cpu" else estimate.peak_bytes


def read() -> tuple[tuple[Seen, ...], int]:
    """What is remembered, and how many lines could not be used. A file that cannot be read counts as one such line."""
    try:
        lines = place().read_bytes().split(b"\n")
    except FileNotFoundError:
        return (), 0
    except OSError:
        return (), 1
    found: list[Seen] = []
    damaged = 0
    for line in lines:
        if line.strip():
            one = _seen(line)
            damaged += one is None
            found += [one] if one else []
    return tuple(found), damaged


def remember(seen: Iterable[Seen]) -> int:
    """Keeps what is not kept yet.

    Returns:
        How many are new.

    Raises:
        DiskFull, OSError: when the file cannot be written.
    """
    kept = {one.identity for one in read()[0]}
    new = [one for one in seen if one.identity not in kept and _believable(one)]
    for one in new:
        append_line(place(), asdict(one))
    return len(new)


def _seen(line: bytes) -> Seen | None:
    """A line's training, or None when it says nothing that can be believed."""
    try:
        row: Any = json.loads(line)
        if not isinstance(row, Mapping):
            return None
        one = Seen(
            device=str(row["device"]),
            family=str(row["family"]),
            method=str(row["method"]),
            measured=int(row["measured"]),
            predicted=int(row["predicted"]),
            whole=row.get("whole") is True,
            run=str(row.get("run", "")),
            trial=int(row.get("trial", 0)),
            attempt=int(row.get("attempt", 1)),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return one if _believable(one) else None


def _believable(one: Seen) -> bool:
    return one.predicted > 0 and BELIEVED[0] <= one.measured / one.predicted <= BELIEVED[1]
