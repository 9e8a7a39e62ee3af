"""Puts an artefact behind an OpenAI-compatible address, and takes it away again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from autoswift.domain.artifact import Artifact, Deployment
from autoswift.domain.protocols import Journal
from autoswift.errors import InputError, StageFailed
from autoswift.run.files import dumps, write_atomic
from autoswift.run.places import child_environment, train_python_or_none
from autoswift.run.process import TERM_SECONDS, log_tail, reap
from autoswift.serve import ports
from autoswift.serve.client import chat, curl_example
from autoswift.serve.engines import engine_named, loopback_only
from autoswift.serve.state import State, deployment, fingerprint, read_state, serve_folder, supervised
from autoswift.tables import explain, text

__all__ = ["chat", "curl_example", "deploy", "status", "stop"]

PORT_TRIES = 5
"""A port that was free can be taken before the server binds it; five times in a row is no accident."""
SPAWN_SECONDS = 60.0
"""For the supervisor's interpreter to import and detach: a second, or many on a machine that trains."""
STOP_SECONDS = TERM_SECONDS + 10.0
"""The server's own grace, and one health check that may be under way."""
DEFAULTS: dict[str, Any] = {"host": "127.0.0.1", "context": 2048, "parallel": 1, "threads": 1}


def deploy(
    run_folder: Path, artifact: Artifact, engine_name: str, settings: Mapping[str, Any], journal: Journal
) -> Deployment:
    """Serves the artefact under supervision and waits until it answers.

    When the same files are already served with the same settings and answer, that deployment is returned; any other
    deployment of this run is stopped first. The server outlives this process; `stop` ends it.

    Args:
        run_folder: the deployment is kept in its serve/, the logs in its logs/.
        artifact: its path is relative to the run folder, or absolute.
        engine_name: built in, of a plug-in, or `package.module:Class`.
        settings: model_name, context (tokens of one request), parallel, threads, python, model_type?, template?,
            host? (this machine only), port? (8000 when free), language? (of the note about a taken port).
        journal: gets `deployed`, and a `note` when the port is another than asked.

    Raises:
        InputError: when the artefact is not there or does not suit the engine.
        StageFailed: when the server does not come up, with the end of its log.
    """
    run_folder = run_folder.resolve()
    path = run_folder / artifact.path
    if not path.exists():
        raise InputError(*explain("deploy.absent", path=path))
    full = _completed(settings, path)
    wanted = fingerprint(path, artifact, engine_name, full)
    current = _state(run_folder)
    if current is not None and current["state"] == "running" and current["fingerprint"] == wanted:
        return deployment(current)
    stop(run_folder)
    served = replace(artifact, path=str(path))
    engine_named(engine_name).command(served, {"port": ports.PREFERRED} | full)  # refuses early what it cannot serve
    request = {
        "engine": engine_name,
        "artifact": served,
        "shown": artifact.path,
        "settings": full,
        "fingerprint": wanted,
        "log": str(run_folder / "logs" / "serve.log"),
        "patience": full.get("patience") or {},
    }
    state = _on_some_port(run_folder, request, journal)
    journal.event(
        "deployed",
        artifact=state["artifact"],
        engine=state["engine"],
        address=state["address"],
        model_name=state["model_name"],
    )
    return deployment(state)


