"""A disk that is or becomes full: said so, exit code 2, nothing half-made; resumable once there is room."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import SENTENCE, SMALL, Cli, lines, small_data, tiny_model, wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of its own, of the given size."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this machine does not let us mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def arguments(out: Path, tmp_path: Path) -> list[str]:
    data = small_data(tmp_path)
    model = str(tiny_model())
    return ["run", SENTENCE, "--data", str(data), "--model", model, "--out", str(out), "--yes", *SMALL]


@pytest.mark.parametrize("small_disk", ["64k", "2m", "32m"], indirect=True)
def test_no_room_from_the_start(small_disk: Path, tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home")
    done = cli(*arguments(small_disk / "run", tmp_path))
    assert done.returncode == 2, done.stderr
    assert "disk" in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert not (small_disk / "run").exists(), "a half-made run stayed"
    assert not list((tmp_path / "home" / "runs").glob("*"))


@pytest.mark.parametrize("small_disk", ["400m"], indirect=True)
def test_the_disk_fills_up_in_the_middle(small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    cli, out = Cli(tmp_path / "home"), small_disk / "run"
    owner = cli.start(*arguments(out, tmp_path), "--budget-trials", "2", "--target", "none")
    wait_for(lambda: any(r["event"] == "started" for r in lines(out / "trials.jsonl")), 120, cli.log())
    ballast = small_disk / "ballast"
    with ballast.open("wb") as f:
        try:
            while f.write(b"\0" * 65536):
                f.flush()
        except OSError:
            pass
    assert owner.wait(200) == 2, cli.log()
    assert "disk is full" in cli.log()
    assert "Traceback" not in cli.log()
    ballast.unlink()
    assert cli("resume", str(out), "--yes", timeout=600).returncode == 0
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["state"] == "done"
