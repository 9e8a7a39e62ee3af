"""Records and turns that were written down in one line, taken apart again for a person to read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
_SPEAKERS = {"human": "user", "gpt": "assistant", "bot": "assistant"}
_TURN = re.compile(rf"(?:^| ¶ )({'|'.join(ROLES)}): ?")
_PAIR = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:\s*"((?:[^"\\]|\\.)*)')
"""A name and a text of a JSON object, be it cut in the middle of the text."""
MOST = 8
"""Columns of a record that are shown."""


def spoken(shown: str, named: Callable[[str], str]) -> str:
    """`user: … ¶ assistant: …` with a turn a line.

    Args:
        shown: the excerpt.
        named: the reader's word for a role.
    """
    return _TURN.sub(lambda found: f"⏎{named(found[1])}: ", shown).removeprefix("⏎") if " ¶ " in shown else shown


def cells(record: str) -> tuple[tuple[str, str], ...]:
    """Name and text of each column of a record that was written down as JSON; empty when it is none.

    Turns of a conversation stand under who says them. A record that was cut gives what is left of it.
    """
    if not record.startswith("{"):
        return ()
    try:
        value = json.loads(record)
    except ValueError:
        return _loose(record)
    return tuple(_flat(value))[:MOST] if isinstance(value, dict) else ()


def _flat(value: dict[str, Any]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, said in value.items():
        if isinstance(said, list) and said and all(isinstance(one, dict) for one in said):
            found += [_turn(one) for one in said]
        else:
            found.append((str(name), said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)))
    return found


def _turn(value: dict[str, Any]) -> tuple[str, str]:
    role = str(value.get("role") or value.get("from") or "")
    said = next((value[name] for name in ("content", "value", "text") if name in value), value)
    shown = "" if said is None else said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    return _SPEAKERS.get(role, role), shown


def _loose(record: str) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    speaker = ""
    for name, said in _PAIR.findall(record):
        if name in ("role", "from"):
            speaker = _SPEAKERS.get(said, said)
            continue
        found.append((speaker if speaker and name in ("content", "value", "text") else name, _unescaped(said)))
    return tuple(found)[:MOST]


def _unescaped(said: str) -> str:
    try:
        return str(json.loads(f'"{said}"'))
    except ValueError:
        return said
