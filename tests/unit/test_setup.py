"""The training environment: real virtual environments and real pip, with a lock of one tiny wheel and no network."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import autoswift.tables
from autoswift.errors import ChildFailed, DiskFull, EnvironmentMissing, RunLocked
from autoswift.run import locks, places
from autoswift.run.environment import incomplete, interpreter
from autoswift.run.lock import owned
from autoswift.run.pip_progress import PipProgress
from autoswift.run.setup import is_ready, setup


def wheel(folder: Path, name: str, version: str, body: str = "value = 1\n") -> None:
    """Writes a wheel by hand: no build tool, no network."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as z:
        z.writestr(f"{name}/__init__.py", body)
        z.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        z.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(f"{info}/RECORD", f"{name}/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


class Shop:
    """A lock folder, an index of local wheels, and a home; the environment in it is made once for this file."""

    def __init__(self, root: Path) -> None:
        self.home, self.locks, self.wheels = root / "home", root / "locks", root / "wheels"
        for folder in (self.home, self.locks, self.wheels):
            folder.mkdir()
        wheel(self.wheels, "tinytrain", "1.0")
        wheel(self.wheels, "tinynew", "1.0")
        wheel(self.wheels, "tinymodel", "0.1")
        self.lock("tinytrain==1.0")
        self.lines: list[str] = []
        self.python = Path()

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        patch.setenv("AUTOSWIFT_HOME", str(self.home))
        patch.setattr(locks, "folder", lambda: self.locks)
        for name in [n for n in os.environ if n.startswith("PIP_")]:
            patch.delenv(name)
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(self.wheels))

    def lock(self, *pins: str) -> None:
        (self.locks / locks.TRAIN).write_text("# a comment\n" + "\n".join(pins) + "\n")
        (self.locks / locks.PACKAGED_MODEL).write_text("tinymodel==0.1\n")

    @property
    def target(self) -> Path:
        return self.home / "envs" / "train"

    def value(self, module: str) -> str:
        code = f"import {module}; print({module}.value)"
        return subprocess.run(
            [str(interpreter(self.target)), "-c", code], capture_output=True, text=True, timeout=60, check=True
        ).stdout.strip()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    shop = Shop(tmp_path_factory.mktemp("shop"))
    with pytest.MonkeyPatch.context() as patch:
        shop.patch(patch)
        shop.python = setup(shop.lines.append)
        yield shop


