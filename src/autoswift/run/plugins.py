"""Engines, executors and serve engines by name: built-ins and plug-ins are found the same way, through entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, Literal

from autoswift.errors import InputError
from autoswift.tables import explain, told

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
            *explain(
                "plugins.unknown",
                kind=told(f"error.plugins.kind.{group}"),
                name=name,
                names=", ".join(names(group)),
                group=group,
            )
        )
    try:
        return found[0].load()
    except (ImportError, AttributeError) as exc:
        raise InputError(*explain("plugins.broken", name=name, evidence=exc)) from exc
