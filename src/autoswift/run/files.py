"""Files that are whole or absent, and values as JSON."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from autoswift.errors import InputError
from autoswift.run.disk import disk_errors_explained
from autoswift.tables import explain


def plain(value: Any) -> Any:
    """A value as JSON knows it: dataclasses to objects, tuples to arrays, non-finite numbers to null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


def dumps(value: Any, *, indent: int | None = None) -> str:
    """UTF-8 JSON without NaN."""
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=indent)


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, in hex."""
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_atomic(path: Path, text: str) -> None:
    """Writes a file so that after a crash it is the old one or the new one.

    Raises:
        DiskFull: when there is no room; the old file stays.
    """
    with disk_errors_explained(str(path.parent)):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as f:
                f.write(text)
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def append_line(path: Path, value: Any) -> None:
    """Appends one JSON line and syncs it. A torn last line (power loss) is closed first, never glued to.

    Raises:
        DiskFull: when there is no room.
    """
    line = dumps(value) + "\n"
    with disk_errors_explained(str(path.parent)):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                line = "\n" + line
            os.write(fd, line.encode())
            os.fsync(fd)
        finally:
            os.close(fd)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; a torn line is left out (it was never acknowledged)."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        InputError: when it is not JSON, naming the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise InputError(*explain("files.not_json", path=path, evidence=exc)) from exc
