"""`understand`, `data`, `fit`, `models`, `knowledge`, `doctor`: the shapes that others script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from autoswift.catalog.availability import Availability
from autoswift.cli import doctor
from autoswift.cli.app import app
from autoswift.cli.fit import estimate
from autoswift.errors import InputError, ModelError

FIT = {"peak_gib", "low", "high", "reserved_gib", "device_gib", "fits", "parts", "seconds_per_step", "assumed"}
SENTENCE = {
    "text",
    "language",
    "domain",
    "modality",
    "goal",
    "deploy",
    "hardware",
    "constraints",
    "assumptions",
    "evidence",
    "confidence",
}
DATA = {
    "format",
    "task",
    "language",
    "domain",
    "modality",
    "conversations",
    "first",
    "roles",
    "columns",
    "removed",
    "flagged",
    "problems",
}
ROW = {"model": "Qwen2.5-7B", "method": "lora", "length": 1024, "micro_batch": 1, "gpu": "a100-80g"}


def call(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), env={"LANG": "C.UTF-8", "LC_ALL": "", "COLUMNS": "200"})


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"订单 {i} 到哪了？"},
                {"role": "assistant", "content": f"到第 {i} 站了。"},
            ]
        }
        for i in range(40)
    ]
    return lines(tmp_path / "d.jsonl", [*rows, rows[0]])


def test_understand() -> None:
    value = json.loads(call("understand", "做一个医疗问答机器人", "--json").stdout)
    assert set(value) >= SENTENCE
    assert (value["language"], value["domain"]) == ("zh", "medical")
    assert "medicine" in call("understand", "做一个医疗问答机器人").stdout
    assert call("understand").exit_code == 2


def test_understand_in_order_one_line_each(tmp_path: Path) -> None:
    batch = lines(tmp_path / "b.jsonl", [{"text": "写诗"}, {"text": "a legal assistant"}])
    found = [json.loads(line) for line in call("understand", "--batch", str(batch)).stdout.splitlines()]
    assert [row["text"] for row in found] == ["写诗", "a legal assistant"]
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "x"}\nnot json\n', encoding="utf-8")
    made = call("understand", "--batch", str(bad))
    assert made.exit_code == 2
    assert "Line 2" in made.stderr


def test_data(chats: Path) -> None:
    value = json.loads(call("data", str(chats), "--json").stdout)
    assert set(value) >= DATA
    assert value["conversations"] == 40
    assert value["removed"]["duplicate"] == 1
    shown = call("data", str(chats), "--lang", "zh").stdout
    assert "订单 0" in shown
    assert "重复" in shown


def test_data_that_cannot_be_used_lists_its_problems(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("", encoding="utf-8")
    made = call("data", str(path), "--json")
    value = json.loads(made.stdout)
    assert made.exit_code == 2
    assert value["problems"][0]["kind"] == "empty_file"
    assert call("data", str(tmp_path / "none.csv")).exit_code == 2


def test_fit_has_the_shape_of_the_contract() -> None:
    words = "fit --model Qwen2.5-7B --params-b 7.6 --method lora --length 1024 --micro-batch 1 --gpu a100-80g --json"
    made = call(*words.split())
    value = json.loads(made.stdout)
    assert set(value) >= FIT
    assert value["fits"] is True
    assert value["low"] <= value["reserved_gib"] <= value["high"]
    assert value["peak_gib"] < value["reserved_gib"] < value["device_gib"]
    assert abs(sum(value["parts"].values()) - value["peak_gib"]) < 0.01
    assert value["seconds_per_step"] > 0


def test_fit_answers_a_batch_in_order_even_past_bad_rows(tmp_path: Path) -> None:
    batch = lines(tmp_path / "b.jsonl", [ROW, {"model": "nobody-knows", "gpu": "a100-80g"}, ROW | {"length": 4096}])
    first, second, third = (json.loads(line) for line in call("fit", "--batch", str(batch)).stdout.splitlines())
    assert second["error"] == "ModelError"
    assert third["peak_gib"] > first["peak_gib"]


def test_fit_says_what_it_assumed() -> None:
    answer = estimate({"model": "brand-new-9B", "params_b": 9.0, "gpu": "a100-80g"})
    said = " ".join(answer["assumed"])
    assert "brand-new-9B is not in the catalogue" in said
    for name in ("method=lora", "length=2048", "micro_batch=1", "precision=bfloat16", "gradient_checkpointing=true"):
        assert name in said
    told = ROW | {"gradient_checkpointing": False, "optimizer": "adamw_torch", "precision": "bf16", "attention": "sdpa"}
    assert not [one for one in estimate(told)["assumed"] if "checkpointing" in one or "precision" in one]


def test_more_work_needs_more_memory() -> None:
    small = estimate(ROW)["peak_gib"]
    assert estimate(ROW | {"micro_batch": 4})["peak_gib"] > small
    assert estimate(ROW | {"method": "full"})["peak_gib"] > 2 * small
    assert estimate(ROW | {"quant": "4bit"})["peak_gib"] < small
    assert estimate(ROW | {"quant": "4bit"})["method"] == "qlora"
    assert estimate(ROW | {"method": "full", "gpu": "rtx-3060"})["fits"] is False
    assert estimate(ROW | {"gpu": "made-up-24g"})["fits"] is True
    assert estimate(ROW | {"gpu": "made-up"})["fits"] is None


@pytest.mark.parametrize("wrong", [{"length": 0}, {"method": "magic"}, {"precision": "int3"}, {"micro_batch": "two"}])
def test_fit_refuses_what_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        estimate(ROW | wrong)


def test_fit_needs_a_size() -> None:
    with pytest.raises(ModelError):
        estimate({"model": "nobody-knows", "gpu": "a100-80g"})
    with pytest.raises(ModelError):
        estimate({"gpu": "a100-80g"})


def test_models() -> None:
    rows = json.loads(call("models", "--json").stdout)
    assert rows
    assert {"id", "parameters", "licence", "languages"} <= set(rows[0])
    some = json.loads(call("models", "--licence", "commercial", "--json").stdout)
    assert all(row["commercial"] for row in some)
    assert rows[0]["id"] in call("models").stdout
    assert json.loads(call("models", "--task", "no-such-word", "--json").stdout) == []


def test_knowledge_lists_and_forgets() -> None:
    from autoswift.knowledge.store import Fingerprint, RunEntry, record

    mark = Fingerprint(goal="chat", language="zh", domain="customer_service", model="m")
    record(
        RunEntry(
            run_id="r1", created=1.0, fingerprint=mark, best={"learning_rate": 1e-4}, metric="chrf", base=1.0, tuned=2.0
        )
    )
    (row,) = json.loads(call("knowledge", "--json").stdout)
    assert row["run_id"] == "r1"
    assert "r1" in call("knowledge", "list").stdout
    assert json.loads(call("knowledge", "forget", "r1", "--json").stdout) == {"forgotten": "r1"}
    assert call("knowledge", "forget", "r1").exit_code == 2
    assert json.loads(call("knowledge", "--json").stdout) == []


@pytest.fixture
def quick_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2", "ms-swift": "4", "transformers": "5", "xllamacpp": "1"}
    monkeypatch.setattr(doctor, "ask_python", lambda python, code: ([versions, {"cuda": False}], ""))
    nowhere = Availability(huggingface=False, modelscope=False, packaged=True)
    monkeypatch.setattr("autoswift.catalog.availability.availability", lambda: nowhere)


@pytest.mark.usefixtures("quick_doctor")
def test_doctor_is_ready_without_a_hub() -> None:
    made = call("doctor", "--json")
    value = json.loads(made.stdout)
    found = {row["check"]: row["state"] for row in value["checks"]}
    assert made.exit_code == 0
    assert value["ready"] is True
    assert found["environment"] == found["serving"] == found["packaged"] == "ok"
    assert found["hubs"] == "warn"
    assert all(row["fix"] for row in value["checks"] if row["state"] != "ok")


@pytest.mark.usefixtures("quick_doctor")
def test_doctor_fails_where_training_is_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSWIFT_TRAIN_PYTHON", "/not/there")
    made = call("doctor")
    assert made.exit_code == 2
    assert "autoswift setup" in made.stdout
    assert "✕" in made.stdout
