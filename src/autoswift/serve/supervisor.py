"""Owns one served model: starts it, checks that it answers, starts it again when it does not.

`python -P -m autoswift.serve.supervisor FOLDER` detaches from its starter (own session, own parent) and returns at
once; the terminal and the run may end. It ends on SIGTERM or when FOLDER/stop appears. However it ends, the server
ends with it: the keeper's lifeline sees to that.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import psutil

from autoswift.domain.artifact import Artifact
from autoswift.errors import AutoSwiftError, RunLocked
from autoswift.run.files import dumps, read_json, write_atomic
from autoswift.run.lock import owned
from autoswift.run.process import Child
from autoswift.serve import ports
from autoswift.serve.engines import engine_named
from autoswift.serve.state import State, myself
from autoswift.tables import told, use_language

CHECK_SECONDS = 2.0
"""Between health checks: a restart begins within seconds, and the checks cost nothing."""
SILENT_CHECKS = 5
"""Failed checks in a row that make a server silent: 10 seconds to half a minute; one long prompt on a busy CPU can
delay a single check, not five."""
RESTARTS = 5
WINDOW_SECONDS = 600.0
"""More than 5 restarts within 10 minutes: the fault is not a passing one, restarting only hides it."""
BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Waits before the restarts within the window: a passing shortage of memory has time to pass."""
LOG_BYTES = 20 * 2**20
"""A server's log above this is put aside at the next start; one older log is kept."""

Cause = Literal["", "port", "start", "died", "silent", "supervisor"]
End = tuple[Cause, str]
STOPPED: End = ("", "")


