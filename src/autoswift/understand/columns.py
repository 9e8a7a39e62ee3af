"""What columns are called, and which role in a conversation each name stands for."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from autoswift.tables import table

Row = dict[str, Any]
MEDIA_COLUMNS = ("images", "audios", "videos")
MEDIA_SUFFIXES = {
    "images": ("png", "jpg", "jpeg", "gif", "bmp", "webp", "tif", "tiff"),
    "audios": ("wav", "mp3", "flac", "ogg", "m4a", "aac"),
    "videos": ("mp4", "avi", "mov", "mkv", "webm"),
}
LONGEST = 100
"""Characters of a column's name that are looked at."""
_ASIDE = re.compile(r"[(（\[【<].*?[)）\]】>]")
_BETWEEN = re.compile(r"[\s_\-./]+")


@dataclass(frozen=True, slots=True)
class Shape:
    """How records of one set of columns are read.

    Attributes:
        name: messages, sharegpt, alpaca, prompt_completion, question_answer, dialogue, labelled, extraction, text,
            preference, pairs, turn_per_row or guessed.
        task: as in CONTRACTS.
        columns: role to column name.
    """

    name: str
    task: str
    columns: dict[str, str] = field(default_factory=dict)


def key_of(name: object) -> str:
    """What is left of a column's name when width, case, separators and remarks in brackets do not matter."""
    text = unicodedata.normalize("NFKC", str(name)[:LONGEST]).strip().strip(":*#\"'").lower()
    bare = _BETWEEN.sub("", _ASIDE.sub("", text))
    return bare or _BETWEEN.sub("", text)


@cache
def aliases() -> dict[str, list[str]]:
    """Role to the keys of its known names, the surest first."""
    return {role: list(dict.fromkeys(map(key_of, names))) for role, names in table("understand")["columns"].items()}


@cache
def _known() -> frozenset[str]:
    return frozenset(name for names in aliases().values() for name in names)


def known_column(name: str) -> bool:
    """Whether a column of this name is known to carry a part of a conversation."""
    return key_of(name) in _known()


def map_columns(keys: Iterable[str], given: Mapping[str, str]) -> dict[str, str]:
    """Role to column name: the user's word first, then the known names in their order."""
    names = list(keys)
    taken = set(given.values())
    left: dict[str, str] = {}
    for name in names:
        if name not in taken:
            left.setdefault(key_of(name), name)
    found = {role: name for role, name in given.items() if name in names}
    for role, known in aliases().items():
        if role not in found:
            column = next((left[n] for n in known if n in left), None)
            if column is not None:
                found[role] = column
    return found


def media_kind(value: object) -> str | None:
    """The column that a path belongs into by its ending: images, audios or videos."""
    if not isinstance(value, str) or len(value) > 2000 or "\n" in value:
        return None
    if value.startswith("data:image/"):
        return "images"
    ending = value.split("?", 1)[0].rsplit(".", 1)[-1].lower()
    return next((kind for kind, known in MEDIA_SUFFIXES.items() if ending in known), None)


def media_columns(row: Mapping[str, Any], taken: Iterable[str]) -> dict[str, str]:
    """Columns of other names whose cells are paths of pictures, sound or films."""
    found: dict[str, str] = {}
    used = set(taken)
    for name, value in row.items():
        one = value[0] if isinstance(value, list) and value else value
        kind = media_kind(one) if name not in used else None
        if kind:
            found.setdefault(kind, name)
    return found


def first_of(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of some cells that is there."""
    return next((row[n] for n in names if n in row), None)
