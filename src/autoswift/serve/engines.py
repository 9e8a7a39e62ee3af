"""Serve engines by name: built in, or from a plug-in's entry point, imported when used."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from ipaddress import ip_address

from autoswift.domain.protocols import ServeEngine
from autoswift.errors import InputError

GROUP = "autoswift.serve_engines"
BUILT_IN = {
    "llamacpp": "autoswift.serve.llamacpp:LlamaCpp",
    "transformers": "autoswift.serve.swift_deploy:SwiftDeploy",
}


def engine_named(name: str) -> ServeEngine:
    """The engine of that name; `package.module:Class` names one directly.

    Raises:
        InputError: when there is none.
    """
    target = name if ":" in name else BUILT_IN.get(name)
    if target is None:
        found = entry_points(group=GROUP, name=name)
        if not found:
            known = sorted({*BUILT_IN, *(one.name for one in entry_points(group=GROUP))})
            raise InputError(
                f"There is no serve engine named {name}.",
                f"Known engines: {', '.join(known)}.",
                "Choose one of them, or install the plug-in that brings it.",
            )
        target = next(iter(found)).value
    module, _, attribute = target.partition(":")
    engine: ServeEngine = getattr(import_module(module), attribute)()
    return engine


def loopback_only(host: str) -> str:
    """The host, when only this machine can reach it.

    The servers have no API key: on loopback the operating system's user is the boundary, and an `openai` client
    works with whatever key it sends. Anything wider belongs behind a gateway that authenticates.

    Raises:
        InputError: for any other address.
    """
    if host == "localhost":
        return "127.0.0.1"
    try:
        if ip_address(host).is_loopback:
            return host
    except ValueError:
        pass
    raise InputError(
        f"The model is not served on {host}.",
        "The server has no login, so it listens on this machine only.",
        "Leave the host at 127.0.0.1 and put a gateway that authenticates in front of it.",
    )
