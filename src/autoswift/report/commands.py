"""The plain commands that make a run's result again, from what its stages wrote down."""

from __future__ import annotations

import shlex
from typing import Any

from autoswift.run.places import OFFLINE
from autoswift.run.record import RunRecord

STAGES = ("train", "merge", "export")
"""Stages that run commands, in their order."""


def commands_of(record: RunRecord) -> list[tuple[dict[str, str], list[str]]]:
    """Environment and words of each command, in order.

    swift asks hubs even for a local folder, and hangs where there is no network: so the variables that stop it
    stand before its commands.
    """
    found = []
    for stage in STAGES:
        value = record.value(stage)
        for command in value.get("commands") or [] if isinstance(value, dict) else []:
            env, words = _parts(command)
            if words:
                found.append((env, words))
    return found


def command_line(env: dict[str, str], words: list[str]) -> str:
    """One line for a shell."""
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in env.items()), shlex.join(words)])


def _parts(command: Any) -> tuple[dict[str, str], list[str]]:
    """A command is a list of words, or an object {argv, env}."""
    if isinstance(command, dict):
        words = [str(word) for word in command.get("argv") or []]
        return {str(k): str(v) for k, v in (command.get("env") or {}).items()}, words
    words = [str(word) for word in command]
    asks_hubs = any("swift" in word for word in words[:3])
    return (dict(OFFLINE) if asks_hubs else {}), words
