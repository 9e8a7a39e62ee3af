"""The driver of a Ray cluster as a child process: its environment, its token, its messages."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import select
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil
from pydantic import Field, TypeAdapter, ValidationError

from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Event
from autoswift.errors import AutoSwiftError, ChildFailed, EnvironmentMissing, InputError
from autoswift.run.files import dumps, write_atomic
from autoswift.run.places import child_environment
from autoswift.run.process import KEEPER, Child
from autoswift.tables import explain

DRIVER = Path(__file__).parent / "children" / "ray_driver.py"

START_SECONDS = 420.0
"""Longest wait for the cluster: 300 s for nodes that still join, and Ray's start of 10 to 60 s on a busy machine."""

END_SECONDS = 15.0
"""For Tune and Ray to end by themselves (2 to 4 s on two cores) before they are ended."""

PREFIX = "autoswift-ray-"
SHORT = 5
"""Characters of `/tmp`, and one to spare: a longer temporary folder (macOS has one of 49) has no room for sockets."""

OBJECT_STORE_BYTES = 100 * 2**20
"""Nothing but short reports goes through Ray's object store; its least is 75 MiB."""

RESOURCE = {"cuda": "GPU", "npu": "NPU"}
"""Ray's name for a device; the others (CPU, Apple) are one a machine and are counted by their CPU cores."""

ADDRESS = re.compile(r"auto|(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):\d{1,5}")

TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_process_group_cleanup_enabled": "1",  # what a worker started ends with it
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # the journal is the truth; Tune's own record is never read
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """How many trials the cluster holds at once, and what its nodes have."""

    kind: Literal["ready", "capacity"]
    capacity: int
    nodes: list[dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An attempt runs on a node."""

    kind: Literal["placed"]
    number: int
    attempt: int
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Events of an attempt; the driver waits for the verdict on them."""

    kind: Literal["result"]
    batch: int
    number: int
    attempt: int
    events: list[Event]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """An attempt ended without a last event: with its node, or by a fault of its agent."""

    kind: Literal["lost"]
    number: int
    attempt: int
    node_lost: bool
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fatal:
    """The driver cannot go on."""

    kind: Literal["fatal"]
    error: str
    words: str


Message = Nodes | Placed | Result | Lost | Fatal
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def needs(plan: Plan, device: Device) -> dict[str, float]:
    """What one trial takes of one node: the plan's threads, and all devices that share one training, or part of one."""
    threads = plan.training.threads or (cores() if device.kind not in RESOURCE else 1)
    need: dict[str, float] = {"CPU": float(max(1, threads))}
    if device.kind in RESOURCE:
        devices = plan.training.devices
        need[RESOURCE[device.kind]] = float(devices) if devices > 1 else plan.search.device_share
    elif not plan.search.ray_address:
        need["CPU"] = float(min(need["CPU"], cores()))
    return need


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(slots=True)
class Driver:
    """The driver's process.

    Attributes:
        place: the run's folder for it. temporary: Ray's and Tune's files.
        ready: what it said first.
    """

    child: Child
    place: Path
    temporary: Path
    log: Path
    ready: Nodes = field(default_factory=lambda: Nodes(kind="ready", capacity=0, nodes=[]))
    _buffer: bytes = b""

    def send(self, **message: Any) -> None:
        """One line to the driver; one that is gone is noticed where it is read from."""
        with contextlib.suppress(OSError, ValueError):
            self.child.stdin.write(dumps(message).encode() + b"\n")
            self.child.stdin.flush()

    def receive(self, timeout: float) -> Message | None:
        """Its next message, or None when none came in time.

        Raises:
            ChildFailed: when it has ended, or says what is no message.
        """
        end = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            if not select.select([self.child.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                return None
            part = self.child.stdout.read1(65536)  # type: ignore[attr-defined]
            if not part:
                code = self.child.wait(5)
                raise ChildFailed(*explain("ray.ended", code=code, evidence=self.child.tail(8), log=self.log))
            self._buffer += part
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            return _MESSAGE.validate_json(line)
        except ValidationError as exc:
            raise ChildFailed(*explain("ray.not_a_message", evidence=exc, log=self.log)) from exc

    def end(self) -> None:
        """Ends Tune and, where it was ours, the cluster; returns when none of its processes is left."""
        family = _family(self.child.pid)
        self.send(do="end")
        self.child.wait(END_SECONDS)
        self.child.end()
        _, alive = psutil.wait_procs(family, timeout=5.0)
        for process in alive:  # a worker leads a group of its own
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=5.0)
        shutil.rmtree(self.temporary, ignore_errors=True)
        (self.place / "token").unlink(missing_ok=True)


def _base() -> str:
    """Where Ray's sockets lie: their paths may have 103 characters and 75 are Ray's, so not in the run folder."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= SHORT else "/tmp"  # noqa: S108 - the folder made in it is ours alone


def _family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def start(plan: Plan, device: Device, folder: Path) -> Driver:
    """Starts the driver and waits until the cluster is there.

    Raises:
        InputError: when Ray is not installed, the address or the token is wrong, or no node holds a trial.
        ChildFailed: when Ray does not start.
    """
    if find_spec("ray") is None:
        raise EnvironmentMissing(*explain("ray.not_installed"))
    address, need = plan.search.ray_address, needs(plan, device)
    if address and not ADDRESS.fullmatch(address):
        raise InputError(*explain("ray.address", address=address))
    place = folder / "ray"
    place.mkdir(parents=True, exist_ok=True)
    _remove_leftover(place / "driver.json")
    environment = child_environment(0) | QUIET | (_given() if address else own_token(place))
    # Only ours (mode 0700); Ray opens the folder that it is given, which is therefore one inside.
    temporary = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_base()))
    settings = {
        "address": address,
        "need": need,
        "cpus": cores(),
        "object_store_bytes": OBJECT_STORE_BYTES,
        "temporary": temporary,
        "python": sys.executable,
        "keeper": KEEPER,
        "environment": child_environment(plan.training.threads),
    }
    write_atomic(place / "driver.json", dumps(settings, indent=1))
    log = folder / "logs" / "ray.log"
    argv = [sys.executable, "-P", str(DRIVER), str(place / "driver.json")]
    driver = Driver(Child(argv, environment, folder, "ray driver", log, pipes=True), place, temporary, log)
    try:
        first = driver.receive(START_SECONDS)
        if not isinstance(first, Nodes):
            raise _explained(first, address, need, log)
        driver.ready = first
    except BaseException:
        driver.end()
        raise
    return driver


def own_token(place: Path) -> dict[str, str]:
    """A fresh secret for a cluster of this run alone, readable by its owner only, and the loopback interface."""
    path = place / "token"
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as f:
        f.write(secrets.token_hex(32))
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(path),
        # Ray's switch for "no cluster of several machines": everything binds to 127.0.0.1 instead of all interfaces.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def _given() -> dict[str, str]:
    """The user's own settings for their cluster, the token among them.

    Raises:
        InputError: when there is none; a cluster without authentication must be asked for by RAY_AUTH_MODE=disabled.
    """
    given = {name: value for name, value in os.environ.items() if name.startswith("RAY_") and value}
    mode = given.setdefault("RAY_AUTH_MODE", "token")
    there = any(name in given for name in TOKENS) or (Path.home() / ".ray" / "auth_token").is_file()
    if mode != "disabled" and not there:
        raise InputError(*explain("ray.no_token"))
    return given


def _remove_leftover(settings: Path) -> None:
    """The temporary folder of an owner that was killed."""
    if settings.exists():
        from autoswift.run.files import read_json

        old = Path(read_json(settings)["temporary"])
        if old.name.startswith(PREFIX) and old.parent == Path(_base()):
            shutil.rmtree(old, ignore_errors=True)


def _explained(message: Message | None, address: str, need: Mapping[str, float], log: Path) -> AutoSwiftError:
    """Why there is no cluster."""
    if not isinstance(message, Fatal):
        return ChildFailed(*explain("ray.slow", seconds=START_SECONDS, log=log))
    if message.error == "no_room":
        wanted = ", ".join(f"{v:g} {k}" for k, v in need.items())
        return InputError(*explain("ray.no_room", need=wanted, nodes=message.words))
    if message.error == "AuthenticationError" or "authentication" in message.words.lower():
        return InputError(*explain("ray.refused", address=address, evidence=message.words.splitlines()[0]))
    evidence = f"{message.error}: {message.words}"[:600]
    if address:
        return InputError(*explain("ray.unreachable", address=address, evidence=evidence, log=log))
    return ChildFailed(*explain("ray.not_started", evidence=evidence, log=log))
