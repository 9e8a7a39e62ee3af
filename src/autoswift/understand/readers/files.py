"""What stands behind a path: files of a folder, members of an archive, one after the other and within limits."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from autoswift.domain.profile import Severity
from autoswift.understand import encoding
from autoswift.understand.readers import archives
from autoswift.understand.readers.base import Limits, Stream

COMPRESSED = (".gz", ".gzip", ".bz2", ".xz")
ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz")
SHEETS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
DATA = (
    *(".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".tab", ".parquet", ".arrow", ".feather"),
    *(".txt", ".text", ".md", ".markdown", ".srt", ".vtt", *SHEETS),
)
"""Endings of files that are read where a folder or an archive is given."""
MEDIA = (
    *(".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".svg"),
    *(".wav", ".mp3", ".flac", ".ogg", ".m4a", ".aac", ".mp4", ".avi", ".mov", ".mkv", ".webm"),
)
"""Endings of files that rows name: they belong to a data set without being rows."""
ABOUT = (
    *("readme", "license", "licence", "changelog", "requirements", "dataset_info", "dataset_dict", "makefile"),
    *(
        "dockerfile",
        "notice",
        "authors",
        "citation",
        "checksums",
        "md5sum",
        "sha256sum",
        "_success",
        "说明",
        "使用说明",
    ),
)
"""Beginnings of the names of files that speak about a data set; `state` and `config` are whole names."""
TAR_MARK, TAR_AT = b"ustar", 257


@dataclass(slots=True)
class Part:
    """One file to be read; its stream is good until the next part is asked for.

    Attributes:
        file: as the user gave it. member: within an archive.
        suffix: of the name, in lower case, without that of the compression.
    """

    file: str
    member: str | None
    suffix: str
    stream: Stream


@dataclass(slots=True)
class Note:
    """A problem that is found before a file is read; `refused` when nothing of the file will be."""

    kind: str
    severity: Severity
    where: dict[str, Any]
    values: dict[str, object] = field(default_factory=dict)
    refused: bool = False


def suffix_of(name: str) -> str:
    """The ending that says what a file holds: .json of "a.json.gz"."""
    suffixes = [s.lower() for s in PurePosixPath(name.replace("\\", "/")).suffixes]
    while suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def sort_of(name: str) -> str:
    """What a file of a folder is by its name: data, archive, hidden, media or other."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    base = parts[-1].lower() if parts else ""
    if any(p.startswith((".", "~$", "__MACOSX")) for p in parts) or base in ("thumbs.db", "desktop.ini"):
        return "hidden"
    suffix, stem = suffix_of(base), base.split(".")[0]
    if suffix in MEDIA:
        return "media"
    if stem.startswith(ABOUT) or stem in ("state", "config"):
        return "other"
    if suffix in ARCHIVES:
        return "archive"
    return "data" if suffix in DATA or "." not in base else "other"


def in_folder(folder: Path, shown: str, limits: Limits) -> tuple[list[tuple[str, Path]], list[Note]]:
    """The files of a folder that are read, sorted by their paths, and what is said about the others.

    Args:
        folder: to be searched, with the folders in it; links that lead out of it are not followed.
        shown: what the user calls it.
        limits: of what is read.
    """
    found: list[tuple[str, Path]] = []
    rest: list[tuple[str, Path]] = []
    notes: list[Note] = []
    hidden = 0
    root = folder.resolve()
    for base, folders, names in os.walk(folder, onerror=lambda e: notes.append(_unreadable(e, shown))):
        folders.sort()
        linked = [d for d in folders if Path(base, d).is_symlink()]
        hidden += sum(d.startswith(".") for d in folders)
        folders[:] = [d for d in folders if not d.startswith((".", "__MACOSX")) and d not in linked]
        for name in sorted([*names, *linked]):
            path = Path(base, name)
            inside = path.relative_to(folder).as_posix()
            sort = sort_of(name)
            hidden += sort == "hidden"
            if path.is_symlink() and not _belongs(path, root):
                notes.append(
                    Note("symlink_escape", "warn", {"file": f"{shown}/{inside}", "member": inside}, refused=True)
                )
            elif sort in ("data", "archive", "other") and path.is_file() and name not in linked:
                (rest if sort == "other" else found).append((f"{shown}/{inside}", path))
        if len(found) > limits.entries:
            notes.append(Note("too_many_files", "warn", {"file": shown}, {"limit": limits.entries}))
            break
    if hidden:
        notes.append(Note("hidden_skipped", "flag", {"file": shown}, {"count": hidden}))
    if not found:
        found, rest = rest, []
    if rest:
        names_of_rest = ", ".join(path.name for _, path in rest[:5]) + (", …" if len(rest) > 5 else "")
        notes.append(Note("files_skipped", "flag", {"file": shown}, {"count": len(rest), "names": names_of_rest}))
    return sorted(found)[: limits.entries], notes


