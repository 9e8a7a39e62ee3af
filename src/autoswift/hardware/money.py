"""What a run costs: money by a table of list prices, and energy by the power that a device draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from autoswift.domain.profile import Device
from autoswift.errors import InputError
from autoswift.hardware.devices import all_devices, lookup
from autoswift.tables import explain, table

VARIABLE = "AUTOSWIFT_PRICE_PER_HOUR"
"""The user's own price of one device-hour, for instance `1.2` or `8.5 CNY`."""
CURRENCIES = ("USD", "CNY")
POWER = (0.14, 0.49, 0.80)
"""Of the power limit: always (clocks up, nothing running), while busy, and for the share of time that the matrix units
run. H100, 93 training steps from 134 to 691 W: median error 6 %."""
CPU_WATTS_PER_CORE = 8.0
"""A server core under load with its share of memory and fans: 250 to 350 W for 32 to 64 cores. An estimate."""
HOST_WATTS = 100.0
"""The rest of a machine around a training card. An estimate."""
WALL = 1.1
"""Wall over board: a power supply loses about a tenth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Of one device-hour.

    Attributes:
        basis: `user` (given by the user), `list` (a cloud's list price from the table) or `own` (no price: the user's
            own machine, or a card that is not let).
    """

    per_hour: float
    currency: str
    basis: str
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of a stretch of time on one or more devices.

    Attributes:
        money: None where no price is known.
        watt_hours: of devices and host at the wall, estimated from the power limit.
    """

    seconds: float
    device_hours: float
    money: float | None
    currency: str
    price: Price | None
    watt_hours: float


def price_of(device: Device | str, *, currency: str = "USD", environ: Mapping[str, str] | None = None) -> Price | None:
    """The price of an hour of one such device; None when there is none.

    Args:
        device: a device, or a card's name in any spelling.
        currency: USD or CNY, where the table gives both; the user's own price keeps the user's currency.
        environ: the environment, for the user's own price.

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
    return Price(per_hour=float(row[currency.lower()]), currency=currency, basis="list", source=table("prices")["note"])


def user_price(text: str) -> Price | None:
    """`1.2`, `8.5 CNY`, `¥8.5`, `$1.2`; None when empty.

    Raises:
        InputError: when it is none of these.
    """
    word = text.strip().upper().replace("￥", "¥").replace("元", " CNY").replace("RMB", "CNY")
    if not word:
        return None
    currency = "CNY" if "CNY" in word or "¥" in word else "USD"
    number = word.replace("CNY", "").replace("USD", "").strip(" ¥$")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6 or not math.isfinite(value):
        raise InputError(*explain("hardware.price", price=text, name=VARIABLE))
    return Price(per_hour=value, currency=currency, basis="user")


def cost(
    device: Device,
    seconds: float,
    *,
    devices: int = 1,
    busy: float = 0.9,
    currency: str = "USD",
    environ: Mapping[str, str] | None = None,
) -> Cost:
    """What so many seconds on so many devices cost.

    Args:
        device: one of them.
        seconds: of wall-clock.
        devices: how many.
        busy: share of the time in which they compute (`StepTime.busy`).
        currency: USD or CNY.
        environ: the environment, for the user's own price.

    Raises:
        InputError: when the user's price is no price.
    """
    price = price_of(device, currency=currency, environ=environ)
    hours = max(seconds, 0.0) / 3600 * devices
    return Cost(
        seconds=seconds,
        device_hours=hours,
        money=round(price.per_hour * hours, 4) if price else None,
        currency=price.currency if price else currency,
        price=price,
        watt_hours=round((watts(device, busy) * devices + HOST_WATTS) * WALL * max(seconds, 0.0) / 3600, 2),
    )


def watts(device: Device, busy: float = 0.9, products: float | None = None) -> float:
    """What a device draws while it trains.

    Args:
        device: with its power limit; without one, its table's.
        busy: share of the time in which it computes.
        products: share of the time that its matrix units run at full rate (`StepTime.products_share`); two fifths of
            `busy` when not given, as in a saturated step.
    """
    if device.kind == "cpu":
        return 0.0  # in the host's share, which has the cores
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
