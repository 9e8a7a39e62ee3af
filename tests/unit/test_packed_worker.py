"""The worker of packed trials as a process: its protocol, and its numbers against those of `swift sft`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import packed_process as process
import pytest

from support import lines, tiny_model


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[process.Process]:
    made = process.Process(tmp_path)
    yield made
    made.close()


def order(worker: process.Process, trial: int) -> list[str]:
    """The kinds of a trial's events, repeats once."""
    kinds = [line["event"] for line in worker.seen if line.get("trial") == trial]
    return [kind for n, kind in enumerate(kinds) if n == 0 or kinds[n - 1] != kind]


def test_a_worker_from_open_to_close(worker: process.Process, tmp_path: Path) -> None:
    settings = process.SETTINGS | {"max_steps": 4, "gradient_accumulation_steps": 1}
    opened = worker.open(tmp_path, settings, max_new_tokens=4, generation_batch_size=3)
    assert opened["max_trials"] == 4
    assert opened["parameters"] > 1_000_000

    worker.submit(1, tmp_path / "one", settings, evaluate_rows=4)
    worker.submit(2, tmp_path / "two", settings | {"lora_rank": 3, "max_steps": 400, "seed": 8}, evaluate_rows=0)
    worker.submit(3, tmp_path / "three", settings | {"optimizer": "adamw_bnb_8bit"})
    worker.submit(4, tmp_path / "four", settings | {"max_steps": 400}, deadline=time.time() + 1, evaluate_seconds=0)
    worker.submit(5, tmp_path / "five", settings | {"learning_rate": 1e30, "max_grad_norm": 0, "max_steps": 400})
    worker.say(do="nonsense")
    refused = worker.wait("failed", 3)
    assert (refused["symptom"], refused["reason"]) == ("packing_refused", "optimizer")
    assert worker.wait("error")["text"]
    worker.wait("finished", 1)
    assert order(worker, 1) == ["started", "progress", "saved", "evaluated", "finished"]
    started, final = worker.of(1, "started")[0], worker.of(1, "evaluated")[0]
    assert started["total_steps"] == 4
    assert started["parameters"]["trainable"] * 100 < started["parameters"]["total"]
    assert started["seconds_to_start"] < 5
    assert final["final"] is final["complete"] is True
    assert len(final["answers"]) == 6
    assert all(0 < answer["tokens"] <= 4 for answer in final["answers"])
    assert 0 < final["metrics"]["nll"] < 12
    assert {"loss", "grad_norm", "learning_rate", "token_acc", "tokens"} <= set(worker.of(1, "progress")[0]["metrics"])

    assert worker.wait("finished", 5)["stopped"] == "nan"
    assert order(worker, 5)[-3:] == ["warning", "stopping", "finished"]
    assert not list((tmp_path / "five").glob("checkpoint-*"))
    worker.say(do="checkpoint", trial=2)
    saved = worker.wait("saved", 2)
    assert (Path(saved["checkpoint"]) / "adapter_model.safetensors").is_file()
    worker.say(do="stop", trial=2)
    assert worker.wait("finished", 2)["stopped"] == "stop_file"
    assert order(worker, 2)[-3:] == ["stopping", "saved", "finished"]
    assert worker.wait("finished", 4)["stopped"] == "deadline"
    assert len(list((tmp_path / "two").glob("checkpoint-*"))) <= 2

    step = worker.of(2, "finished")[0]["step"]
    last = worker.of(2, "saved")[-1]["checkpoint"]
    more = settings | {"lora_rank": 3, "max_steps": step + 2, "seed": 8}
    worker.submit(7, tmp_path / "seven", more, from_checkpoint=last)
    assert worker.wait("started", 7)["step"] == step
    assert worker.wait("finished", 7)["step"] == step + 2
    worker.submit(6, tmp_path / "six", settings, from_checkpoint=str(tmp_path))
    assert worker.wait("failed", 6)["symptom"] == "bad_checkpoint"
    worker.say(do="close")
    worker.wait("closed")
    assert worker.child.wait(20) == 0


def test_arguments_that_a_pack_does_not_know_are_refused(worker: process.Process, tmp_path: Path) -> None:
    named = process.arguments(tmp_path, process.SETTINGS) | {"neftune_noise_alpha": 5}
    worker.say(do="open", device="cpu", threads=1, arguments={key: str(value) for key, value in named.items()})
    refused = worker.wait("refused")
    assert refused["reason"] == "arguments"
    assert "neftune" in refused["text"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("schedule", ["cosine", "warmup_stable_decay"])
def test_fifty_steps_are_those_of_swift(worker: process.Process, tmp_path: Path, schedule: str) -> None:
    settings: dict[str, Any] = process.SETTINGS | {"max_steps": 50, "lr_scheduler_type": schedule}
    validation = process.rows(tmp_path / "validation.jsonl", 100, 8)
    more = {"val_dataset": str(validation), "eval_strategy": "steps", "eval_steps": 25}
    if schedule == "warmup_stable_decay":
        more["lr_scheduler_kwargs"] = json.dumps({"num_decay_steps": 10})
        settings["stable_steps"] = 40
    theirs = process.swift(tmp_path, settings, more)
    worker.open(tmp_path, settings, validation=str(validation))
    worker.submit(1, tmp_path / "one", settings | {"eval_steps": 25}, evaluate_rows=0)
    worker.submit(2, tmp_path / "two", settings | {"lora_rank": 4, "seed": 3, "learning_rate": 3e-3}, evaluate_rows=0)
    worker.wait("finished", 1, seconds=400)

    ours = [line["metrics"] for line in worker.of(1, "progress")]
    steps = [row for row in theirs if "loss" in row]
    assert len(ours) == len(steps) == 50
    for one, other in zip(ours, steps, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-3)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-2)
        assert one["learning_rate"] == pytest.approx(other["learning_rate"], abs=1e-7)
        assert one["token_acc"] == pytest.approx(other["token_acc"], abs=5e-3)
    judged = [row["eval_loss"] for row in theirs if "eval_loss" in row]
    assert [line["metrics"]["eval_loss"] for line in worker.of(1, "evaluated")] == pytest.approx(judged, abs=1e-3)
    stable = [Path(line["checkpoint"]).name for line in worker.of(1, "saved")]
    assert stable == (["checkpoint-40", "checkpoint-50"] if schedule != "cosine" else ["checkpoint-50"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_answers_are_those_of_the_checkpoint(worker: process.Process, tmp_path: Path) -> None:
    """Two trials answer in one pass; each as its adapter does when swift loads it."""
    settings = process.SETTINGS | {"max_steps": 6, "learning_rate": 5e-3}
    worker.open(tmp_path, settings, max_new_tokens=12, generation_batch_size=4)
    worker.submit(1, tmp_path / "one", settings, evaluate_rows=6)
    worker.submit(2, tmp_path / "two", settings | {"seed": 3, "lora_rank": 4}, evaluate_rows=6)
    worker.wait("finished", 1)
    worker.wait("finished", 2)
    asked = lines(tmp_path / "answered.jsonl")
    other = process.ask(tmp_path, tiny_model(), {n: worker.of(n, "saved")[-1]["checkpoint"] for n in (1, 2)}, asked)
    for number in (1, 2):
        final = worker.of(number, "evaluated")[-1]
        assert [a["text"] for a in final["answers"]] == other[number]["answers"]
        assert final["metrics"]["nll"] == pytest.approx(other[number]["nll"], abs=1e-4)
    assert other[1]["answers"] != other[2]["answers"] or other[1]["nll"] != other[2]["nll"]
