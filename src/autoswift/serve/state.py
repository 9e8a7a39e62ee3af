"""What the deployment folder (serve/ in a run) holds, and what is true of it.

- request.json: what to serve and how; written by deploy, read by the supervisor.
- state.json: written by the supervisor; Deployment's fields, and the rest of `State`.
- stop: asks the supervisor to end.
- processes/: the server's registration (run.process), apart from the run's own: resuming a run reaps its own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypedDict

import psutil

from autoswift.domain.artifact import Artifact, Deployment
from autoswift.run.files import digest, read_json
from autoswift.run.process import is_same_process


class Owner(TypedDict):
    """The supervisor: process number and its create time, since numbers are reused."""

    pid: int
    created: float


class State(TypedDict):
    """state.json.

    `pid` is the supervisor's: ending it ends the server. `cause` is one of port, start, died, silent, supervisor, or
    empty; `reason` says it in words. `updated` is when anything in it last changed, in Unix seconds.
    """

    artifact: str
    engine: str
    address: str
    state: str
    model_name: str
    pid: int
    supervisor: Owner
    server_pid: int | None
    restarts: int
    cause: str
    reason: str
    fingerprint: str
    started: float
    updated: float


def serve_folder(run_folder: Path) -> Path:
    """The deployment folder of a run."""
    return run_folder.resolve() / "serve"


def read_state(folder: Path) -> State | None:
    """state.json of a deployment folder, or None."""
    path = folder / "state.json"
    if not path.exists():
        return None
    state: State = read_json(path)
    return state


def supervised(state: State) -> bool:
    """Whether the supervisor that wrote the state is alive."""
    owner = state["supervisor"]
    return is_same_process(int(owner["pid"]), float(owner["created"]))


def myself() -> Owner:
    """This process as an owner."""
    return {"pid": os.getpid(), "created": psutil.Process().create_time()}


def deployment(state: State) -> Deployment:
    """The state as the value that other rooms know."""
    return Deployment(
        artifact=state["artifact"],
        engine=state["engine"],
        address=state["address"],
        state=state["state"],  # type: ignore[arg-type]
        model_name=state["model_name"],
        pid=state["pid"],
    )


def fingerprint(path: Path, artifact: Artifact, engine: str, settings: dict[str, Any]) -> str:
    """Identity of what would be served: its files by size and time, the engine, what changes answers or speed."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    seen = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    kept = {name: value for name, value in settings.items() if name not in ("port", "language", "patience")}
    return digest([engine, artifact.hashes, seen, kept])
