"""Files that are whole or absent, and values as JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import tempfile
import zlib
from collections.abc import Iterator
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


UNFINISHED = ".*.json.????????"
"""What `write_atomic` leaves of a JSON file when the process is killed before the rename."""


def write_atomic(path: Path, text: str) -> None:
    """Writes a file so that after a crash it is the old one or the new one.

    Raises:
        DiskFull: when there is no room; the old file stays.
        DiskError: when the disk fails or may not be written; the old file stays, or the new one is whole.
    """
    with disk_errors_explained(str(path.parent)):
        make_folder(path.parent)
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            try:
                _write_all(fd, text.encode())
                os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, each durable in the one that holds it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Makes what was made, renamed or removed in a folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system whose folders cannot be synced, and need not
            raise
    finally:
        os.close(fd)


def _write_all(fd: int, content: bytes) -> None:
    """Writes all of it: the kernel may take less at once, as it does when a disk is about to be full."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


SEAL = "sha256"
"""Top-level key of a sealed file: the digest of everything else in it."""

SUM = re.compile(rb'^(\{.*),"sum":"([0-9a-f]{8})"\}$', re.DOTALL)
"""A journal line with its checksum: CRC-32 of all before it, which finds every single flipped bit and every cut."""


class Damaged(ValueError):
    """A sealed file whose content is not what was written."""


def sealed(value: dict[str, Any]) -> str:
    """An object as JSON text with its own digest."""
    return dumps(value | {SEAL: digest(value)}, indent=1)


def read_sealed(path: Path) -> dict[str, Any]:
    """A sealed object without its seal; one from before there were seals is taken as it is.

    Raises:
        Damaged: when it is not the JSON that was written.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise Damaged(str(exc)) from exc
    if not isinstance(value, dict):
        raise Damaged("no object")
    seal = value.pop(SEAL, None)
    if seal is not None and seal != digest(value):
        raise Damaged("its SHA-256 differs")
    return value


def put_aside(path: Path) -> Path:
    """Renames a damaged file, so that it can be looked at and is never read again; its new place."""
    for number in range(1, 1000):
        place = path.with_name(f"{path.name}.damaged-{number}")
        if not place.exists():
            os.replace(path, place)
            return place
    raise FileExistsError(path)


def append_line(path: Path, value: Any) -> None:
    """Appends one JSON object with a checksum and syncs it. A torn last line is closed first, never glued to.

    Raises:
        DiskFull, DiskError: when it could not be kept; what stood there before stays.
    """
    bare = dumps(value)
    line = f'{bare[:-1]},"sum":"{zlib.crc32(bare[:-1].encode()):08x}"}}\n'
    with disk_errors_explained(str(path.parent)):
        make_folder(path.parent)
        new = not path.exists()
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                line = "\n" + line
            # A part of a line that a full disk took stays: another writer may have appended behind it.
            _write_all(fd, line.encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        if new:
            sync_folder(path.parent)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, without their checksums; a line that is not what was written is left out."""
    return [row for _, row in _lines(path) if row is not None]


def damaged_lines(path: Path) -> list[int]:
    """Numbers, from 1, of the lines that `read_lines` leaves out: torn (nobody relied on them) or changed."""
    return [number for number, row in _lines(path) if row is None]


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Each line that is not empty, with its object, or None where it is damaged."""
    if not path.exists():
        return
    summed = False  # a journal that an earlier version began has lines without sums, up to the first one with
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        found = SUM.match(line)
        summed = summed or found is not None
        if line.strip():
            yield number, _object(line, found, summed=summed)


def _object(line: bytes, found: re.Match[bytes] | None, *, summed: bool) -> dict[str, Any] | None:
    if found is None and summed:
        return None
    if found is not None and zlib.crc32(found[1]) != int(found[2], 16):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    row.pop("sum", None)
    return row


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        InputError: when it is not JSON, naming the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise InputError(*explain("files.not_json", path=path, evidence=exc)) from exc
