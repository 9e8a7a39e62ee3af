"""The step on the longest rows with the real trainer: forced on a CPU, whose process tells its own peak."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support import SENTENCE, SMALL, Cli, lines, small_data, tiny_model

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_the_longest_rows_are_tried_before_the_search(tmp_path: Path) -> None:
    cli, out = Cli(tmp_path / "home"), tmp_path / "run"
    data = small_data(tmp_path)
    done = cli(
        *("run", SENTENCE, "--data", str(data), "--model", str(tiny_model()), "--out", str(out), "--yes", "--json"),
        *("--budget-trials", "1", "--budget-hours", "0.5", "--target", "none", "--set", "memory_probe=true", *SMALL),
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    step = json.loads((out / "steps" / "memory.json").read_text(encoding="utf-8"))["result"]
    measured = step["value"]["measured"]
    assert measured[-1]["symptom"] == "", measured
    assert 100 * 2**20 < measured[-1]["memory_bytes"] < 8 * 2**30
    assert step["metrics"]["device_seconds"] > 1
    told = [e["decision"] for e in lines(out / "events.jsonl") if e["kind"] == "decision"]
    (found,) = [d for d in told if d["name"] == "memory_measured"]
    assert found["value"] in ("confirmed", "corrected")
    assert found["source"] == "measurement"
    logs = [p.name for p in (out / "probes" / "memory" / "logs").iterdir()]
    assert logs == ["trial-1-1.log"]
    kept = lines(cli.home / "memory.jsonl")
    assert {row["trial"] for row in kept} >= {-1, 1}
    assert next(row for row in kept if row["trial"] == -1)["whole"] is True
