"""The client of the resident model worker: loads models, answers, scores, compares, in a child process."""

from __future__ import annotations

import json
import select
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from autoswift.errors import ChildFailed
from autoswift.run.files import dumps
from autoswift.run.places import child_environment
from autoswift.run.process import Child
from autoswift.tables import explain

WORKER = Path(__file__).parent / "children" / "worker.py"

ANSWER_SECONDS = 3600.0
"""Longest wait for one reply; a whole test set on a slow CPU takes minutes."""


class ModelWorker:
    """A child that holds one model at a time. Use as a context manager.

    Args:
        python: the training environment's interpreter.
        folder: the run folder.
        threads: CPU threads; 0 leaves it to torch.
    """

    def __init__(self, python: Path, folder: Path, threads: int = 0) -> None:
        self._python, self._folder, self._threads = python, folder, threads
        self._child: Child | None = None
        self._number = 0
        self._buffer = b""

    def __enter__(self) -> ModelWorker:
        """Starts nothing yet: the child starts at the first question."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the child."""
        self.close()

    def close(self) -> None:
        """Ends the child."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def ask(self, do: str, *, timeout: float = ANSWER_SECONDS, **arguments: Any) -> dict[str, Any]:
        """One request and its reply.

        Args:
            do: the command, see `children/worker.py`.
            timeout: seconds.
            arguments: of the command.

        Raises:
            ChildFailed: when the worker refuses, dies, or does not answer in time. Transient when it was killed.
        """
        child = self._started()
        self._number += 1
        request = {"id": self._number, "do": do} | arguments
        try:
            child.stdin.write(dumps(request).encode() + b"\n")
            child.stdin.flush()
            reply = json.loads(self._line(child, timeout))
        except (BrokenPipeError, EOFError) as exc:
            code = child.wait(5)
            tail = child.tail(5)
            self.close()
            raise ChildFailed(
                *explain("worker.ended", do=do, code=code, evidence=tail, log=child.log), transient=code == 137
            ) from exc
        if not reply["ok"]:
            raise ChildFailed(
                *explain(
                    "worker.refused",
                    do=do,
                    said=reply["error"]["message"],
                    evidence=reply["error"]["type"],
                    log=child.log,
                )
            )
        return dict(reply["result"])

    def _started(self) -> Child:
        if self._child is None:
            self._buffer = b""
            self._child = Child(
                [str(self._python), "-P", str(WORKER)],
                child_environment(self._threads),
                self._folder,
                "model worker",
                self._folder / "logs" / "worker.log",
                pipes=True,
            )
        return self._child

    def _line(self, child: Child, timeout: float) -> bytes:
        end = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([child.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                child.end()
                self._child = None
                raise ChildFailed(*explain("worker.silent", seconds=timeout))
            part = child.stdout.read1(65536)  # type: ignore[attr-defined]
            if not part:
                raise EOFError
            self._buffer += part
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line
