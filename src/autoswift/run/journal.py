"""Append-only truth, as JSON lines.

events.jsonl: everything that happened. trials.jsonl: the search's trials, which the sampler is rebuilt from.
training.jsonl: the winner's final training, in the same words.

`time` is unix seconds, for people. `ticks` is the owner's clock that nobody sets: durations are counted by it, between
rows of one owner. An event `clock` says that the two came apart by `jumped` seconds: the wall clock was set, or the
machine slept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoswift.domain.plan import Plan
from autoswift.domain.trial import FINAL_TRAINING
from autoswift.run.files import append_line, plain, read_lines, sealed, write_atomic

Listener = Callable[[dict[str, Any]], None]

JUMP_SECONDS = 5.0
"""Clocks are slewed by up to half a second in a quarter of an hour; a step of this size was a setting or a sleep."""


class RunJournal:
    """The journal of one run folder. Safe to use from several threads of the owner."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()
        self._apart: float | None = None

    def listen(self, listener: Listener) -> None:
        """Calls `listener` with each event and each trial line (as kind `trial`) after it is on the disk."""
        self._listeners.append(listener)

    def event(self, kind: str, **fields: Any) -> None:
        """Appends to events.jsonl: {time, ticks, kind, …}."""
        stamp = _stamp()
        row = stamp | {"kind": kind} | plain(fields)
        rows = [row]
        with self._lock:
            jumped = self._jumped(stamp)
            if jumped:
                rows.insert(0, stamp | {"kind": "clock", "jumped": jumped})
            for one in rows:
                append_line(self.folder / "events.jsonl", one)
        for one in rows:
            self._notify(one)

    def _jumped(self, stamp: dict[str, float]) -> float:
        """By how much the wall clock moved against the other one since the last event; 0 where it did not."""
        apart, before = stamp["time"] - stamp["ticks"], self._apart
        self._apart = apart
        return round(apart - before, 1) if before is not None and abs(apart - before) >= JUMP_SECONDS else 0.0

    def trial(self, event: str, number: int, **fields: Any) -> None:
        """Appends {time, ticks, event: proposed|started|progress|evaluated|ended, trial, …} to its file."""
        row = _stamp() | {"event": event, "trial": number} | plain(fields)
        with self._lock:
            append_line(self.folder / ("training.jsonl" if number == FINAL_TRAINING else "trials.jsonl"), row)
        self._notify({"kind": "trial"} | row)

    def progress(self, **fields: Any) -> None:
        """Tells the listeners only: what moves too often to be kept (a bar's position)."""
        self._notify({"time": time.time(), "kind": "progress"} | plain(fields))

    def events(self) -> list[dict[str, Any]]:
        """Everything in events.jsonl."""
        return read_lines(self.folder / "events.jsonl")

    def trials(self) -> list[dict[str, Any]]:
        """Everything in trials.jsonl, and the final training's lines (trial 0) behind it."""
        return read_lines(self.folder / "trials.jsonl") + read_lines(self.folder / "training.jsonl")

    def revise(self, plan: Plan) -> None:
        """Writes a revision of the plan, and tells of it; one of that number was left behind by a crash."""
        from autoswift.run.record import RunRecord

        write_atomic(self.folder / "plan" / f"{plan.revision}.json", sealed(plain(plan)))
        if (self.folder / "run.json").exists():
            RunRecord(self.folder).update(plan=plan.revision)
        self.event("plan", revision=plan.revision, cause=plan.cause, changed=[], by="recovery")

    def _notify(self, row: dict[str, Any]) -> None:
        for listener in self._listeners:
            listener(row)


def _stamp() -> dict[str, float]:
    return {"time": time.time(), "ticks": round(time.monotonic(), 3)}
