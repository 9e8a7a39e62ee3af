"""What a run may spend, as the options say it."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from autoswift.cli.options import current, say
from autoswift.errors import InputError

if TYPE_CHECKING:
    from autoswift.domain.budget import Budget


def budget_of(given: dict[str, Any]) -> Budget:
    """The limits as a value.

    Args:
        given: by the options' names.

    Raises:
        InputError: when one is no number above 0, or no amount of money.
    """
    from autoswift.domain.budget import Budget
    from autoswift.hardware.money import money_terms

    for name in ("--budget-hours", "--budget-device-seconds", "--budget-device-hours"):
        value = given[name]
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(say("bad_budget", option=name, value=value), "", say("bad_budget_fix", option=name))
    hours = given["--budget-device-hours"]
    seconds = [given["--budget-device-seconds"], hours * 3600 if hours is not None else None]
    return Budget(
        trials=given["--budget-trials"],
        hours=given["--budget-hours"],
        device_seconds=min((one for one in seconds if one is not None), default=None),
        **money_terms(given["--budget-money"], given["--price"], current.language, os.environ),
    )