def _completed(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The settings with what was left out; the host is this machine."""
    full = DEFAULTS | {"model_name": path.stem} | {k: v for k, v in settings.items() if v is not None}
    full["host"] = loopback_only(str(full["host"]))
    if not full.get("python"):
        full["python"] = str(train_python_or_none() or "")  # asked here: the supervisor's environment is bare
    return full


def _on_some_port(run_folder: Path, request: dict[str, Any], journal: Journal) -> State:
    """Starts on the preferred port or the next that works.

    Raises:
        StageFailed: when it does not come up for another reason, or on no port.
    """
    settings = request["settings"]
    preferred = int(settings.get("port") or ports.PREFERRED)
    refused: set[int] = set()
    while True:
        port = ports.choose(settings["host"], preferred, refused)
        state = _start(run_folder, request | {"settings": settings | {"port": port}})
        if state["state"] == "running":
            if port != preferred:
                told = {"wanted": preferred, "port": port}
                said = text("serve.port_taken", str(settings.get("language") or "en"), **told)
                journal.event("note", stage="deploy", text=said, level="warn", key="serve.port_taken", values=told)
            return state
        stop(run_folder)
        refused.add(port)
        if state["cause"] != "port" or len(refused) == PORT_TRIES:
            raise StageFailed(
                *explain(
                    "deploy.failed",
                    engine=request["engine"],
                    evidence=state["reason"] or log_tail(Path(request["log"])),
                )
            )


def _start(run_folder: Path, request: dict[str, Any]) -> State:
    """Starts a supervisor and waits until its server answers or it gives up."""
    folder, logs = serve_folder(run_folder), run_folder / "logs"
    (folder / "stop").unlink(missing_ok=True)
    (folder / "state.json").unlink(missing_ok=True)
    write_atomic(folder / "request.json", dumps(request, indent=1))
    pid = _spawn(folder, logs / "supervisor.log")
    start_seconds = float(engine_named(request["engine"]).limits().get("start_seconds", 300.0))
    end = time.monotonic() + start_seconds + STOP_SECONDS
    while time.monotonic() < end:
        alive = _alive(pid)  # asked first: what it wrote last is on the disk when it is gone
        state = read_state(folder)
        if state is not None and (state["state"] != "starting" or not alive):
            return state
        if not alive:
            break
        time.sleep(0.05)
    stop(run_folder)
    raise StageFailed(*explain("deploy.no_report", evidence=log_tail(logs / "supervisor.log")))


def _spawn(folder: Path, log: Path) -> int:
    """Starts the supervisor's process, detached from this one; returns its number."""
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as out:
        started = subprocess.run(
            [sys.executable, "-P", "-m", "autoswift.serve.supervisor", str(folder)],
            env=child_environment(0, {"PYTHONPATH": str(Path(__file__).parents[2])}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=out,
            timeout=SPAWN_SECONDS,
        )
    if started.returncode != 0 or not started.stdout.strip().isdigit():
        raise StageFailed(*explain("deploy.no_start", evidence=log_tail(log)))
    return int(started.stdout)


def _alive(pid: int) -> bool:
    """Whether the process runs; a zombie (in a container nobody may collect it) does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def stop(run_folder: Path) -> bool:
    """Ends the supervisor and its server, and what a dead supervisor left behind.

    Returns:
        Whether anything was running.
    """
    folder = serve_folder(run_folder)
    if not folder.exists():
        return False
    (folder / "stop").touch()  # also seen by a supervisor that is only just starting
    state = read_state(folder)
    alive = state is not None and supervised(state)
    if state is not None and alive:
        os.kill(state["supervisor"]["pid"], signal.SIGTERM)
        if not _gone(state, STOP_SECONDS):
            os.kill(state["supervisor"]["pid"], signal.SIGKILL)  # the lifeline ends the server
            _gone(state, STOP_SECONDS)
    left = reap(folder)
    state = read_state(folder)
    if state is not None and state["state"] not in ("failed", "stopped"):
        state["state"], state["server_pid"], state["updated"] = "stopped", None, time.time()
        write_atomic(folder / "state.json", dumps(state, indent=1))
    return alive or bool(left)


def _gone(state: State, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while supervised(state):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def status(run_folder: Path) -> dict[str, Any] | None:
    """What is true of the run's deployment now, or None when it never had one.

    Returns:
        The fields of `serve.state.State` and `healthy`. A dead supervisor reads as `failed`, a server that does not
        answer as `starting` (its supervisor is about to start it again), whatever the file says.
    """
    state = _state(run_folder)
    return None if state is None else {**state, "healthy": state["state"] == "running"}


def _state(run_folder: Path) -> State | None:
    state = read_state(serve_folder(run_folder))
    if state is None or state["state"] not in ("starting", "running"):
        return state
    if not supervised(state):
        state["state"], state["cause"], state["server_pid"] = "failed", "supervisor", None
        state["reason"] = "The supervisor is gone: it was killed, or the machine was restarted."
    elif state["state"] == "running" and not engine_named(state["engine"]).health(state["address"]):
        state["state"], state["cause"] = "starting", "silent"
        state["reason"] = "The server does not answer at this moment."
    return state
