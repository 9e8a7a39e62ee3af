"""Everything that a plan is a function of."""

from __future__ import annotations

from dataclasses import dataclass

from autoswift.catalog.availability import Availability
from autoswift.catalog.models import ModelFacts
from autoswift.catalog.tokens import TokenStats
from autoswift.domain.decision import Decision
from autoswift.domain.plan import ModelChoice
from autoswift.domain.profile import DataProfile, HardwareProfile, TaskProfile
from autoswift.domain.task import Task
from autoswift.hardware.shape import ModelShape, shape_of


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
    """The profiles, the catalogue, the knowledge, the seed (in the task).

    Attributes:
        folder: facts of the model folder that the user named, if it is one.
        tokens: of the training rows by the model's own tokenizer, once it is here.
        experience: learning rates of similar finished runs, best first, as multiples of their own prior.
        seconds_spent: of the wall-clock budget.
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
    experience: tuple[float, ...] = ()
    seconds_spent: float = 0.0

    @property
    def on_cpu(self) -> bool:
        """Whether training has no accelerator."""
        return self.hardware.device.kind == "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The model, its shape, and its decision."""

    model: ModelChoice
    shape: ModelShape
    decision: Decision


def shape_of_choice(model: ModelChoice) -> ModelShape:
    """The shape that memory and speed follow from."""
    return shape_of(model)
