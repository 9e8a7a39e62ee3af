"""Who owns a run: a kernel lock, so that a dead owner never blocks."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoswift.errors import RunLocked
from autoswift.run.disk import disk_errors_explained
from autoswift.tables import explain, told


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Holds the run while the block runs.

    Raises:
        RunLocked: when another live process holds it.
        DiskError: when nothing can be written there.
    """
    fd = _locked(folder)
    try:
        # Who it is, for whoever is refused; the lock itself holds without it, on a full disk too.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(fd)


def _locked(folder: Path) -> int:
    """An open file that holds the run's lock."""
    path = folder / "lock"
    while True:
        with disk_errors_explained(str(folder)):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        except BlockingIOError as exc:
            owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise RunLocked(*explain("lock.run", run=folder.name, owner=owner or told("error.unknown"))) from exc
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # somebody removed the file in between: two who hold two files would both be owners


def is_owned(folder: Path) -> bool:
    """Whether a live process works on the run now; a run that may only be read can be asked too."""
    try:
        fd = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
