"""What a run costs: money by the user's price or a table of list prices, energy by the power that a device draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from autoswift.domain.budget import Budget
from autoswift.domain.plan import CostEstimate, StageCost
from autoswift.domain.profile import Device, HardwareProfile
from autoswift.errors import InputError
from autoswift.hardware.devices import all_devices, lookup
from autoswift.tables import explain, table, text

VARIABLE = "AUTOSWIFT_PRICE_PER_HOUR"
"""The user's own price of one device-hour, for instance `1.2` or `8.5 CNY`."""
OPTION = "--price"
CURRENCIES = ("USD", "CNY")
POWER = (0.14, 0.49, 0.80)
"""Of the power limit: always (clocks up, nothing running), while busy, and for the share of time that the matrix units
run. H100, 93 training steps from 134 to 691 W: median error 6 %."""
CPU_WATTS_PER_CORE = 8.0
"""A server core under load with its share of memory and fans: 250 to 350 W for 32 to 64 cores. An estimate."""
CPU_IDLE = 0.5
"""Of that, what a core draws while it waits. Servers at idle take 40 to 60 % of their full load's power."""
PRICED_CORES = 4
"""Cores of the machine that the table's CPU price is for; more of them cost in proportion."""
HOST_WATTS = 100.0
"""The rest of a machine around a training card. An estimate."""
WALL = 1.1
"""Wall over board: a power supply loses about a tenth."""
BUSY = {
    "search": 0.9,
    "train": 0.9,
    "probe": 0.9,
    "evaluate": 0.6,
    "loadtest": 0.6,
    "merge": 0.2,
    "export": 0.2,
    "deploy": 0.2,
}
"""Share of a stage in which the device computes; what is not named hardly uses it. Training: 0.85 to 0.97 of saturated
steps on an H100; generation waits for its launches; the rest are estimates, and cost little beside these."""
IDLE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Of one device-hour.

    Attributes:
        basis: `user` (given by the user) or `list` (a cloud's list price from the table).
    """

    per_hour: float
    currency: str
    basis: str
    source: str = ""


def price_of(
    device: Device | str, *, currency: str = "USD", environ: Mapping[str, str] | None = None, cores: int = 0
) -> Price | None:
    """The price of an hour of one such device; None when there is none.

    Args:
        device: a device, or a card's name in any spelling.
        currency: USD or CNY, where the table gives both; the user's own price keeps the user's currency.
        environ: the environment, for the user's own price.
        cores: of a CPU, by which its price grows; 0 takes the table's own machine.

    Raises:
        InputError: when the user's price is no price.
    """
    own = user_price((environ or {}).get(VARIABLE, ""))
    if own is not None:
        return own
    kind = "cuda" if isinstance(device, str) else device.kind
    facts = lookup(device if isinstance(device, str) else device.name)
    rows = table("prices")["devices"]
    name = facts.id if facts else ("cpu" if kind == "cpu" else "")
    row = rows.get(name)
    if row is None or currency.lower() not in row:
        return None
    times = max(1.0, cores / PRICED_CORES) if name == "cpu" else 1.0
    return Price(
        per_hour=float(row[currency.lower()]) * times, currency=currency, basis="list", source=table("prices")["note"]
    )


def user_price(text: str, *, name: str = VARIABLE, currency: str = "USD") -> Price | None:
    """`1.2`, `8.5 CNY`, `¥8.5`, `$1.2`; None when empty.

    Args:
        text: what the user wrote. name: where.
        currency: of a bare number.

    Raises:
        InputError: when it is none of these.
    """
    word = text.strip().upper()
    if not word:
        return None
    value, named = _amount(word)
    if not 0 <= value < 1e6:
        raise InputError(*explain("hardware.price", price=text, name=name))
    return Price(per_hour=value, currency=named or currency, basis="user")


def _amount(word: str) -> tuple[float, str]:
    """A number and the currency beside it, empty where there is none; -1 where it is no number."""
    word = word.replace("￥", "¥").replace("元", " CNY").replace("RMB", "CNY")
    currency = "CNY" if "CNY" in word or "¥" in word else "USD" if "USD" in word or "$" in word else ""
    try:
        value = float(word.replace("CNY", "").replace("USD", "").strip(" ¥$"))
    except ValueError:
        return -1.0, currency
    return (value, currency) if math.isfinite(value) else (-1.0, currency)


def money_terms(
    money: str | float | None, price: str | float | None, language: str, environ: Mapping[str, str]
) -> dict[str, Any]:
    """The fields of a `Budget` that are about money.

    A bare number is in the other's currency where only one names it, else in yuan for Chinese and dollars otherwise.

    Args:
        money: what may be spent, as 20, "20 CNY" or "$3"; None is unlimited.
        price: of one device-hour, likewise; None takes the environment's (`VARIABLE`), or none.
        language: zh or en.
        environ: the environment.

    Raises:
        InputError: when one is no amount, or they are in two currencies.
    """
    said, name, source = (str(price), OPTION, "option") if price is not None else ("", "", "")
    if price is None and environ.get(VARIABLE, "").strip():
        said, name, source = environ[VARIABLE], VARIABLE, "environment"
    limit, in_limit = (None, "") if money is None else _amount(str(money).strip().upper())
    if limit is not None and not 0 < limit < 1e9:
        raise InputError(*explain("hardware.money", money=money))
    usual = in_limit or ("CNY" if language == "zh" else "USD")
    own = user_price(said, name=name, currency=usual)
    if own is None:
        return {"money": limit, "currency": usual}
    if in_limit and in_limit != own.currency:
        raise InputError(*explain("hardware.currencies", money=money, price=said, currency=own.currency))
    return {
        "money": limit,
        "currency": own.currency,
        "price_per_device_hour": own.per_hour,
        "price_source": source,
    }


def priced(budget: Budget, hardware: HardwareProfile, devices: int = 1) -> Budget:
    """The budget with a price and the devices that are held, so that its money becomes time.

    Args:
        budget: as the user gave it; the user's own price stays.
        hardware: the machine, for its list price.
        devices: that one training takes.

    Raises:
        InputError: when money is limited and no price is known.
    """
    if budget.price_source:
        return replace(budget, devices=devices)
    order = [budget.currency] + ([c for c in CURRENCIES if c != budget.currency] if budget.money is None else [])
    found = next((p for c in order if (p := price_of(hardware.device, currency=c, cores=hardware.cpu_cores))), None)
    if found is None and budget.money is not None:
        raise InputError(*explain("hardware.no_price", device=hardware.device.name, currency=budget.currency))
    if found is None:
        return replace(budget, devices=devices)
    return replace(
        budget,
        price_per_device_hour=found.per_hour,
        currency=found.currency,
        price_source="list",
        devices=devices,
    )


def cost_estimate(
    stages: Mapping[str, float], budget: Budget, hardware: HardwareProfile, language: str
) -> CostEstimate:
    """What a run's stages cost together; the devices are held from the first to the last.

    Args:
        stages: name to seconds of wall-clock.
        budget: from `priced`.
        hardware: the machine.
        language: of the price's source.
    """
    price = budget.price_per_device_hour if budget.price_source else None
    devices = max(budget.devices, 1)
    parts = {
        name: stage_cost(seconds, price, hardware, devices=devices, busy=BUSY.get(name, IDLE))
        for name, seconds in stages.items()
        if seconds > 0
    }
    basis = cast(Literal["option", "environment", "list", "none"], budget.price_source or "none")
    shown = amount(price, budget.currency, language)
    source = text(
        f"hardware.price_source.{basis}",
        language,
        price=shown,
        option=OPTION,
        name=VARIABLE,
        device=hardware.device.name,
        note=table("prices")["note"],
    )
    return CostEstimate(
        money=_total([one.money for one in parts.values()]) if price is not None else None,
        currency=budget.currency,
        basis=basis,
        source=source,
        price_per_device_hour=price or 0.0,
        devices=devices,
        device_hours=_total([one.device_hours for one in parts.values()]) or 0.0,
        watt_hours=_total([one.watt_hours for one in parts.values()]) or 0.0,
        limit=budget.money,
        stages=parts,
    )


def stage_cost(
    seconds: float, price: float | None, hardware: HardwareProfile, *, devices: int = 1, busy: float = 0.9
) -> StageCost:
    """What so many seconds cost.

    Args:
        seconds: of wall-clock.
        price: of a device-hour; None where it is not known.
        hardware: the machine.
        devices: that are held.
        busy: share of the time in which they compute.
    """
    hours = max(seconds, 0.0) / 3600
    return StageCost(
        seconds=seconds,
        device_hours=round(hours * devices, 6),
        money=None if price is None else round(price * hours * devices, 6),
        watt_hours=round(machine_watts(hardware, devices, busy) * hours, 3),
    )


def machine_watts(hardware: HardwareProfile, devices: int = 1, busy: float = 0.9) -> float:
    """At the wall: the devices in use and the machine around them.

    Args:
        hardware: the machine. devices: that work. busy: share of the time in which they do.
    """
    if hardware.device.kind == "cpu":
        return max(hardware.cpu_cores, 1) * CPU_WATTS_PER_CORE * (CPU_IDLE + (1 - CPU_IDLE) * busy) * WALL
    return (watts(hardware.device, busy) * devices + HOST_WATTS) * WALL


def wall_watt_hours(joules: float, seconds: float) -> float:
    """Watt-hours at the wall of what cards were measured to take, the machine around them estimated.

    Args:
        joules: of all cards. seconds: in which they took it.
    """
    return (joules / 3600 + HOST_WATTS * seconds / 3600) * WALL


def watts(device: Device, busy: float = 0.9, products: float | None = None) -> float:
    """What a device draws while it trains.

    Args:
        device: with its power limit; without one, its table's.
        busy: share of the time in which it computes.
        products: share of the time that its matrix units run at full rate (`StepTime.products_share`); two fifths of
            `busy` when not given, as in a saturated step.
    """
    if device.kind == "cpu":
        return 0.0  # in the machine's, which has the cores
    facts = lookup(device.name)
    limit = device.power_limit_watts or (facts.watts if facts else 0.0)
    share = POWER[0] + POWER[1] * busy + POWER[2] * (0.4 * busy if products is None else products)
    return limit * min(1.0, share)


def cheapest(memory_bytes: int, *, currency: str = "USD") -> list[tuple[str, Price]]:
    """Cards that can be hired and have at least so much memory, cheapest first."""
    rows = table("prices")["devices"]
    found = []
    for one in all_devices():
        price = price_of(one.id, currency=currency)
        if price and one.id in rows and rows[one.id].get("cloud") and one.device().memory_bytes >= memory_bytes:
            found.append((one.id, price))
    return sorted(found, key=lambda pair: (pair[1].per_hour, pair[0]))


def _total(parts: list[float | None]) -> float | None:
    """The sum to the digits that the parts have; None where one is unknown."""
    known = [one for one in parts if one is not None]
    return round(math.fsum(known), 6) if len(known) == len(parts) else None


def amount(value: float | None, currency: str, language: str) -> str:
    """An amount as a person reads it, to the digits that an estimate is worth.

    Args:
        value: None where it is unknown. currency: USD or CNY. language: zh or en.
    """
    if value is None:
        return text("hardware.amount.unknown", language)
    number = _digits(value)
    if value > 0 and float(number.replace(",", "")) == 0:
        least = text(f"hardware.amount.{currency}", language, number="0.0001")
        return text("hardware.amount.tiny", language, least=least)
    return text(f"hardware.amount.{currency}", language, number=number)


def plain_amount(value: float | None, currency: str) -> str:
    """An amount that is the same in every language, as `0.29 USD`; `-` where it is unknown."""
    return "-" if value is None else f"{_digits(value)} {currency}"


def _digits(value: float) -> str:
    """To the digits that an estimate is worth: two below one unit, hundredths below a hundred."""
    if value >= 100:
        return f"{value:,.0f}"
    small = 0 < value < 1
    return f"{value:.{min(4, max(2, 1 - math.floor(math.log10(value)))) if small else 2}f}"


def energy(watt_hours: float, language: str) -> str:
    """Energy as a person reads it: Wh below one kWh."""
    del language
    return f"{watt_hours / 1000:.2f} kWh" if watt_hours >= 1000 else f"{watt_hours:.3g} Wh"
