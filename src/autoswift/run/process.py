"""Child processes: own process group, kept on a lifeline, written down so that the next start can reap them."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import psutil

from autoswift.run.disk import disk_errors_explained
from autoswift.run.files import dumps, write_atomic
from autoswift.run.identity import MARK, identity, is_marked, members

KEEPER = Path(__file__).with_name("keeper.py")
TERM_SECONDS = 6.0
"""Wait after SIGTERM before SIGKILL: one second more than the keeper's own grace."""


class Child:
    """One supervised child process.

    Args:
        argv: the command; never a shell string.
        env: its whole environment.
        folder: the run folder; the child is registered in its `processes/`.
        name: what it is, for logs and registration.
        log: file that takes stdout and stderr (appended), unless `stdout` is PIPE.
        pipes: True gives `stdin` and `stdout` as pipes for a protocol; stderr goes to the log.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: dict[str, str],
        folder: Path,
        name: str,
        log: Path,
        *,
        pipes: bool = False,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.argv, self.name, self.log = list(argv), name, log
        self.started = time.time()
        read_end, write_end = os.pipe()
        self._lifeline: int | None = write_end
        try:
            with disk_errors_explained(str(log.parent)), log.open("ab") as out:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(KEEPER), str(read_end), "--", *self.argv],
                    env=env | {MARK: str(folder)},
                    stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if pipes else out,
                    stderr=out,
                    pass_fds=(read_end,),
                    start_new_session=True,
                )
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        self.pid = self._process.pid
        self._entry = folder / "processes" / f"{self.pid}.json"
        try:
            write_atomic(self._entry, _registration(self.pid, name, self.argv))
        except BaseException:  # nobody would know of it: it does not stay
            self.end()
            raise

    @property
    def stdin(self) -> IO[bytes]:
        """The child's standard input (with `pipes`)."""
        if self._process.stdin is None:
            raise ValueError("this child was started without pipes")
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """The child's standard output (with `pipes`)."""
        if self._process.stdout is None:
            raise ValueError("this child was started without pipes")
        return self._process.stdout

    def poll(self) -> int | None:
        """The exit code (128 + n for signal n), or None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        self._forget()
        return 128 - code if code < 0 else code

    def wait(self, timeout: float | None = None) -> int | None:
        """Waits for the end; None when it did not come within `timeout` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        return self.poll()

    def end(self) -> None:
        """Ends the child and everything it started: SIGTERM, then SIGKILL."""
        end_group(self.pid, wait=lambda seconds: self._try_wait(seconds))
        self._forget()

    def tail(self, lines: int = 30) -> str:
        """The last lines of its log."""
        return log_tail(self.log, lines)

    def _try_wait(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _forget(self) -> None:
        if self._lifeline is not None:
            # The child may have left grandchildren in the group; they go with it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            os.close(self._lifeline)
            self._lifeline = None
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self._entry.unlink(missing_ok=True)


def log_tail(log: Path, lines: int = 30) -> str:
    """The last lines of a log file, or an empty text."""
    if not log.exists():
        return ""
    with log.open("rb") as f:
        f.seek(max(0, log.stat().st_size - 32_768))
        return "\n".join(f.read().decode("utf-8", "replace").splitlines()[-lines:])


def _registration(pid: int, name: str, argv: Sequence[str]) -> str:
    try:
        created = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        created = 0.0
    row = {"pid": pid, "created": created, "identity": identity(pid), "host": platform.node(), "name": name}
    return dumps(row | {"argv": list(argv)})


def is_same_process(pid: int, created: float) -> bool:
    """Whether the process with that number is still the one that was started then (numbers are reused)."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - created) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_group(pgid: int, wait: Any = None) -> None:
    """SIGTERM to a process group, then SIGKILL to what is left of it after `TERM_SECONDS`."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, signal.SIGTERM)
        if wait is not None:
            wait(TERM_SECONDS)
        else:
            end = time.monotonic() + TERM_SECONDS
            while _group_alive(pgid) and time.monotonic() < end:
                time.sleep(0.05)
        os.killpg(pgid, signal.SIGKILL)


def _group_alive(pgid: int) -> bool:
    """Whether a live (not zombie) process is in the group."""
    return bool(members(pgid))


def reap(folder: Path) -> list[str]:
    """Ends children that a dead owner of the run left behind; returns their names.

    Those of other machines that share the run folder are on lifelines there; here their numbers mean other processes.
    """
    left = []
    for entry in sorted((folder / "processes").glob("*.json")):
        row = _registered(entry)
        if row is not None and row.get("host", platform.node()) == platform.node() and _ours(row, folder):
            end_group(int(row["pid"]))
            left.append(str(row["name"]))
        entry.unlink(missing_ok=True)
    return left


def _registered(entry: Path) -> dict[str, Any] | None:
    """A registration; None where it is damaged: its child was on a lifeline, and a wrong number must not be ended."""
    try:
        row = json.loads(entry.read_text(encoding="utf-8"))
        int(row["pid"]), float(row["created"]), str(row["name"])
    except (ValueError, KeyError, TypeError):
        return None
    return dict(row) if int(row["pid"]) > 1 else None  # 0 and 1 would be our own group and everybody's


def _ours(row: dict[str, Any], folder: Path) -> bool:
    """Whether the group is that child's: its leader is the same process, or the leader is gone and the rest is its.

    While a group has members the kernel gives its number to no new process, so a leader that is another process leads
    another group. A leader that is gone tells nothing: then what is in the group must carry the run's mark.
    """
    pid, created, known = int(row["pid"]), float(row["created"]), str(row.get("identity") or "")
    if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        return identity(pid) == known if known else is_same_process(pid, created)
    if not known:  # registered by a version that did not mark its children
        return _orphans(pid, created)
    rest = members(pid)
    return bool(rest) and all(is_marked(one, folder) is not False for one in rest)


def _orphans(pgid: int, created: float) -> bool:
    """Whether the group of a dead keeper still has members that are younger than it (not a reused number)."""
    for process in psutil.process_iter(["create_time"]):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == pgid and process.info["create_time"] >= created - 1.0:
                return True
    return False
