"""What a checkpoint holds, written when it is complete: sizes and SHA-256 of its files, checked before it is used.

A checkpoint is a folder of several files that a training process writes one after the other. One without a manifest
was never complete; one that differs from its manifest was torn or changed. Neither is gone on from, nor promoted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from autoswift.run.disk import disk_errors_explained
from autoswift.run.files import (
    Damaged,
    file_sha256,
    plain,
    put_aside,
    read_sealed,
    sealed,
    sync_folder,
    write_atomic,
)

MANIFEST = "autoswift-manifest.json"
VERSION = 1
_STEP = re.compile(r"checkpoint-(\d+)$")


def write_manifest(folder: Path, **facts: Any) -> dict[str, str]:
    """Seals a complete checkpoint: its files are synced, then written down. Only call it when nobody writes any more.

    Args:
        folder: the checkpoint. facts: kept beside (step, trial, attempt, …).

    Returns:
        The SHA-256 of each file, by its path in the folder.

    Raises:
        DiskFull, DiskError: when the disk does not take it; the checkpoint then counts as incomplete.
        FileNotFoundError: when a file of it is gone.
    """
    with disk_errors_explained(str(folder)):
        files: dict[str, dict[str, Any]] = {}
        for path in _files(folder):
            _sync_file(path)
            files[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for inner in {path.parent for path in _files(folder)} | {folder, folder.parent}:
            sync_folder(inner)
    write_atomic(folder / MANIFEST, sealed(plain({"version": VERSION, "files": files} | facts)))
    return {name: one["sha256"] for name, one in files.items()}


def flaw(folder: Path) -> str:
    """What is wrong with a checkpoint, for a log; an empty text when it is what its manifest says.

    Files that came later (a merge writes beside) are no flaw.
    """
    if not (folder / MANIFEST).is_file():
        return "it has no manifest: it was never complete" if folder.is_dir() else "it is not there"
    try:
        files = read_sealed(folder / MANIFEST)["files"]
        if not files:
            return "its manifest names no file"
        for name, known in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            size = path.stat().st_size
            if size != known["bytes"]:
                return f"{name} has {size} bytes, not {known['bytes']}"
            if file_sha256(path) != known["sha256"]:
                return f"{name} has another content"
    except (Damaged, KeyError, TypeError, AttributeError) as exc:
        return f"its manifest is damaged: {exc}"
    except OSError as exc:
        return f"it cannot be read: {exc.strerror or exc}"
    return ""


def changed(folder: Path) -> str:
    """As `flaw`, for a checkpoint of an engine that may write no manifests: one without is taken as it is."""
    return flaw(folder) if (folder / MANIFEST).is_file() or not folder.exists() else ""


def facts_of(folder: Path) -> dict[str, Any]:
    """What was kept beside the files.

    Raises:
        Damaged: when the manifest is not what was written. FileNotFoundError: when there is none.
    """
    return {k: v for k, v in read_sealed(folder / MANIFEST).items() if k not in ("files", "version")}


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-256 of each file by the manifest; empty when there is none, or a damaged one."""
    try:
        return {str(name): str(one["sha256"]) for name, one in read_sealed(folder / MANIFEST)["files"].items()}
    except (OSError, Damaged, KeyError, TypeError, AttributeError):
        return {}


def newest_whole(folders: Iterable[Path]) -> tuple[Path | None, dict[str, str]]:
    """The checkpoint with the highest step that is whole, and what is wrong with those with a higher one.

    Args:
        folders: of checkpoints, `checkpoint-STEP` each.
    """
    flaws: dict[str, str] = {}
    for folder in sorted(folders, key=step_of, reverse=True):
        found = flaw(folder)
        if not found:
            return folder, flaws
        flaws[str(folder)] = found
    return None, flaws


def put_torn_aside(folder: Path) -> Path:
    """Renames a checkpoint that is not whole, so that no tool that looks for the newest one finds it."""
    return put_aside(folder)


def step_of(folder: Path) -> int:
    """The step in a checkpoint's name; -1 when it has none."""
    found = _STEP.search(folder.name)
    return int(found[1]) if found else -1


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST and not path.name.startswith(f".{MANIFEST}."):
            yield path


def _sync_file(path: Path) -> None:
    """What the training process wrote, out of the kernel's memory and onto the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
