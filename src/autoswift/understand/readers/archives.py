"""Packed files, read without unpacking them to disk: gzip, bzip2, xz, zip and tar, within limits."""

from __future__ import annotations

import bz2
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Protocol

from autoswift.understand.readers.base import BombError, DamagedError, Limits, Readable, Stream

PIECE = 2**18


@dataclass(slots=True)
class Refused:
    """A member that is not read.

    Attributes:
        kind: of the problem: path_traversal, symlink_escape, encrypted_archive, zip_bomb.
    """

    member: str
    kind: str


@dataclass(slots=True)
class Member:
    """A file in an archive; its stream is to be read before the next one is asked for."""

    name: str
    stream: Stream


class _Unpacker(Protocol):
    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


class _Gzip:
    """zlib's object with the manners of bz2's and lzma's: it keeps the input that it has not used yet."""

    def __init__(self) -> None:
        self._object, self._waiting = zlib.decompressobj(zlib.MAX_WBITS | 16), b""

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._waiting

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes:
        out = self._object.decompress(self._waiting + data, max_length)
        self._waiting = self._object.unconsumed_tail
        return out


_KINDS: dict[str, Any] = {"gzip": _Gzip, "bzip2": bz2.BZ2Decompressor, "xz": lzma.LZMADecompressor}


class Unpacked:
    """The bytes of a file packed by gzip, bzip2 or xz; several packed files one after the other are one."""

    def __init__(self, raw: Readable, kind: str, limits: Limits) -> None:
        self._raw, self._make, self._limits = raw, _KINDS[kind], limits
        self._unpacker = self._make()
        self._rest, self._in, self._out, self._done = b"", 0, 0, False

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes.

        Raises:
            BombError: more bytes than allowed, or much more than were packed.
            DamagedError: broken or cut off.
        """
        if size < 0:
            parts = []
            while part := self.read(PIECE):
                parts.append(part)
            return b"".join(parts)
        while not self._done:
            data = self._rest or (self._raw.read(PIECE) if getattr(self._unpacker, "needs_input", True) else b"")
            self._in += 0 if self._rest else len(data)
            self._rest = b""
            try:
                out = bytes(self._unpacker.decompress(data, size))
            except (zlib.error, OSError, lzma.LZMAError, EOFError) as exc:
                raise DamagedError(str(exc)) from exc
            if self._unpacker.eof:
                self._next(self._unpacker.unused_data)
            elif not data and not out:
                raise DamagedError("the end is missing")
            if out:
                self._out += len(out)
                check(self._in, self._out, self._limits)
                return out
        return b""

    def _next(self, rest: bytes) -> None:
        """After a packed file: another one may follow, or padding."""
        rest = rest.lstrip(b"\x00") or self._raw.read(PIECE).lstrip(b"\x00")
        self._in += len(rest)
        if rest:
            self._unpacker, self._rest = self._make(), rest
        else:
            self._done = True


def check(packed: int, unpacked: int, limits: Limits) -> None:
    """Whether an archive may go on.

    Raises:
        BombError: when it has grown too much.
    """
    if unpacked > limits.unpacked or unpacked > max(limits.ratio_from, packed * limits.ratio):
        raise BombError


@dataclass(slots=True)
class _Total:
    """Bytes of an archive, and those read out of it: members may share the same packed bytes."""

    packed: int
    unpacked: int = 0


class _Counted:
    """A member's bytes, counted against what its archive may unpack to."""

    def __init__(self, raw: IO[bytes], packed: int, limits: Limits, all_of_it: _Total) -> None:
        self._raw, self._packed, self._limits, self._all, self._own = raw, packed, limits, all_of_it, 0

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            parts = []
            while part := self.read(PIECE):
                parts.append(part)
            return b"".join(parts)
        try:
            data = self._raw.read(size)
        except (zipfile.BadZipFile, zlib.error, EOFError, tarfile.TarError, OSError, RuntimeError) as exc:
            raise DamagedError(str(exc)) from exc
        self._own += len(data)
        self._all.unpacked += len(data)
        check(self._packed, self._own, self._limits)
        check(self._all.packed, self._all.unpacked, self._limits)
        return data


def leads_out(name: str) -> bool:
    """Whether a member's path is none inside the archive: absolute, with a drive, or with ".."."""
    path = name.replace("\\", "/")
    return path.startswith("/") or bool(re.match(r"[A-Za-z]:", path)) or ".." in path.split("/") or "\x00" in path


def of_zip(file: IO[bytes], size: int, limits: Limits) -> Iterator[Member | Refused]:
    """The files of a zip archive, by name.

    Args:
        file: the archive. size: of it, in bytes.
        limits: of what is read.

    Raises:
        BombError: too many files, or one that says itself that it unpacks to too much.
        DamagedError: it is no whole zip archive.
    """
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, EOFError) as exc:
        raise DamagedError(str(exc)) from exc
    with archive:
        entries = [e for e in archive.infolist() if not e.is_dir()]
        if len(entries) > limits.entries:
            raise BombError
        total = _Total(size)
        for entry in sorted(entries, key=lambda e: e.filename):
            name = _zip_name(entry)
            if leads_out(entry.filename) or leads_out(entry.orig_filename):
                yield Refused(name, "path_traversal")
            elif stat.S_ISLNK(entry.external_attr >> 16):
                yield Refused(name, "symlink_escape")
            elif entry.flag_bits & 1:
                yield Refused(name, "encrypted_archive")
            elif entry.file_size > max(limits.ratio_from, entry.compress_size * limits.ratio):
                yield Refused(name, "zip_bomb")
            else:
                try:
                    with archive.open(entry) as raw:
                        yield Member(name, Stream(_Counted(raw, entry.compress_size, limits, total)))
                except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as exc:
                    raise DamagedError(str(exc)) from exc


def _zip_name(entry: zipfile.ZipInfo) -> str:
    """The name as it was meant: Chinese Windows writes it in GBK and does not say so."""
    if entry.flag_bits & 0x800 or entry.filename.isascii():
        return entry.filename
    try:
        return entry.filename.encode("cp437").decode("gb18030")
    except UnicodeError:
        return entry.filename


def of_tar(stream: Stream, packed: int, limits: Limits) -> Iterator[Member | Refused]:
    """The files of a tar archive, in its own order.

    Args:
        stream: its bytes, unpacked.
        packed: size of the archive on disk.
        limits: of what is read.

    Raises:
        BombError: too many files or bytes.
        DamagedError: it is no whole tar archive.
    """
    total, count = _Total(packed), 0
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
            for entry in archive:
                count += 1
                if count > limits.entries:
                    raise BombError
                if entry.isdir():
                    continue
                if leads_out(entry.name):
                    yield Refused(entry.name, "path_traversal")
                elif entry.issym() or entry.islnk():
                    yield Refused(entry.name, "symlink_escape")
                elif entry.isreg() and (raw := archive.extractfile(entry)) is not None:
                    yield Member(entry.name, Stream(_Counted(raw, max(packed, entry.size), limits, total)))
                else:
                    yield Refused(entry.name, "not_a_file")
    except (tarfile.TarError, EOFError) as exc:
        raise DamagedError(str(exc)) from exc
