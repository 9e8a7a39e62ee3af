"""Append-only truth, as JSON lines.

events.jsonl: everything that happened. trials.jsonl: the search's trials, which the sampler is rebuilt from.
training.jsonl: the winner's final training, in the same words.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoswift.domain.trial import FINAL_TRAINING
from autoswift.run.files import append_line, plain, read_lines

Listener = Callable[[dict[str, Any]], None]


class RunJournal:
    """The journal of one run folder. Safe to use from several threads of the owner."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()

    def listen(self, listener: Listener) -> None:
        """Calls `listener` with each event and each trial line (as kind `trial`) after it is on the disk."""
        self._listeners.append(listener)

    def event(self, kind: str, **fields: Any) -> None:
        """Appends to events.jsonl: {time, kind, …}."""
        row = {"time": time.time(), "kind": kind} | plain(fields)
        with self._lock:
            append_line(self.folder / "events.jsonl", row)
        self._notify(row)

    def trial(self, event: str, number: int, **fields: Any) -> None:
        """Appends {time, event: proposed|started|progress|evaluated|ended, trial, …} to its file."""
        row = {"time": time.time(), "event": event, "trial": number} | plain(fields)
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

    def _notify(self, row: dict[str, Any]) -> None:
        for listener in self._listeners:
            listener(row)
