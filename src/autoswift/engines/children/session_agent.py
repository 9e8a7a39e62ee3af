"""Runs one attempt of a trial through its engine's session, away from the control process.

    python -P session_agent.py SPEC.json

Prints each event of the session as one JSON line, `finished` or `failed` last. Any engine works unchanged: its
session is opened here, on the device that this process was given. The run folder and what the specification names
(model, data, interpreter) must be reachable under the same paths, so on several machines they lie on a shared disk.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.5
"""How long a look for events may take, so how late a stop is noticed."""


def named(place: str) -> Any:
    """What `package.module:name` stands for."""
    module, _, name = place.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def engine_of(spec: dict[str, Any]) -> Any:
    """The engine as the control process described it."""
    from autoswift.engines.context import EngineContext

    cls = named(spec["class"])
    if "arguments" in spec:
        return cls(**spec["arguments"])
    score, first = named(spec["score"]["function"]), tuple(spec["score"]["arguments"])
    given = {f.name: spec["context"][f.name] for f in fields(EngineContext) if f.name in spec["context"]}
    for name in ("folder", "model", "python", "train", "validation"):
        given[name] = Path(given[name])
    given["references"] = tuple(given["references"])
    return cls(EngineContext(score=lambda answers, references: score(*first, answers, references), **given))


def main() -> int:
    """Submits the trial, passes its events on, hands a stop to it."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.path[:0] = [p for p in spec["paths"] if p not in sys.path]
    from pydantic import TypeAdapter

    from autoswift.domain.plan import Plan
    from autoswift.domain.profile import Device
    from autoswift.domain.trial import Trial
    from autoswift.run.files import dumps

    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what an engine prints goes to the log
    trial = TypeAdapter(Trial).validate_python(spec["trial"])
    plan = TypeAdapter(Plan).validate_python(spec["plan"])
    device = TypeAdapter(Device).validate_python(spec["device"])
    stop_file, stopped = Path(spec["stop_file"]), False
    session = engine_of(spec["engine"]).open(plan, device)
    try:
        checkpoint = spec["checkpoint"]
        session.submit(trial, Path(checkpoint) if checkpoint else None)
        while True:
            for event in session.events(POLL_SECONDS):
                out.write(dumps(event) + "\n")
                out.flush()
                if event.kind in ("finished", "failed"):
                    return 0
            if not stopped and stop_file.exists():
                session.stop(trial.number)
                stopped = True
            if os.getppid() == 1:  # the keeper is gone
                return 1
            time.sleep(0.01)  # an engine whose events are always ready does not turn this into a busy loop
    finally:
        session.close()


if __name__ == "__main__":
    sys.exit(main())
