"""A disk that is full, fails or may not be written, said as such: in words, with the place, wherever a run writes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from autoswift.errors import DiskError, DiskFull
from autoswift.tables import explain

FULL = (errno.ENOSPC, errno.EDQUOT)
BROKEN = (errno.EIO, errno.EUCLEAN) if hasattr(errno, "EUCLEAN") else (errno.EIO,)
"""The device answers with errors; EUCLEAN is what Linux says of a file system that needs repair."""


@contextmanager
def disk_errors_explained(where: str) -> Iterator[None]:
    """Turns what a disk can do to a writer into words, naming the place.

    Raises:
        DiskFull: when the block raised ENOSPC or EDQUOT.
        DiskError: when it raised EIO (the device fails) or EROFS (mounted read-only).
    """
    try:
        yield
    except OSError as exc:
        if exc.errno in FULL:
            raise DiskFull(*explain("disk.full", where=where)) from exc
        if exc.errno in BROKEN:
            raise DiskError(*explain("disk.broken", where=where, evidence=exc.strerror or exc)) from exc
        if exc.errno == errno.EROFS:
            raise DiskError(*explain("disk.read_only", where=where)) from exc
        raise
