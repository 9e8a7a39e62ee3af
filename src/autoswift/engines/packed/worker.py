"""The resident worker's process: its commands in, its messages out."""

from __future__ import annotations

import contextlib
import os
import select
import time
from pathlib import Path

from autoswift.engines.packed.protocol import LONGEST_LINE, Command, Message, Unreadable, decoded, encoded
from autoswift.recover.diagnose import diagnose, oom_kills
from autoswift.run.process import Child

SCRIPT = Path(__file__).parents[1] / "children" / "packed_worker.py"


class Worker:
    """One process.

    Args:
        python: the training environment's interpreter. script: what it runs.
        env: its whole environment. folder: the run folder. log: takes what it and its libraries print.

    Attributes:
        heard: when its last message came (monotonic clock). began: when it was started (unix).
    """

    def __init__(self, python: Path, script: Path, env: dict[str, str], folder: Path, log: Path) -> None:
        # The run folder tells whose process it is.
        self.child = Child([str(python), "-P", str(script), str(folder)], env, folder, "packed worker", log, pipes=True)
        self.heard, self.began = time.monotonic(), time.time()
        self._buffer, self._closed = b"", False
        self._oom_kills = oom_kills()

    def send(self, command: Command) -> None:
        """Hands it a command; a worker that is gone is seen by `ended`."""
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.write(encoded(command))
            self.child.stdin.flush()

    def messages(self, timeout: float) -> list[Message]:
        """What it said since the last call; waits up to `timeout` seconds for the first.

        Raises:
            Unreadable: when it says something that is not of the protocol.
        """
        if self._closed:
            return []
        try:
            ready, _, _ = select.select([self.child.stdout], [], [], max(0.0, timeout))
            part = os.read(self.child.stdout.fileno(), 2**20) if ready else b""
        except (ValueError, OSError):  # the pipe was closed with the child
            ready, part = [], b""
            self._closed = True
        # A process that the worker had started may hold the pipe open after it.
        if (ready and not part) or (not ready and not self._closed and self.child.poll() is not None):
            self._closed = True
        self._buffer += part
        *lines, self._buffer = self._buffer.split(b"\n")
        if len(self._buffer) > LONGEST_LINE:
            raise Unreadable(f"no line's end in {len(self._buffer)} bytes")
        found = [decoded(line) for line in lines if line.strip()]
        if found:
            self.heard = time.monotonic()
        return found

    def ended(self) -> bool:
        """Whether it is gone and everything that it said was read."""
        return self._closed

    def verdict(self) -> tuple[str, str, bool]:
        """Why it ended: symptom, evidence, and whether the same may simply be repeated. Ends it where it still runs."""
        code = self.child.wait(5.0)
        self.end()
        found = diagnose(code, self.child.tail(60), oom_kills_before=self._oom_kills)
        return found.name, found.evidence, found.transient

    def end(self) -> None:
        """Ends the process."""
        self.child.end()
        self._closed = True
