"""JSON from strangers: bounded in size and depth, without duplicate keys, of which each reader would take another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autoswift.errors import ModelError
from autoswift.tables import explain

DEEPEST = 64
"""Levels of nesting. Real configurations have 6; json itself ends near 1,000, other readers at 128."""
SMALL, LARGE = 2**20 * 4, 2**27
"""Bytes of a configuration (the largest published ones have 200 kB) and of a tokenizer (Gemma 3: 33 MB)."""
LARGE_NAMES = ("tokenizer.json", "vocab.json", "model.safetensors.index.json", "added_tokens.json")


def limit_of(name: str) -> int:
    """The most bytes that a JSON file of that name may have."""
    return LARGE if name in LARGE_NAMES else SMALL


def read(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ModelError: when it is not one, or built to hurt its readers.
    """
    try:
        size = path.stat().st_size
        if size > limit_of(path.name):
            raise ModelError(*explain("folder.json_large", path=path, size=size / 1e6, limit=limit_of(path.name) / 1e6))
        raw = path.read_bytes()
    except OSError as exc:
        raise ModelError(*explain("folder.unreadable", path=path, evidence=exc)) from exc
    return parse(raw, path)


def parse(raw: bytes, path: Path | str) -> dict[str, Any]:
    """A JSON object from bytes.

    Args:
        raw: UTF-8.
        path: for the error.

    Raises:
        ModelError: when it is not one, or built to hurt its readers.
    """
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except _DuplicateKeyError as exc:
        raise ModelError(*explain("folder.json_duplicate", path=path, key=exc.key)) from exc
    except RecursionError as exc:
        raise ModelError(*explain("folder.json_deep", path=path, limit=DEEPEST)) from exc
    except ValueError as exc:
        raise ModelError(*explain("folder.unreadable", path=path, evidence=exc)) from exc
    if not isinstance(value, dict):
        raise ModelError(*explain("folder.not_object", path=path))
    if _depth_exceeds(value, DEEPEST):
        raise ModelError(*explain("folder.json_deep", path=path, limit=DEEPEST))
    return value


class _DuplicateKeyError(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateKeyError(key[:80])
            seen.add(key)
    return made


def _depth_exceeds(value: Any, limit: int) -> bool:
    """By levels, not by recursion: what is measured may be deeper than the stack."""
    level = [value]
    for _ in range(limit):
        inner: list[Any] = []
        for one in level:
            members = one.values() if isinstance(one, dict) else one
            inner += [member for member in members if isinstance(member, dict | list)]
        if not inner:
            return False
        level = inner
    return True
