"""`--probe N` on real software: two candidates of a hub on this machine, trained a few steps; the worse one loses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from autoswift.testing.model_hub import ModelHub
from support import SENTENCE, SMALL, TINY, Cli, lines, small_data, stage_state, tiny_model, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

WORSE, BETTER = "jingyaogong/MiniMind2", "jingyaogong/MiniMind2-Small"
"""The first and the second of the ranking up to 0.11 B weights; both have Llama's layers, as the tiny ones do."""
HOURS = "2"
ASKED = f"{SENTENCE}，模型不超过0.11B"


@dataclass(frozen=True)
class Online(Cli):
    """The command line with a hub on this machine."""

    hub: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        allowed = {name: "0" for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")}
        return super().env | allowed | self.hub


def untrained(folder: Path) -> Path:
    """A model of one layer with random weights, made as the tiny one is."""
    argv = [sys.executable, "-P", str(TINY), str(folder), "--steps", "0", "--seed", "5"]
    subprocess.run(argv, check=True, capture_output=True, timeout=200, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}), encoding="utf-8")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if ".layers.1." not in name}
    assert len(kept) < len(tensors)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelHub]:
    with ModelHub() as made:
        made.publish(WORSE, untrained(tmp_path_factory.mktemp("models") / "untrained"))
        made.publish(BETTER, tiny_model())
        yield made


@pytest.fixture
def cli(hub: ModelHub, tmp_path: Path) -> Online:
    (tmp_path / "home").mkdir()
    return Online(home=tmp_path / "home", hub=hub.environment())


def asked(tmp_path: Path) -> list[str]:
    data = small_data(tmp_path)
    given = [ASKED, "--data", str(data), "--probe", "2", "--budget-hours", HOURS, "--target", "none"]
    return [*given, "--budget-trials", "1", *SMALL]


def value(run: Path, step: str) -> Any:
    return json.loads((run / "steps" / f"{step}.json").read_text(encoding="utf-8"))["result"]["value"]


def decision(plan: dict[str, Any], name: str) -> dict[str, Any]:
    return next(d for d in plan["decisions"] if d["name"] == name)


def test_the_worse_candidate_loses_and_a_killed_run_repeats_no_finished_probe(cli: Online, tmp_path: Path) -> None:
    out = tmp_path / "run"
    planned = cli("plan", *asked(tmp_path), "--json")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    said = decision(json.loads(planned.stdout), "probe")
    assert said["value"] == "minimind2, minimind2-small", said
    assert not (cli.home / "runs").exists(), "a plan tries nothing"

    owner = cli.start("run", *asked(tmp_path), "--out", str(out), "--yes")
    wait_for(lambda: owner.poll() is not None or stage_state(out, "probe-2") == "started", 300, cli.log()[-2000:])
    assert owner.poll() is None, cli.log()
    owner.send_signal(signal.SIGKILL)
    owner.wait(10)
    first = (out / "steps" / "probe-1.json").read_bytes()
    done = cli("resume", str(out), "--yes", "--json", timeout=600)
    assert done.returncode == 0, done.stderr
    assert (out / "steps" / "probe-1.json").read_bytes() == first
    starts = [e for e in lines(out / "events.jsonl") if e["kind"] == "stage" and e["stage"] == "probe-1"]
    assert [e["state"] for e in starts] == ["started", "finished", "reused"]

    worse, better = value(out, "probe-1"), value(out, "probe-2")
    assert (worse["id"], better["id"]) == ("minimind2", "minimind2-small")
    assert better["after"] < better["before"] < worse["before"]
    chosen = json.loads((out / "plan" / "2.json").read_text(encoding="utf-8"))
    assert chosen["model"]["id"] == "minimind2-small"
    assert value(out, "probe")["revision"] == 2
    reason = decision(chosen, "model")
    assert (reason["value"], reason["source"]) == ("minimind2-small", "measurement")
    figures = {e["fact"]: e["value"] for e in reason["evidence"]}
    assert figures["probe.minimind2"]["after"] == worse["after"]
    assert [a["value"] for a in reason["alternatives"]] == ["minimind2"]
    assert reason["alternatives"][0]["why_not"]
    last = json.loads(max((out / "plan").glob("*.json"), key=lambda p: int(p.stem)).read_text(encoding="utf-8"))
    assert last["model"]["id"] == "minimind2-small"
    assert decision(last, "model") == reason
    assert chosen["estimate"]["stage_seconds"]["probe"] > 0
    assert not list((out / "probes").glob("*/base")), "the candidates' files are not kept twice"
    kept = lines(cli.home / "memory.jsonl")
    assert kept, "the trials' peaks are remembered for the next plan"
    again = cli("plan", *asked(tmp_path), "--json", "--set", "method=lora")
    assert "memory_factor" in again.stdout
