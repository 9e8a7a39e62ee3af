"""Everything that a plan is a function of."""

from __future__ import annotations

from dataclasses import dataclass, field

from autoswift.catalog.availability import Availability
from autoswift.catalog.models import ModelFacts
from autoswift.catalog.tokens import TokenStats
from autoswift.domain.decision import Decision
from autoswift.domain.profile import DataProfile, HardwareProfile, TaskProfile
from autoswift.domain.task import Task
from autoswift.hardware.margins import Margin
from autoswift.knowledge.evidence import Experience


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What this machine has shown, in place of a formula.

    Attributes:
        tokens_per_second: of training. start_seconds: until the first step of a fresh process.
    """

    tokens_per_second: float = 0.0
    start_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The profiles, the catalogue, what was measured, and the task with its seed.

    Attributes:
        folder: facts of the model folder that the user named, if it is one.
        tokens: of the training rows by the model's own tokenizer, once it is here.
        seconds_spent: of the wall-clock budget.
        decided: what was decided before the plan: where the data came from, and the model where probes chose it.
        probe_seconds: that trying models takes before one is fetched for good.
        margins: on predicted memory, from trainings that were measured; those of this run come first.
        experience: what earlier runs on such tasks taught.
        lanes: trials that run at once.
    """

    task: Task
    profile: TaskProfile
    data: DataProfile
    hardware: HardwareProfile
    availability: Availability
    models: tuple[ModelFacts, ...]
    folder: ModelFacts | None = None
    tokens: TokenStats | None = None
    measured: Measured = Measured()
    seconds_spent: float = 0.0
    decided: tuple[Decision, ...] = ()
    margins: tuple[Margin, ...] = ()
    probe_seconds: float = 0.0
    experience: Experience = field(default_factory=Experience)
    lanes: int = 1

    @property
    def on_cpu(self) -> bool:
        """Whether training has no accelerator."""
        return self.hardware.device.kind == "cpu"
