"""stub"""

from __future__ import annotations

from pathlib import Path

from autoswift.domain.profile import HardwareProfile


def probe(where: Path) -> HardwareProfile:
    """The machine as this process may use it."""
    raise NotImplementedError


def from_json(path: Path) -> HardwareProfile:
    """A profile written by `profile_json` (or by hand), for `--hardware PROBE.json`."""
    raise NotImplementedError


def profile_json(profile: HardwareProfile) -> str:
    """The profile as JSON."""
    raise NotImplementedError
