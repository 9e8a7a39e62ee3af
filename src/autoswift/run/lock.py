"""Who owns a run: a kernel lock, so that a dead owner never blocks."""

from __future__ import annotations

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
    """
    with disk_errors_explained(str(folder)):
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            raise RunLocked(*explain("lock.run", run=folder.name, owner=owner or told("error.unknown"))) from exc
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(fd)


def is_owned(folder: Path) -> bool:
    """Whether a live process works on the run now."""
    path = folder / "lock"
    if not path.exists():
        return False
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
