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
        money: in `currency`, at the price that the user gave per device hour; None is unlimited.
        price_per_device_hour: what one device costs an hour.
        currency: of `money`, only shown.
    """

    trials: int = 5
    hours: float = 4.0
    device_seconds: float | None = None
    money: float | None = None
    price_per_device_hour: float = 0.0
    currency: str = "USD"

    @property
    def seconds(self) -> float:
        """Wall-clock in seconds."""
        return self.hours * 3600.0

    @property
    def device_seconds_limit(self) -> float:
        """The tighter of the device-seconds and the money, in device-seconds."""
        limit = float("inf") if self.device_seconds is None else self.device_seconds
        if self.money is not None and self.price_per_device_hour > 0:
            limit = min(limit, self.money / self.price_per_device_hour * 3600.0)
        return limit
