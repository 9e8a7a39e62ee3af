"""models.lock: the SHA-256 of every model file that was ever used here. First use records, later uses compare."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoswift.errors import ModelError
from autoswift.run.disk import disk_errors_explained
from autoswift.run.files import dumps, read_json, write_atomic
from autoswift.run.places import cache_folder, home
from autoswift.tables import explain


def lock_path() -> Path:
    """`$AUTOSWIFT_HOME/models.lock`."""
    return home() / "models.lock"


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds a kernel lock on `path` (made when absent): one process at a time, and none after a crash."""
    with disk_errors_explained(str(path.parent)):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def locked_files(source: str, location: str) -> dict[str, str]:
    """File name to SHA-256 as recorded, empty at first use."""
    entry = _read().get(f"{source}:{location}")
    return {str(k): str(v) for k, v in entry.get("files", {}).items()} if isinstance(entry, dict) else {}


def check_and_record(source: str, location: str, files: dict[str, str], revision: str = "") -> None:
    """Compares with what was recorded; records what is new.

    Raises:
        ModelError: when a file changed since its first use.
    """
    with exclusive(lock_path().with_name(".models.lock.flock")):
        all_entries = _read()
        key = f"{source}:{location}"
        entry = all_entries.get(key) or {}
        known: dict[str, str] = entry.get("files", {})
        for name, digest in sorted(files.items()):
            if known.get(name, digest) != digest:
                raise ModelError(
                    *explain(
                        "lockfile.changed",
                        name=name,
                        model=location,
                        digest=digest,
                        known=known[name],
                        cache=cache_folder() / "models",
                        key=key,
                        lock=lock_path(),
                    )
                )
        if files.items() <= known.items():
            return
        kept = {"recorded": time.time(), "revision": revision} | entry
        all_entries[key] = kept | {"files": dict(sorted((known | files).items()))}
        write_atomic(lock_path(), dumps(all_entries, indent=1) + "\n")


def _read() -> dict[str, Any]:
    if not lock_path().exists():
        return {}
    value = read_json(lock_path())
    if not isinstance(value, dict):
        raise ModelError(*explain("lockfile.not_object", path=lock_path()))
    return value
