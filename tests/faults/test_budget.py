"""A wall-clock that is too short for what was asked: it ends in time, with a result, and says what is missing."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from support import EXAMPLE, SENTENCE, Cli, lines, tiny_model

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


def test_three_minutes_end_in_three_minutes(tmp_path: Path) -> None:
    cli, out = Cli(tmp_path / "home"), tmp_path / "run"
    model = str(tiny_model())
    begin = time.monotonic()
    done = cli(
        *("run", SENTENCE, "--data", str(EXAMPLE), "--model", model, "--out", str(out), "--yes", "--json"),
        *("--budget-hours", "0.05", "--budget-trials", "20", "--full"),
        timeout=400,
    )
    seconds = time.monotonic() - begin
    cli("stop", str(out))
    assert done.returncode == 3, done.stderr
    assert seconds < 180
    result = json.loads(done.stdout)["result"]
    assert result["partial_reasons"]
    assert result["tuned"] is not None
    started = {r["trial"] for r in lines(out / "trials.jsonl") if r["event"] == "started"} - {0}
    assert 1 <= len(started) < 20
    assert (out / "report.html").is_file()


def test_three_minutes_hold_a_real_model_too(tmp_path: Path) -> None:
    """What follows the search takes two minutes with the packaged model: the reserve must know."""
    cli, out = Cli(tmp_path / "home"), tmp_path / "run"
    begin = time.monotonic()
    done = cli(
        *("run", SENTENCE, "--data", str(EXAMPLE), "--out", str(out), "--yes", "--json"),
        *("--model", "smollm2-135m-instruct", "--budget-hours", "0.05"),
        timeout=400,
    )
    seconds = time.monotonic() - begin
    cli("stop", str(out))
    assert done.returncode == 3, done.stderr
    assert seconds < 180
    result = json.loads(done.stdout)["result"]
    assert result["address"]
    assert result["low"] is not None
    assert (out / "report.html").is_file()
