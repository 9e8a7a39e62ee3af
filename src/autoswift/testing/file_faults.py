"""File-system faults: the k-th write, fsync, rename or opening of a file below a folder goes wrong.

It stands in for `os.write`, `os.fsync`, `os.replace`, `os.rename`, `os.open` and `io.open` of this process while a
block runs; nothing else is touched, and files elsewhere are left alone. What C libraries write by themselves (SQLite,
numpy) and what other processes write is not seen: for those take a small file system (`mount -t tmpfs -o size=…`).
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

Operation = Literal["write", "fsync", "rename", "open"]
OPERATIONS: tuple[Operation, ...] = ("write", "fsync", "rename", "open")

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class FileFaults:
    """Counts the operations below a folder, and lets some go wrong.

    Args:
        folder: only files below it.
        operation: which of them goes wrong; None: none, they are only counted.
        at: the how-manieth of that operation, from 1.
        error: errno that it fails with (ENOSPC, EIO, EROFS, …); or "kill": the process ends there by SIGKILL.
        lasting: all later ones fail too, as on a disk that stays full; False: that one alone.
        delay: seconds that every operation takes longer: a slow disk.

    Attributes:
        counts: operations so far, by name.
        struck: whether the fault has happened.

    A write that fails leaves the first half of its bytes behind, as a disk that runs full does.
    """

    def __init__(
        self,
        folder: Path,
        operation: Operation | None = None,
        at: int = 1,
        *,
        error: int | Literal["kill"] = errno.ENOSPC,
        lasting: bool = False,
        delay: float = 0.0,
    ) -> None:
        self.folder, self.operation, self.at = str(folder.resolve()), operation, at
        self.error, self.lasting, self.delay = error, lasting, delay
        self.counts: Counter[str] = Counter()
        self.struck = False
        self._real: dict[str, Any] = {}
        self._lock = threading.RLock()

    def __enter__(self) -> FileFaults:
        self._real = {name: getattr(os, name) for name in ("write", "fsync", "replace", "rename", "open")}
        self._real["io"], self._real["builtin"] = io.open, builtins.open
        os.write, os.open = self._write, self._open
        os.fsync = self._fsync  # type: ignore[assignment]
        os.replace = self._renaming("replace")
        os.rename = self._renaming("rename")
        io.open = builtins.open = self._python_open
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in ("write", "fsync", "replace", "rename", "open"):
            setattr(os, name, self._real[name])
        io.open, builtins.open = self._real["io"], self._real["builtin"]

    def _write(self, fd: int, data: Any, /) -> int:
        if self._below(fd) and self._goes_wrong("write"):
            half = memoryview(data).cast("B")[: max(1, len(memoryview(data).cast("B")) // 2)]
            self._real["write"](fd, half)
            self._fail()
        return int(self._real["write"](fd, data))

    def _fsync(self, fd: Any, /) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        if self._below(number) and self._goes_wrong("fsync"):
            self._fail()
        self._real["fsync"](fd)

    def _renaming(self, name: str) -> Any:
        def rename(source: Any, target: Any, **options: Any) -> None:
            if self._inside(target) and self._goes_wrong("rename"):
                self._fail(str(target))
            self._real[name](source, target, **options)

        return rename

    def _open(self, path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & _WRITING and self._inside(path) and self._goes_wrong("open"):
            self._fail(str(path))
        return int(self._real["open"](path, flags, *arguments, **options))

    def _python_open(self, file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        writing = bool(set(mode) & set("wax+")) and not isinstance(file, int)
        if writing and self._inside(file) and self._goes_wrong("open"):
            self._fail(str(file))
        return self._real["io"](file, mode, *arguments, **options)

    def _goes_wrong(self, operation: Operation) -> bool:
        with self._lock:
            self.counts[operation] += 1
            count = self.counts[operation]
        if self.delay:
            time.sleep(self.delay)
        if self.operation is not None and self.struck and self.lasting:
            return True  # a full disk takes nothing more, of whatever kind
        if operation != self.operation or count != self.at:
            return False
        self.struck = True
        return True

    def _fail(self, path: str | None = None) -> None:
        if self.error == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # the signal is on its way
        raise OSError(self.error, os.strerror(int(self.error)), path)

    def _below(self, fd: int) -> bool:
        for place in (f"/proc/self/fd/{fd}", f"/dev/fd/{fd}"):
            try:
                return self._inside(os.readlink(place))
            except OSError:
                continue
        return False

    def _inside(self, path: Any) -> bool:
        if isinstance(path, int):
            return False
        text = os.path.abspath(os.fsdecode(path))
        return text == self.folder or text.startswith(self.folder + os.sep)
