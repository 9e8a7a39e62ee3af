"""What a run spent, by stage and by trial: time, money, energy; what failed attempts cost is counted like the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from autoswift.domain.plan import CostEstimate
from autoswift.domain.profile import HardwareProfile
from autoswift.hardware.money import BUSY, IDLE, machine_watts, wall_watt_hours
from autoswift.run.clock import seconds_spent

if TYPE_CHECKING:
    from autoswift.run.record import RunRecord

TRAINING = ("search", "train")
"""Stages whose trials are told one by one."""
OTHER = "other"
"""Wall-clock between the stages: starting, locking, writing."""
Energy = Literal["measured", "partly", "estimated", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A stage, or one attempt of a trial.

    Attributes:
        name: of the stage; `trial` for an attempt.
        seconds: of wall-clock. device_hours: times the devices held. money: None where no price is known.
        watt_hours: at the wall; None where the machine is unknown. measured: the cards counted it themselves.
        failed_seconds: of it, in attempts that gave nothing: failed, or cut off with their owner.
        trial, attempt, status, symptom: of an attempt; trial 0 is the final training.
    """

    name: str
    seconds: float
    device_hours: float
    money: float | None
    watt_hours: float | None
    failed_seconds: float = 0.0
    measured: bool = False
    trial: int | None = None
    attempt: int = 0
    status: str = ""
    symptom: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """The whole, which is the sum of its stages; trials are parts of the stages `search` and `train`.

    Attributes:
        basis: of the price: option, environment, list or none. source: the same in words.
        energy: measured (every trial by its cards), partly, estimated (by power limits) or unknown.
        failed: what attempts that gave nothing took: attempts, seconds, device_hours, money, watt_hours.
        planned: money by stage, as the newest plan expected it.
    """

    seconds: float
    device_hours: float
    money: float | None
    currency: str
    basis: str
    source: str
    price_per_device_hour: float
    devices: int
    watt_hours: float | None
    energy: Energy
    stages: tuple[Part, ...]
    trials: tuple[Part, ...]
    failed: dict[str, float | None] = field(default_factory=dict)
    planned: dict[str, float | None] = field(default_factory=dict)


def spent_of(record: RunRecord) -> Spent:
    """What the run spent so far; of one that still goes on, up to its last event."""
    from pydantic import TypeAdapter

    plan = record.plan()
    stored = (record.value("hardware") or {}).get("hardware")
    hardware = TypeAdapter(HardwareProfile).validate_python(stored) if stored else None
    cost, lanes = (plan.estimate.cost, plan.search.lanes) if plan else (None, 1)
    return spent(record.journal.events(), record.journal.trials(), cost, hardware, lanes=lanes)


def spent(
    events: list[dict[str, Any]],
    trials: list[dict[str, Any]],
    cost: CostEstimate | None,
    hardware: HardwareProfile | None,
    *,
    lanes: int = 1,
) -> Spent:
    """The same from the journals.

    Args:
        events: of events.jsonl. trials: of trials.jsonl and training.jsonl.
        cost: of the newest plan, for price and devices; None: no price, one device.
        hardware: the machine, for its power; None: no energy.
        lanes: trials that run at once, each on its part of the devices.
    """
    meter = _Meter(cost, hardware, lanes)
    attempts = tuple(meter.attempt(row) for row in ended_attempts(trials))
    times = stage_times(events)
    gone = sum(one.seconds for one in times.values())
    times[OTHER] = Time(max(0.0, seconds_spent(events) - gone), 0.0)
    stages = tuple(meter.stage(name, time, attempts) for name, time in times.items() if time.seconds > 0)
    failed = [one for one in attempts if one.failed_seconds > 0]
    lost = [meter.part(one.name, one.failed_seconds) for one in stages if one.name not in TRAINING]
    useless = [*failed, *(one for one in lost if one.seconds > 0)]
    known = [one.measured for one in attempts]
    energy: Energy = "unknown" if hardware is None else "estimated"
    if any(known):
        energy = "measured" if all(known) else "partly"
    return Spent(
        seconds=sum(one.seconds for one in stages),
        device_hours=sum(one.device_hours for one in stages),
        money=None if meter.price is None else _sum(one.money for one in stages),
        currency=cost.currency if cost else "",
        basis=cost.basis if cost else "none",
        source=cost.source if cost else "",
        price_per_device_hour=cost.price_per_device_hour if cost else 0.0,
        devices=meter.devices,
        watt_hours=None if hardware is None else _sum(one.watt_hours for one in stages),
        energy=energy,
        stages=stages,
        trials=attempts,
        failed={
            "attempts": float(len(useless)),
            "seconds": sum(one.seconds for one in useless),
            "device_hours": sum(one.device_hours for one in useless),
            "money": None if meter.price is None else _sum(one.money for one in useless),
            "watt_hours": None if hardware is None else _sum(one.watt_hours for one in useless),
        },
        planned={name: one.money for name, one in cost.stages.items()} if cost else {},
    )


@dataclass(frozen=True, slots=True)
class Time:
    """Seconds of a stage, and those of them in attempts that failed."""

    seconds: float
    failed: float


