"""A few training steps outside the search: what they took, and how they ended."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Event, TrainEngine
from autoswift.domain.trial import Trial
from autoswift.engines.context import EngineContext
from autoswift.run.files import dumps, write_atomic
from autoswift.run.plugins import load
from autoswift.run.process import reap

POLL_SECONDS = 0.5
"""Wait for events: short against a step."""
ENDING_SECONDS = 60.0
"""After its deadline a training has this long to save and to end."""


@dataclass(slots=True)
class Short:
    """How a few steps went.

    Attributes:
        symptom: why it failed; empty when it did not. reason: in the engine's words.
        memory_bytes: highest reported peak. step_seconds: of all steps. seconds: with starting.
        artifact: the checkpoint, relative to the folder.
    """

    symptom: str = ""
    reason: str = ""
    memory_bytes: int = 0
    step_seconds: float = 0.0
    seconds: float = 0.0
    steps: int = 0
    losses: list[float | None] = field(default_factory=list)
    artifact: str = ""

    @property
    def out_of_memory(self) -> bool:
        """Whether memory was what ended it."""
        return "out_of_memory" in self.symptom


def engine_for(plan: Plan, **places: Any) -> TrainEngine:
    """The plan's engine on a context of its own that scores nothing.

    Args:
        places: folder, model, python, train, validation and system of the `EngineContext`.
    """
    reap(places["folder"])  # of an owner that was killed
    engine: TrainEngine = load("engines", plan.training.engine)(
        EngineContext(references=(), score=lambda answers, references: {}, **places)
    )
    return engine


def run_short(engine: TrainEngine, plan: Plan, device: Device, trial: Trial) -> Short:
    """Carries out a trial to its end; what is over its deadline by a minute is ended as a hang."""
    found, begin = Short(), time.monotonic()
    session = engine.open(plan, device)
    try:
        session.submit(trial)
        while not _ended(found, session.events(POLL_SECONDS)):
            if trial.deadline and time.time() > trial.deadline + ENDING_SECONDS:
                found.symptom, found.reason = "hang", f"no end after {time.monotonic() - begin:.0f} s"
                break
    finally:
        session.close()
    found.seconds = round(time.monotonic() - begin, 3)
    return found


def _ended(found: Short, events: list[Event]) -> bool:
    """Takes events; whether one of them was the last."""
    for event in events:
        found.memory_bytes = max(found.memory_bytes, int(event.metrics.get("memory_bytes") or 0))
        if event.kind == "progress":
            found.steps = max(found.steps, event.step)
            found.step_seconds += float(event.metrics.get("seconds_per_step") or 0.0)
            found.losses.append(event.metrics.get("loss"))
        if event.kind == "failed":
            found.symptom = event.symptom or "unknown"
            found.reason = str(event.evidence.get("text", ""))
            return True
        if event.kind == "finished":
            found.artifact = event.artifact.path if event.artifact else ""
            return True
    return False


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Dialogues as a training file."""
    write_atomic(path, "".join(dumps({"messages": row["messages"]}) + "\n" for row in rows))
    return path
