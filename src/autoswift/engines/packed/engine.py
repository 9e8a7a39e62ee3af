"""The training engine that keeps a base loaded and trains many trials on it."""

from __future__ import annotations

from pathlib import Path

from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.engines.context import EngineContext
from autoswift.engines.packed.session import PackedSession
from autoswift.engines.packed.worker import SCRIPT


class PackedEngine:
    """A `TrainEngine` over one run's context.

    Args:
        context: of the run. script: of the worker; another one for tests.
    """

    def __init__(self, context: EngineContext, script: Path = SCRIPT) -> None:
        self.context, self.script = context, script

    def open(self, plan: Plan, device: Device) -> PackedSession:
        """A session on one device; its worker starts with the first trial."""
        return PackedSession(self.context, plan, device, self.script)