def stage_times(events: Iterable[Mapping[str, Any]]) -> dict[str, Time]:
    """Wall-clock by stage, over all owners, less what it waited for the user; one cut off with its owner failed."""
    found: dict[str, Time] = {}
    name, begin, last, waited = "", 0.0, 0.0, 0.0

    def close(end: float, *, failed: bool) -> None:
        nonlocal name, waited
        if name:
            seconds = max(0.0, end - begin - waited)
            old = found.get(name, Time(0.0, 0.0))
            found[name] = Time(old.seconds + seconds, old.failed + (seconds if failed else 0.0))
        name, waited = "", 0.0

    for row in events:
        kind, now = row.get("kind"), float(row["time"])
        if kind == "session":
            close(last, failed=True)
        elif kind == "waited" and name:
            waited += float(row["seconds"])
        elif kind == "stage" and row.get("state") == "started":
            close(now, failed=False)
            name, begin = str(row["stage"]), now
        elif kind == "stage" and row.get("state") in ("finished", "failed") and row.get("stage") == name:
            close(now, failed=row["state"] == "failed")
        last = now
    close(last, failed=False)  # goes on still
    return found


def ended_attempts(trials: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every attempt of every trial that ran: trial, attempt, status, symptom, seconds, joules (None: not counted)."""
    open_: dict[int, dict[str, Any]] = {}
    found: list[dict[str, Any]] = []
    for row in trials:
        number, event, now = int(row["trial"]), row.get("event"), float(row["time"])
        if event == "started":
            if number in open_:
                found.append(open_.pop(number))
            fresh = {"trial": number, "attempt": int(row.get("attempt") or 1), "status": "running", "symptom": ""}
            open_[number] = fresh | {"begin": now, "seconds": 0.0, "joules": None}
        one = open_.get(number)
        if one is None:
            continue
        if event == "placed":  # on a cluster it held no device before
            one["begin"] = now
        one["seconds"] = now - one["begin"]
        joules = (row.get("metrics") or {}).get("energy_joules")
        one["joules"] = joules if joules is not None else one["joules"]
        if event == "ended":
            outcome = dict(row.get("outcome") or {})
            one |= {"status": str(outcome.get("status") or "failed"), "symptom": str(outcome.get("symptom") or "")}
            # Wall-clock: device-seconds count each device; of an attempt whose owner died the end was written later.
            one["seconds"] = min(one["seconds"], float(outcome.get("device_seconds") or one["seconds"]))
            found.append(open_.pop(number))
    return sorted([*found, *open_.values()], key=lambda one: (one["trial"] == 0, one["trial"], one["attempt"]))


class _Meter:
    """Seconds as device-hours, money and energy, by the plan's price and the machine's power."""

    def __init__(self, cost: CostEstimate | None, hardware: HardwareProfile | None, lanes: int) -> None:
        self.hardware, self.lanes = hardware, max(lanes, 1)
        self.devices = cost.devices if cost else 1
        self.price = cost.price_per_device_hour if cost and cost.basis != "none" else None

    def part(self, name: str, seconds: float, *, busy: float | None = None, **more: Any) -> Part:
        """So many seconds of something."""
        hours = seconds / 3600
        busy = BUSY.get(name, IDLE) if busy is None else busy
        power = machine_watts(self.hardware, self.devices, busy) if self.hardware else None
        values = {
            "money": None if self.price is None else self.price * self.devices * hours,
            "watt_hours": None if power is None else power * hours,
        }
        return Part(name=name, seconds=seconds, device_hours=hours * self.devices, **(values | more))

    def attempt(self, row: Mapping[str, Any]) -> Part:
        """One attempt, its energy as the cards counted it where they did."""
        seconds, joules = float(row["seconds"]), row["joules"]
        more: dict[str, Any] = {name: row[name] for name in ("trial", "attempt", "status", "symptom")}
        more["failed_seconds"] = seconds if row["status"] == "failed" else 0.0
        lanes = self.lanes if row["trial"] else 1  # the final training is alone
        whole = self.part("trial", seconds, busy=BUSY["search"], **more)
        if lanes > 1:  # beside it others use the rest of the devices
            watts = None if whole.watt_hours is None else whole.watt_hours / lanes
            money = None if whole.money is None else whole.money / lanes
            whole = replace(whole, device_hours=whole.device_hours / lanes, money=money, watt_hours=watts)
        if joules is not None:
            return replace(whole, measured=True, watt_hours=wall_watt_hours(float(joules), seconds / lanes))
        return whole

    def stage(self, name: str, time: Time, attempts: tuple[Part, ...]) -> Part:
        """A stage; one of trials takes their energy, and idles in the rest of its time."""
        failed = time.failed
        if name not in TRAINING:
            return self.part(name, time.seconds, failed_seconds=failed)
        mine = [one for one in attempts if (one.trial == 0) == (name == "train")]
        used = sum(one.device_hours for one in mine) / self.devices * 3600
        rest = self.part(name, max(0.0, time.seconds - used), busy=IDLE)
        more: dict[str, Any] = {"failed_seconds": sum(one.failed_seconds for one in mine)}
        if mine:
            more["watt_hours"] = _sum([*(one.watt_hours for one in mine), rest.watt_hours])
        more["measured"] = bool(mine) and all(one.measured for one in mine)
        return self.part(name, time.seconds, **more)


def _sum(parts: Iterable[float | None]) -> float | None:
    """The sum; None where a part is unknown."""
    known = list(parts)
    return sum(one for one in known if one is not None) if all(one is not None for one in known) else None
