"""Learning curves by formula instead of training: a real engine for tests and dry runs, never for a result.

The loss falls as a power of the tokens (Kaplan et al. 2020) towards a floor that depends on the learning rate as a
parabola in its logarithm; rates far above the best one diverge. Time is simulated: a trial's events are ready at once.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoswift.domain.artifact import Artifact
from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Event
from autoswift.domain.trial import Trial
from autoswift.errors import StageFailed
from autoswift.search.configuration import settings_in_force
from autoswift.tables import explain


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """What the curves look like.

    Attributes:
        best_rate: learning rate with the lowest floor.
        diverges_above: multiple of the best rate from which on the loss grows.
        noise: standard deviation of one step's loss.
        faults: (trial, attempt) to the symptom with which that attempt fails.
    """

    best_rate: float = 1e-3
    diverges_above: float = 30.0
    noise: float = 0.02
    faults: tuple[tuple[int, int, str], ...] = ()


class SimulatedEngine:
    """A `TrainEngine` without a device.

    Args:
        folder: takes the (empty) checkpoints.
        capacity: trials at once.
    """

    def __init__(self, folder: Path, landscape: Landscape | None = None, capacity: int = 1) -> None:
        self.folder, self.landscape, self._capacity = folder, landscape or Landscape(), capacity
        self.started: list[Trial] = []

    def open(self, plan: Plan, device: Device) -> SimulatedSession:
        """A session."""
        del device
        return SimulatedSession(self, plan, self._capacity)


class SimulatedSession:
    """Up to `capacity` trials, each a queue of events that are already known."""

    def __init__(self, engine: SimulatedEngine, plan: Plan, capacity: int) -> None:
        self.engine, self.plan, self._capacity = engine, plan, capacity
        self.queues: dict[int, deque[Event]] = {}
        self.clock = 0.0

    def capacity(self) -> int:
        """As given."""
        return self._capacity

    def submit(self, trial: Trial, from_checkpoint: Path | None = None) -> None:
        """Computes the whole trial.

        Raises:
            StageFailed: when it is full.
        """
        del from_checkpoint
        if len(self.queues) >= self._capacity:
            raise StageFailed(*explain("engine.full", capacity=self._capacity))
        self.engine.started.append(trial)
        self.queues[trial.number] = deque(self._events(trial))

    def events(self, timeout: float) -> list[Event]:
        """The next event of each running trial."""
        del timeout
        found = []
        for number in list(self.queues):
            event = self.queues[number].popleft()
            found.append(event)
            if event.kind in ("finished", "failed"):
                del self.queues[number]
        return found

    def stop(self, trial: int) -> None:
        """Skips to the trial's end."""
        queue = self.queues.get(trial)
        while queue and len(queue) > 1:
            queue.popleft()

    def save(self, trial: int, path: Path) -> Artifact:
        """Makes an empty checkpoint."""
        path.mkdir(parents=True, exist_ok=True)
        return Artifact(path=str(path), kind="checkpoint", made_by=f"simulated trial {trial}")

    def close(self) -> None:
        """Forgets what runs."""
        self.queues.clear()

    def _events(self, trial: Trial) -> list[Event]:
        fault = next((s for n, a, s in self.engine.landscape.faults if (n, a) == (trial.number, trial.attempt)), "")
        settings = settings_in_force(self.plan, trial)
        steps = int(settings["max_steps"])
        noise = random.Random(f"{self.plan.seed}/{trial.number}")  # noqa: S311 - a curve, no secret
        made = [self._make("started", trial, 0)]
        for step in range(1, steps + 1):
            if fault and step == max(1, steps // 2):
                return [*made, self._make("failed", trial, step, symptom=fault, evidence={"text": "injected"})]
            loss = self._loss(settings, trial.tokens * step / steps) + noise.gauss(0, self.engine.landscape.noise)
            metrics = {"loss": loss, "tokens": float(trial.tokens * step // steps), "tokens_per_second": 1000.0}
            made.append(self._make("progress", trial, step, metrics))
        nll = self._loss(settings, trial.tokens)
        final = {
            self.plan.search.metric: 100 * math.exp(-nll),
            "nll": nll,
            "latency_seconds": 0.1,
            "tokens": float(trial.tokens),
        }
        folder = self.engine.folder / "trials" / str(trial.number) / f"attempt-{trial.attempt}"
        artifact = self.save(trial.number, folder)
        made.append(self._make("evaluated", trial, steps, final))
        return [*made, self._make("finished", trial, steps, final, artifact=artifact)]

    def _loss(self, settings: dict[str, Any], tokens: float) -> float:
        land = self.engine.landscape
        ratio = settings["learning_rate"] / land.best_rate
        if ratio > land.diverges_above:
            return 3.0 + tokens / 500
        floor = 1.0 + 0.15 * math.log10(ratio) ** 2
        return float(floor + 2.0 * (1 + tokens / 1000) ** -0.5)

    def _make(self, kind: Any, trial: Trial, step: int, metrics: dict[str, Any] | None = None, **fields: Any) -> Event:
        self.clock += 1.0
        return Event(kind=kind, trial=trial.number, time=self.clock, step=step, metrics=metrics or {}, **fields)
