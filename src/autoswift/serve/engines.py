"""Serve engines by name: built in, or from a plug-in's entry point, imported when used."""

from __future__ import annotations

from ipaddress import ip_address

from autoswift.domain.protocols import ServeEngine
from autoswift.errors import InputError
from autoswift.run.plugins import load
from autoswift.tables import explain


def engine_named(name: str) -> ServeEngine:
    """The engine of that name; `package.module:Class` names one directly.

    Raises:
        InputError: when there is none.
    """
    engine: ServeEngine = load("serve_engines", name)()
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
    raise InputError(*explain("serve.host", host=host))
