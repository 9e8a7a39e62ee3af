"""The simulated engine on the real clock, made from a context as every engine is: it can run in another process.

`paced.json` in the run folder says how: {pause: seconds between events, faults: [[trial, attempt, symptom], …]}.
`starts.jsonl` there takes a line for each attempt that began: {trial, attempt, overrides, pid}; `ends.jsonl` one for
each that came to its end.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from autoswift.domain.artifact import Artifact
from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Event
from autoswift.domain.trial import Trial
from autoswift.engines.context import EngineContext
from autoswift.engines.simulated import Landscape, SimulatedEngine
from autoswift.run.files import append_line


def context(folder: Path, **how: Any) -> EngineContext:
    (folder / "paced.json").write_text(json.dumps(how), encoding="utf-8")
    nowhere = folder / "nothing"
    return EngineContext(
        folder=folder,
        model=nowhere,
        python=nowhere,
        train=nowhere,
        validation=nowhere,
        references=("a",),
        score=lambda answers, references: {},
    )


class PacedEngine:
    def __init__(self, context: EngineContext) -> None:
        self.context = context

    def open(self, plan: Plan, device: Device) -> PacedSession:
        how = json.loads((self.context.folder / "paced.json").read_text(encoding="utf-8"))
        return PacedSession(self.context.folder, plan, device, how)


class PacedSession:
    def __init__(self, folder: Path, plan: Plan, device: Device, how: dict[str, Any]) -> None:
        faults = tuple((int(n), int(a), str(s)) for n, a, s in how.get("faults", ()))
        engine = SimulatedEngine(folder, Landscape(best_rate=float(how.get("best_rate", 1e-3)), faults=faults))
        self.folder, self.pause, self.inner = folder, float(how.get("pause", 0.0)), engine.open(plan, device)

    def capacity(self) -> int:
        return self.inner.capacity()

    def submit(self, trial: Trial, from_checkpoint: Path | None = None) -> None:
        self.inner.submit(trial, from_checkpoint)
        row = {"trial": trial.number, "attempt": trial.attempt, "overrides": trial.overrides, "pid": os.getpid()}
        append_line(self.folder / "starts.jsonl", row)

    def events(self, timeout: float) -> list[Event]:
        time.sleep(self.pause)
        found = self.inner.events(timeout)
        for one in found:
            if one.kind in ("finished", "failed"):
                append_line(self.folder / "ends.jsonl", {"trial": one.trial, "kind": one.kind})
        return found

    def stop(self, trial: int) -> None:
        self.inner.stop(trial)

    def save(self, trial: int, path: Path) -> Artifact:
        return self.inner.save(trial, path)

    def close(self) -> None:
        self.inner.close()