def _unreadable(exc: OSError, shown: str) -> Note:
    return Note("unreadable", "warn", {"file": str(exc.filename or shown)}, {"reason": exc.strerror or str(exc)}, True)


def _belongs(path: Path, root: Path) -> bool:
    """Whether a link stays in its folder, or is one of a hub's cache (snapshots/<revision>/x → blobs/<hash>)."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return False
    blobs = root.parent.parent / "blobs"
    return target.is_relative_to(root) or (root.parent.name == "snapshots" and target.is_relative_to(blobs))


def parts_of(path: Path, shown: str, limits: Limits) -> Iterator[Part | Note]:
    """The parts of a file: itself, or the files in it when it is an archive.

    Raises:
        OSError: it cannot be opened.
        BombError: an archive unpacks to too much.
        DamagedError: an archive is broken.
    """
    with path.open("rb") as raw:
        size = os.fstat(raw.fileno()).st_size
        stream = Stream(raw, path)
        kind = encoding.magic(stream.peek(512))
        suffix = suffix_of(path.name)
        packing = kind[1] if kind and kind[0] == "packed" else ""
        if kind and kind[0] == "zip" and suffix not in SHEETS and not _is_sheet(raw):
            yield from _members(archives.of_zip(raw, size, limits), shown, limits)
        elif packing:
            inner = Stream(archives.Unpacked(stream, packing, limits))
            if _is_tar(inner):
                yield from _members(archives.of_tar(inner, size, limits), shown, limits)
            else:
                yield Part(shown, None, suffix, inner)
        elif _is_tar(stream):
            yield from _members(archives.of_tar(stream, size, limits), shown, limits)
        else:
            raw.seek(0)
            yield Part(shown, None, suffix, Stream(raw, path))


def _is_tar(stream: Stream) -> bool:
    return stream.peek(512)[TAR_AT : TAR_AT + 5] == TAR_MARK


def _is_sheet(file: IO[bytes]) -> bool:
    """Whether a zip file is a spreadsheet or another office document."""
    import zipfile

    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
        return False
    finally:
        file.seek(0)
    return "[Content_Types].xml" in names or "content.xml" in names


def _members(
    members: Iterator[archives.Member | archives.Refused], shown: str, limits: Limits
) -> Iterator[Part | Note]:
    """The members that are data; why others are not read."""
    hidden = 0
    others: list[str] = []
    for member in members:
        if isinstance(member, archives.Refused):
            values: dict[str, object] = {"limit": limits.unpacked // 2**20, "ratio": limits.ratio}
            yield Note(member.kind, "warn", {"file": shown, "member": member.member}, values, refused=True)
            continue
        sort = sort_of(member.name)
        if sort in ("hidden", "other", "media"):
            hidden += sort == "hidden"
            others += [member.name] if sort == "other" else []
            continue
        kind = encoding.magic(member.stream.peek(512))
        suffix = suffix_of(member.name)
        if (kind and kind[0] == "zip" and suffix not in SHEETS) or sort == "archive":
            yield Note("nested_archive", "warn", {"file": shown, "member": member.name}, refused=True)
        elif kind and kind[0] == "packed":
            inner = Stream(archives.Unpacked(member.stream, kind[1], limits))
            yield Part(shown, member.name, suffix, inner)
        else:
            yield Part(shown, member.name, suffix, member.stream)
    if hidden:
        yield Note("hidden_skipped", "flag", {"file": shown}, {"count": hidden})
    if others:
        names = ", ".join(others[:5]) + (", …" if len(others) > 5 else "")
        yield Note("files_skipped", "flag", {"file": shown}, {"count": len(others), "names": names})


def check_regular(path: Path) -> str:
    """Why a path is no file to be read: no_such_file, not_a_file, is_folder; or nothing.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "no_such_file"
    if stat.S_ISDIR(mode):
        return "is_folder"
    return "" if stat.S_ISREG(mode) else "not_a_file"
