"""Engines, executors and serve engines by name: built-ins and plug-ins are found the same way, through entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, Literal

from autoswift.errors import InputError

Group = Literal["engines", "executors", "serve_engines"]


def names(group: Group) -> list[str]:
    """The registered names of a group."""
    return sorted({point.name for point in entry_points(group=f"autoswift.{group}")})


def load(group: Group, name: str) -> Any:
    """The class registered under a name, or the one that `package.module:Class` names; imported now.

    Raises:
        InputError: when there is none, or it cannot be imported.
    """
    found = [point for point in entry_points(group=f"autoswift.{group}") if point.name == name]
    if not found and ":" in name:
        from importlib.metadata import EntryPoint

        found = [EntryPoint(name=name, value=name, group=f"autoswift.{group}")]
    if not found:
        raise InputError(
            f"There is no {group.rstrip('s').replace('_', ' ')} {name!r}.",
            "Registered are " + ", ".join(names(group)) + ".",
            f"Choose one of these, or install a package with an entry point in the group autoswift.{group}.",
        )
    try:
        return found[0].load()
    except (ImportError, AttributeError) as exc:
        raise InputError(f"{name!r} cannot be loaded.", str(exc), "Check its name and its installation.") from exc
