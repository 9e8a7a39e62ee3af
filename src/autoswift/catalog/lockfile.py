"""models.lock: revision and SHA-256 of every model file that was ever used here. First use records, later compare."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoswift.errors import ModelError
from autoswift.run.disk import disk_errors_explained
from autoswift.run.files import dumps, read_json, write_atomic
from autoswift.run.places import home
from autoswift.tables import explain


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """What is pinned of one model; empty at first use.

    Attributes:
        revision: the hub's commit; empty for folders.
        files: name to SHA-256.
    """

    revision: str = ""
    files: dict[str, str]


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


def locked(source: str, location: str) -> Locked:
    """What is pinned.

    Args:
        source: huggingface, modelscope, packaged or folder.
        location: hub id, name or path.
    """
    entry = _read().get(f"{source}:{location}")
    if entry is None:
        return Locked(files={})
    files = entry.get("files", {}) if isinstance(entry, dict) else None
    if not isinstance(files, dict):
        raise ModelError(*explain("lockfile.not_object", path=lock_path()))
    return Locked(revision=str(entry.get("revision") or ""), files={str(k): str(v) for k, v in files.items()})


def locked_files(source: str, location: str) -> dict[str, str]:
    """File name to SHA-256 as recorded, empty at first use."""
    return locked(source, location).files


def check_and_record(source: str, location: str, files: dict[str, str], revision: str = "") -> None:
    """Compares with what was recorded; records what is new.

    Raises:
        ModelError: when a file changed since its first use.
    """
    with exclusive(_guard()):
        all_entries = _read()
        key = f"{source}:{location}"
        entry = all_entries.get(key) or {}
        known: dict[str, str] = entry.get("files", {})
        for name, digest in sorted(files.items()):
            if known.get(name, digest) != digest:
                raise changed(source, location, name, digest, known[name])
        if files.items() <= known.items():
            return
        kept = {"recorded": time.time(), "revision": revision} | entry
        all_entries[key] = kept | {"files": dict(sorted((known | files).items()))}
        write_atomic(lock_path(), dumps(all_entries, indent=1) + "\n")


def replace(source: str, location: str, files: dict[str, str], revision: str = "") -> Locked:
    """Pins anew, whatever was pinned before; only ever done because a person asked for it.

    Returns:
        What was pinned before.
    """
    before = locked(source, location)
    with exclusive(_guard()):
        all_entries = _read()
        entry = {"recorded": time.time(), "revision": revision, "files": dict(sorted(files.items()))}
        all_entries[f"{source}:{location}"] = entry
        write_atomic(lock_path(), dumps(all_entries, indent=1) + "\n")
    return before


def pinned() -> list[tuple[str, str]]:
    """Source and location of all that is pinned."""
    parts = (str(key).partition(":") for key in sorted(_read()))
    return [(source, location) for source, _, location in parts]


def changed(source: str, location: str, name: str, digest: str, known: str) -> ModelError:
    """The error for a file that is not the pinned one."""
    shown = (
        location if source in ("folder", "packaged") else f"{'hf' if source == 'huggingface' else 'ms'}://{location}"
    )
    return ModelError(
        *explain("lockfile.changed", name=name, model=location, digest=digest, known=known, id=shown, lock=lock_path())
    )


def _guard() -> Path:
    return lock_path().with_name(".models.lock.flock")


def _read() -> dict[str, Any]:
    if not lock_path().exists():
        return {}
    value = read_json(lock_path())
    if not isinstance(value, dict):
        raise ModelError(*explain("lockfile.not_object", path=lock_path()))
    return value
