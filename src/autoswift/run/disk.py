"""A full disk, said as one: in words, with the place, wherever a run writes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from autoswift.errors import DiskFull
from autoswift.tables import explain


@contextmanager
def disk_errors_explained(where: str) -> Iterator[None]:
    """Turns "no space left" and "quota exceeded" into `DiskFull`, naming the place.

    Raises:
        DiskFull: when the block raised ENOSPC or EDQUOT.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(*explain("disk.full", where=where)) from exc
