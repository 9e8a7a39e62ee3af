"""A resident process that trains many LoRA trials on one base: JSON lines in, JSON lines out.

Commands `{"do": open | submit | stop | checkpoint | close, …}` come on stdin; events go to the original stdout, in the
shape of those of `swift_plugin.py`, each with its trial's number. File descriptor 1 is redirected to stderr at the
start, so that nothing a library prints can corrupt the protocol. Ends at the end of stdin.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import traceback
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO


def make_importable() -> None:
    """The folder by its package's name, also where autoswift is not installed; its own start is not run."""
    folder = Path(__file__).resolve().parent
    for name, place in (
        ("autoswift", folder.parents[1]),
        ("autoswift.engines", folder.parent),
        ("autoswift.engines.children", folder),
    ):
        if name not in sys.modules:
            module = types.ModuleType(name)
            module.__path__ = [str(place)]
            sys.modules[name] = module


class Events:
    """Lines to the control process; one write a line."""

    def __init__(self, output: TextIO) -> None:
        self.output = output

    def send(self, event: str, **fields: Any) -> None:
        """One event; floats that JSON cannot hold become null and are named."""
        nonfinite: list[str] = []
        line = _finite({"event": event, "time": time.time(), **fields}, "", nonfinite)
        if nonfinite:
            line["nonfinite"] = nonfinite
        self.output.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        self.output.flush()


def _finite(value: Any, name: str, nonfinite: list[str]) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item, f"{name}.{key}" if name else key, nonfinite) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item, f"{name}[{place}]", nonfinite) for place, item in enumerate(value)]
    if isinstance(value, float) and value - value != 0:
        nonfinite.append(name)
        return None
    return value


class Worker:
    """Reads commands between steps."""

    def __init__(self, events: Events, requests: queue.Queue[str | None]) -> None:
        self.events, self.requests = events, requests
        self.room: Any = None
        self.over = False

    def run(self) -> int:
        """Until `close` or the end of stdin."""
        while not self.over:
            busy = self.room is not None and self.room.busy
            try:
                line = self.requests.get(block=not busy)
            except queue.Empty:
                self.room.step()
                continue
            if line is None:
                break
            if line.strip():
                self.take(line)
        return 0

    def take(self, line: str) -> None:
        """One command; one that cannot be carried out is told and forgotten."""
        try:
            request = json.loads(line)
            command = {
                "open": self.open,
                "submit": self.submit,
                "stop": self.stop,
                "checkpoint": self.checkpoint,
                "close": self.close,
            }[str(request["do"])]
        except (ValueError, KeyError, TypeError) as error:
            self.events.send("error", text=f"{type(error).__name__}: {error}: {line[:200]}")
            return
        try:
            command(request)
        except Exception as error:
            traceback.print_exc()
            trial = {"trial": request["trial"]} if "trial" in request else {}
            self.events.send("error", text=f"{request['do']}: {type(error).__name__}: {error}", **trial)

    def open(self, request: Mapping[str, Any]) -> None:
        """Load the base; says `opened`, or `refused` with a reason."""
        from autoswift.engines.children.packed_head import Refused
        from autoswift.engines.children.packed_room import Room

        begun = time.perf_counter()
        try:
            self.room = Room(request, self.events)
        except Refused as error:
            self.events.send("refused", reason=error.reason, text=error.text)
            return
        except Exception as error:  # whatever it is, a process per trial may still do
            traceback.print_exc()
            kind = "out_of_memory" if type(error).__name__ == "OutOfMemoryError" else "load"
            self.events.send("refused", reason=kind, text=f"{type(error).__name__}: {error}")
            return
        self.events.send("opened", seconds=time.perf_counter() - begun, **self.room.facts())

    def _room(self) -> Any:
        if self.room is None:
            raise RuntimeError("no base is open")
        return self.room

    def submit(self, request: Mapping[str, Any]) -> None:
        """A trial joins at the next step."""
        self._room().submit(request)

    def stop(self, request: Mapping[str, Any]) -> None:
        """A trial ends at its next step."""
        self._room().stop(int(request["trial"]))

    def checkpoint(self, request: Mapping[str, Any]) -> None:
        """A trial is saved now."""
        self._room().save(int(request["trial"]))

    def close(self, request: Mapping[str, Any]) -> None:
        """Leave; what runs is lost, what was saved stays."""
        self.events.send("closed")
        self.over = True


def _read(source: TextIO, requests: queue.Queue[str | None]) -> None:
    for line in source:
        requests.put(line)
    requests.put(None)


def main() -> int:
    """Serve."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    source = os.fdopen(os.dup(0), "r", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # libraries that ask questions must not eat commands
    requests: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(source, requests), daemon=True).start()
    return Worker(Events(output), requests).run()


if __name__ == "__main__":
    make_importable()
    code = main()
    sys.stderr.flush()
    os._exit(code)  # the reader may still wait for a line
