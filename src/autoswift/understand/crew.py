"""Hands batches of records to this process and to others beside it, and takes the rows back in order."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from autoswift.run.places import child_environment
from autoswift.run.process import Child
from autoswift.understand.batch import Batch, Item, Settings, Worker
from autoswift.understand.worker import pack_items, receive, send, settings_frame, unpack

AFTER = 8
"""Batches that this process makes alone: a second one needs half a second to start, in which eight are done."""
AHEAD = 2
"""Batches that another process is given: one in work, one waiting."""
BUFFERED = 8
"""Batches that are done before an earlier one; beyond it this process waits for the slow one."""
WORKER = "autoswift.understand.worker"
HELPERS = 3
"""Processes beside this one: more than four are not fed fast enough by one reader."""


def cores() -> int:
    """Processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def batches(settings: Settings, given: Iterable[Sequence[Item]], folder: Path, helpers: int) -> Iterator[Batch]:
    """The rows of each batch of records, in their order.

    Args:
        settings: of all batches.
        given: records by batch.
        folder: where other processes are registered, and their log is.
        helpers: processes beside this one, at most.
    """
    own, crew = Worker(settings), _Crew(settings, folder)
    done: dict[int, Batch] = {}
    given_out: dict[int, Sequence[Item]] = {}
    ready = 0
    try:
        for number, items in enumerate(given):
            if number == AFTER and helpers:
                crew.start(min(helpers, HELPERS))
            if crew.take(number, items):
                given_out[number] = items
            else:
                done[number] = own.batch(items)
            _collect(crew, own, done, given_out, wait=len(done) > BUFFERED)
            while ready in done:
                yield done.pop(ready)
                ready += 1
        while given_out or done:
            _collect(crew, own, done, given_out, wait=ready not in done)
            while ready in done:
                yield done.pop(ready)
                ready += 1
    finally:
        crew.end()


def _collect(
    crew: _Crew, own: Worker, done: dict[int, Batch], given_out: dict[int, Sequence[Item]], *, wait: bool
) -> None:
    """Takes what the others have finished; what one of them failed at is done here."""
    while given_out:
        answer = crew.answer(wait=wait)
        if answer is None:
            return
        wait = False
        number, batch = answer
        items = given_out.pop(number)
        done[number] = own.batch(items) if batch is None else batch


class _Crew:
    """The processes beside this one."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.answers: queue.Queue[tuple[int, Batch | None]] = queue.Queue()
        self.members: list[_Member] = []

    def start(self, count: int) -> None:
        self.members = [_Member(self.settings, self.folder, self.answers) for _ in range(count)]

    def take(self, number: int, items: Sequence[Item]) -> bool:
        """Gives a batch to a process that has room for it."""
        free = min(self.members, key=lambda m: m.load, default=None)
        return free is not None and free.load < AHEAD and free.take(number, items)

    def answer(self, *, wait: bool) -> tuple[int, Batch | None] | None:
        """A batch that is done; its number alone when the process failed at it."""
        try:
            number, batch = self.answers.get(block=wait)
        except queue.Empty:
            return None
        for member in self.members:
            member.has.discard(number)
        return number, batch

    def end(self) -> None:
        for member in self.members:
            member.end()


class _Member:
    """One process and the thread that talks with it."""

    def __init__(self, settings: Settings, folder: Path, answers: queue.Queue[tuple[int, Batch | None]]) -> None:
        import autoswift

        root = str(Path(autoswift.__file__).parents[1])
        argv = [sys.executable, "-P", "-m", WORKER]  # -P: no module from the current folder
        env = child_environment(1, {"PYTHONPATH": root})
        self.child = Child(argv, env, folder, "rows", folder / "rows.log", pipes=True)
        self.todo: queue.Queue[tuple[int, Sequence[Item]] | None] = queue.Queue()
        self.answers, self.settings = answers, settings
        self.has: set[int] = set()
        self.broken = False
        self.thread = threading.Thread(target=self._talk, name="rows", daemon=True)
        self.thread.start()

    @property
    def load(self) -> int:
        return len(self.has)

    def take(self, number: int, items: Sequence[Item]) -> bool:
        if self.broken:
            return False
        self.has.add(number)
        self.todo.put((number, items))
        return True

    def end(self) -> None:
        self.todo.put(None)
        self.child.end()
        self.thread.join()
        for pipe in (self.child.stdin, self.child.stdout):
            with contextlib.suppress(OSError):
                pipe.close()

    def _talk(self) -> None:
        """Sends a batch, waits for its rows; after a failure every batch goes back."""
        first = True
        while (one := self.todo.get()) is not None:
            batch = None
            if not self.broken:
                try:
                    if first:
                        send(self.child.stdin, settings_frame(self.settings))
                    first = False
                    send(self.child.stdin, {}, pack_items(one[1]))
                    frame = receive(self.child.stdout)
                    self.broken = frame is None
                    batch = unpack(*frame) if frame else None
                except (OSError, EOFError, ValueError):
                    self.broken = True
            self.answers.put((one[0], batch))