@pytest.fixture
def shop(made: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The environment as it was made: no test takes a package of the first list away for good."""
    made.patch(monkeypatch)
    made.lock("tinytrain==1.0")
    (made.target / locks.STAMP).write_text(locks.fingerprint())
    return made


def test_installs_both_lists_and_says_so(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (shop.value("tinytrain"), shop.value("tinymodel")) == ("1", "1")
    assert is_ready(shop.target)
    assert shop.python == interpreter(shop.target)
    assert "Installing" in shop.lines[0]
    assert "is installed" in shop.lines[-1]
    assert not list(shop.target.parent.glob(".unpack-*"))
    assert not list((shop.target.parent / "processes").glob("*"))
    monkeypatch.setattr(places.importlib.util, "find_spec", lambda name: None)
    assert places.train_python() == interpreter(shop.target)


def test_a_second_call_installs_nothing(shop: Shop) -> None:
    log = places.home() / "logs" / "setup.log"
    size, lines = log.stat().st_size, []
    assert setup(lines.append, language="zh") == interpreter(shop.target)
    assert log.stat().st_size == size
    assert len(lines) == 1
    assert "训练环境已就绪" in lines[0]


def test_an_environment_without_its_stamp_is_not_used(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places.importlib.util, "find_spec", lambda name: None)
    (shop.target / locks.STAMP).unlink()
    assert places.train_python_or_none() is None
    with pytest.raises(EnvironmentMissing, match="not installed") as caught:
        places.train_python()
    assert "autoswift setup" in caught.value.fix


def test_goes_on_after_a_package_was_cut_off_and_installs_what_is_new(shop: Shop) -> None:
    site = next(shop.target.glob("lib/python3*/site-packages"))
    shop.lock("tinytrain==1.0", "tinynew==1.0")
    assert not is_ready(shop.target)
    (site / "tinytrain-1.0.dist-info" / "RECORD").unlink()
    (site / "tinytrain" / "__init__.py").write_text("")
    (site / "tinymodel" / "__init__.py").unlink()
    assert incomplete(shop.target) == ["tinymodel==0.1"]
    setup([].append)
    assert is_ready(shop.target)
    assert [shop.value(name) for name in ("tinytrain", "tinynew", "tinymodel")] == ["1", "1", "1"]


def test_no_network_is_said_and_may_be_tried_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.lock("tinytrain==2.0")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(ChildFailed, match="did not answer") as caught:
        setup([].append)
    assert caught.value.transient
    assert "tinytrain==2.0" in caught.value.why
    assert not is_ready(shop.target)


def test_a_package_that_the_index_lacks_is_named(shop: Shop) -> None:
    shop.lock("tinytrain==3.0")
    with pytest.raises(ChildFailed, match=r"no tinytrain==3\.0 for this machine") as caught:
        setup([].append)
    assert not caught.value.transient
    assert "ERROR" in caught.value.why


def test_too_little_room_is_said_before_anything_is_downloaded(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    (shop.target / locks.STAMP).unlink()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12 - 10**9, 10**9))
    lines: list[str] = []
    with pytest.raises(DiskFull, match=r"1\.0 GB free"):
        setup(lines.append)
    assert lines == []


def test_pip_running_out_of_room_is_said(shop: Shop) -> None:
    (shop.target / locks.STAMP).unlink()
    site = next(shop.target.glob("lib/python3*/site-packages"))
    # From now on each `pip install` in the environment ends as on a full disk.
    (site / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'install' in sys.orig_argv:\n"
        "    os.write(2, b'ERROR: [Errno 28] No space left on device\\n')\n"
        "    os._exit(1)\n"
    )
    try:
        with pytest.raises(DiskFull, match="disk is full") as caught:
            setup([].append)
        assert "No space left" in caught.value.why
    finally:
        (site / "sitecustomize.py").unlink()


def test_two_at_once_are_kept_apart(shop: Shop) -> None:
    (shop.target / locks.STAMP).unlink()
    with owned(shop.target.parent), pytest.raises(RunLocked, match="Another process is installing"):
        setup([].append)


def test_a_kill_leaves_no_environment_and_no_pip_behind(shop: Shop) -> None:
    shop.lock("tinytrain==4.0")
    program = (
        "from pathlib import Path\nfrom autoswift.run import locks\nfrom autoswift.run.setup import setup\n"
        f"locks.folder = lambda: Path({str(shop.locks)!r})\nsetup(print)\n"
    )
    with socket.socket() as silent:  # an index that takes the connection and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        environment = os.environ | {"PIP_INDEX_URL": f"http://127.0.0.1:{silent.getsockname()[1]}/simple"}
        del environment["PIP_NO_INDEX"]
        owner = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.DEVNULL)
        family = wait_for(lambda: installing(owner.pid))
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
        wait_for(lambda: not any(runs(process) for process in family))
    assert not is_ready(shop.target)
    with owned(shop.target.parent):  # the lock went with its owner
        pass


def installing(pid: int) -> list[psutil.Process]:
    """The keeper and its pip, once pip is at work."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "install" in process.cmdline():
                found.append(process)
    return found if len(found) == 2 else []


def runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come about")


def test_progress_says_what_pip_does() -> None:
    progress = PipProgress(3, "en", lambda: 2)
    assert progress.line() == ""
    progress.feed("Collecting ms-swift==4.6.0 (from -r train.txt (line 3))")
    assert progress.line() == "collecting 1 of 3: ms-swift"
    progress.feed("  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (800.1 MB)")
    progress.feed("Progress 300000000 of 800000000")
    assert progress.line() == "downloading torch: 300 of 800 MB"
    progress.feed("Installing collected packages: torch, ms-swift")
    assert progress.line() == "installing: 2 of 3 packages in place"


def test_locked_lists_are_exact_and_fit_any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "folder", lambda: Path(autoswift.tables.__file__).with_name("locks"))
    for name in (locks.TRAIN, "dev.txt", locks.PACKAGED_MODEL):
        pins = locks.pins(name)
        assert pins
        assert [p for p in pins if p.count("==") != 1 or "+" in p or " " in p or "--hash" in p] == []
    train = set(locks.pins(locks.TRAIN))
    assert train <= set(locks.pins("dev.txt"))
    assert {"torch", "ms-swift", "transformers"} <= {p.split("==")[0] for p in train}
