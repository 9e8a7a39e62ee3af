"""What lies in the cache, and whether it is still what it was when it was hashed."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

from autoswift.errors import DiskFull, InputError
from autoswift.run.files import dumps, file_sha256
from autoswift.tables import explain

MARGIN = 2**28
"""Bytes kept free beside a model: logs and small files."""
STATE = ".verified.json"


def room(where: Path, needed: int) -> None:
    """Looks for free space before anything is written.

    Raises:
        DiskFull: when it is too little. InputError: when the place cannot be used.
    """
    place = where
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError as exc:
        raise InputError(*explain("fetch.place", place=place, evidence=exc)) from exc
    if free < needed + MARGIN:
        raise DiskFull(*explain("fetch.room", place=place, free=free / 1e9, needed=(needed + MARGIN) / 1e9))


_state_lock = threading.Lock()


def record(folder: Path, name: str, digest: str) -> None:
    """Notes that a file had this hash when it had the size and time that it has now."""
    with _state_lock:
        state = _state(folder)
        status = (folder / name).stat()
        state[name] = [status.st_size, status.st_mtime_ns, status.st_ino, digest]
        temporary = folder / f"{STATE}.new"  # not synced: what a power cut loses is hashed again
        temporary.write_text(dumps(state), encoding="utf-8")
        os.replace(temporary, folder / STATE)


def is_here(folder: Path, name: str, digest: str, *, full: bool = False) -> bool:
    """Whether a cached file is the one with that hash.

    Args:
        folder: of the cache.
        name: of the file.
        digest: the SHA-256 that it must have.
        full: hash it in any case; else size, time and inode as they were when it was last hashed are enough.
    """
    path = folder / name
    if path.is_symlink() or not path.is_file():
        return False
    status = path.stat()
    if not full and _state(folder).get(name) == [status.st_size, status.st_mtime_ns, status.st_ino, digest]:
        return True
    if file_sha256(path) != digest:
        return False
    record(folder, name, digest)
    return True


def _all_here(folder: Path, files: dict[str, str]) -> bool:
    return all(is_here(folder, name, digest) for name, digest in files.items())


def _state(folder: Path) -> dict[str, list[object]]:
    try:
        value = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def forget(folder: Path, name: str) -> None:
    """Takes a damaged file out of the cache."""
    (folder / name).unlink(missing_ok=True)
