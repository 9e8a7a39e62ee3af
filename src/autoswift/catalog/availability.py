"""stub"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """Where models can be had from now."""

    huggingface: bool
    modelscope: bool
    packaged: bool


def availability(timeout: float = 2.0) -> Availability:
    """Asks both hubs in parallel, `timeout` seconds at most."""
    raise NotImplementedError
