"""TCP ports of this machine: free ones, and whose they are."""

from __future__ import annotations

import contextlib
import os
import socket

PREFERRED = 8000
"""Where OpenAI-compatible servers (vLLM, swift deploy) usually listen."""
NEIGHBOURS = 20
"""Ports tried after the preferred one before any free port is taken: a near number is easier to remember."""


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now. Connections that still close down (TIME_WAIT) do not count."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        if probe.connect_ex((host, port)) == 0:
            return False  # on macOS a second bind to a wildcard listener's port would succeed
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def choose(host: str, preferred: int, refused: set[int] | None = None) -> int:
    """The preferred port, a neighbour of it, or any free one; never one of `refused`."""
    refused = refused or set()
    for port in range(preferred, min(preferred + NEIGHBOURS, 65_536)):
        if port not in refused and is_free(host, port):
            return port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def listens(group: int, port: int) -> bool:
    """Whether a process of the process group listens on the port (a stranger's server may answer there too).

    True also when the system does not let us see.
    """
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) != group:
                continue
            try:
                connections = process.net_connections("tcp")
            except psutil.AccessDenied:
                return True
            if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections):
                return True
    return False
