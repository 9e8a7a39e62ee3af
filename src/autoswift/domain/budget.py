"""What a run may spend: trials, wall-clock, device-seconds, money; whichever ends first."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits of a run.

    Attributes:
        trials: number of configurations that may be started (retries of one do not count as new ones).
        hours: wall-clock of the whole run, in hours.
        device_seconds: sum over trials and the final training of devices × seconds; None is unlimited.
        money: in `currency`, for all that the run does while it holds its devices; None is unlimited.
        price_per_device_hour: what one device costs an hour.
        currency: of `money` and the price: USD or CNY.
        price_source: who named the price: option, environment, list; empty where nobody did yet.
        devices: that the run holds, settled by the plan: money buys so much less time of several.
    """

    trials: int = 5
    hours: float = 4.0
    device_seconds: float | None = None
    money: float | None = None
    price_per_device_hour: float = 0.0
    currency: str = "USD"
    price_source: str = ""
    devices: int = 1

    @property
    def seconds(self) -> float:
        """Wall-clock in seconds: what is allowed, or what the money buys where that is less."""
        return min(self.hours * 3600.0, self.paid_seconds)

    @property
    def paid_seconds(self) -> float:
        """Wall-clock that the money buys of all devices; infinite where it is no limit."""
        if self.money is None or self.price_per_device_hour <= 0:
            return float("inf")
        return self.money / self.price_per_device_hour / max(self.devices, 1) * 3600.0

    @property
    def device_seconds_limit(self) -> float:
        """The tighter of the device-seconds and the money, in device-seconds."""
        limit = float("inf") if self.device_seconds is None else self.device_seconds
        return min(limit, self.paid_seconds * max(self.devices, 1))