class Supervisor:
    """The loop around one server.

    Args:
        folder: the deployment folder, with request.json in it: {engine, artifact, shown, settings, fingerprint, log,
            patience?}. `patience` overrides check_seconds, silent_checks, restarts, window_seconds, backoff_seconds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.request: dict[str, Any] = read_json(folder / "request.json")
        self.settings: dict[str, Any] = self.request["settings"]
        use_language(str(self.settings.get("language") or "en"))  # what it says of a failure reaches the run's owner
        self.engine = engine_named(self.request["engine"])
        patience = self.request.get("patience", {})
        self.check_seconds = float(patience.get("check_seconds", CHECK_SECONDS))
        self.silent_checks = int(patience.get("silent_checks", SILENT_CHECKS))
        self.restarts_allowed = int(patience.get("restarts", RESTARTS))
        self.window_seconds = float(patience.get("window_seconds", WINDOW_SECONDS))
        self.backoff_seconds = tuple(patience.get("backoff_seconds", BACKOFF_SECONDS))
        self.host, self.port = str(self.settings["host"]), int(self.settings["port"])
        self.restarted: list[float] = []
        self.asked_to_end = False
        self.was_healthy = False
        now = time.time()
        self.state: State = {
            "artifact": self.request["shown"],
            "engine": self.request["engine"],
            "address": f"http://{self.host}:{self.port}/v1",
            "state": "starting",
            "model_name": self.settings["model_name"],
            "pid": os.getpid(),
            "supervisor": myself(),
            "server_pid": None,
            "restarts": 0,
            "cause": "",
            "reason": "",
            "fingerprint": self.request["fingerprint"],
            "started": now,
            "updated": now,
        }

    def run(self) -> int:
        """Supervises until asked to end (0) or until the server cannot be kept up (1)."""
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, self._ask_to_end)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal that closes is none of ours
        self._write(state="starting")
        while True:
            cause, reason = self._serve_once()
            if not cause:
                self._write(state="stopped", server_pid=None)
                return 0
            say(f"{cause}: {reason}")
            if not self._may_restart():
                self._write(state="failed", cause=cause, reason=reason, server_pid=None)
                return 1
            self._write(state="starting", cause=cause, reason=reason, server_pid=None, restarts=len(self.restarted))
            self._pause(self.backoff_seconds[min(self._recent(), len(self.backoff_seconds)) - 1])

    def _serve_once(self) -> End:
        """One life of the server: why it ended."""
        if self._ending():
            return STOPPED
        if not ports.is_free(self.host, self.port):
            return "port", told("error.server.port_used", port=self.port)
        log = Path(self.request["log"])
        put_aside(log)
        argv, env = self.engine.command(Artifact(**self.request["artifact"]), self.settings)
        child = Child(argv, env, self.folder, "server", log)
        try:
            return self._watch(child)
        finally:
            child.end()

    def _watch(self, child: Child) -> End:
        begin, healthy, failures, next_check = time.monotonic(), False, 0, 0.0
        start_seconds = float(self.engine.limits().get("start_seconds", 300.0))
        while not self._ending():
            code = child.poll()
            if code is not None:
                return self._death(child, code, healthy)
            if time.monotonic() >= next_check:
                fine = self.engine.health(self.state["address"]) and (healthy or ports.listens(child.pid, self.port))
                if fine and not healthy:
                    healthy = self.was_healthy = True
                    self._write(state="running", cause="", reason="", server_pid=server_of(child.pid))
                    say(f"running at {self.state['address']} after {time.monotonic() - begin:.1f} s")
                failures = 0 if fine or not healthy else failures + 1
                if failures >= self.silent_checks:
                    return "silent", told("error.server.silent", checks=failures)
                if not healthy and time.monotonic() - begin > start_seconds:
                    return "start", told("error.server.not_ready", seconds=start_seconds)
                # while it starts, look often: a user waits
                next_check = time.monotonic() + (self.check_seconds if healthy else 0.2)
            time.sleep(0.1)
        return STOPPED

    def _death(self, child: Child, code: int, healthy: bool) -> End:
        if not healthy and not ports.is_free(self.host, self.port):
            return "port", told("error.server.port_taken", port=self.port)
        how = (
            told("error.server.by_signal", number=code - 128)
            if code > 128
            else told("error.server.with_code", number=code)
        )
        if healthy:
            return "died", told("error.server.died", how=how)
        return "start", told("error.server.died_early", how=how, tail=child.tail(15))

    def _may_restart(self) -> bool:
        """Counts a restart, unless the bound is reached or the server never worked (then it never will)."""
        if not self.was_healthy or self._recent() >= self.restarts_allowed:
            return False
        self.restarted.append(time.monotonic())
        return True

    def _recent(self) -> int:
        return sum(one > time.monotonic() - self.window_seconds for one in self.restarted)

    def _ask_to_end(self, number: int, frame: FrameType | None) -> None:
        self.asked_to_end = True

    def _ending(self) -> bool:
        return self.asked_to_end or (self.folder / "stop").exists()

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._ending():
            time.sleep(0.1)

    def _write(self, **fields: Any) -> None:
        self.state.update(fields)  # type: ignore[typeddict-item]
        self.state["updated"] = time.time()
        write_atomic(self.folder / "state.json", dumps(self.state, indent=1))


def server_of(keeper: int) -> int | None:
    """The server's own process under its keeper."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in psutil.Process(keeper).children():
            return int(one.pid)
    return None


def put_aside(log: Path) -> None:
    """Renames a log that has grown large."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(".old.log"))


def say(message: str) -> None:
    """One line into the supervisor's log."""
    print(time.strftime("%Y-%m-%d %H:%M:%S"), message, flush=True)


def detach() -> None:
    """Goes on in a process of its own session whose parent is gone; tells the starter its number.

    The starter cannot leave a zombie, and ending the starter's process group or terminal does not reach us. What is
    printed from here on goes where stderr goes: the log.
    """
    pid = os.fork()
    if pid > 0:
        os.write(1, str(pid).encode())
        os._exit(0)
    os.dup2(2, 1)
    os.setsid()
    os.chdir("/")


def main(arguments: list[str]) -> int:
    """Supervises the deployment folder named by the only argument."""
    folder = Path(arguments[0]).resolve()
    detach()
    try:
        with owned(folder):
            supervisor = Supervisor(folder)
            try:
                return supervisor.run()
            except Exception as exc:
                reason = f"{exc.what} {exc.why}" if isinstance(exc, AutoSwiftError) else f"{type(exc).__name__}: {exc}"
                supervisor._write(state="failed", cause="supervisor", reason=reason, server_pid=None)
                raise
    except RunLocked as exc:
        say(told("error.server.keeps", what=exc.what))
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
