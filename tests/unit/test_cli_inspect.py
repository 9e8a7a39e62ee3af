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
from autoswift.testing.hub import FakeHub
from autoswift.testing.shelf import shelf

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
    bad.write_text('{"text": "写诗"}\n\nnot json\n{"text": "a legal assistant"}\n', encoding="utf-8")
    made = call("understand", "--batch", str(bad))
    first, second, third = (json.loads(line) for line in made.stdout.splitlines())
    assert (first["text"], third["text"]) == ("写诗", "a legal assistant")
    assert second["error"] == "InputError"
    assert made.exit_code == 2
    assert "Line 3" in made.stderr


def test_data(chats: Path) -> None:
    value = json.loads(call("data", str(chats), "--json").stdout)
    assert set(value) >= DATA
    assert value["conversations"] == 40
    assert value["removed"]["duplicate"] == 1
    shown = call("data", str(chats), "--lang", "zh").stdout
    assert "订单 0" in shown
    assert "重复" in shown


def test_data_shows_its_columns_samples_and_lengths(chats: Path) -> None:
    shown = call("data", str(chats)).stdout
    for words in ("messages", "line 2", "订单 1 到哪了？", "duplicates", "median", "█", "training"):
        assert words in shown
    assert "--column user=" in shown


def test_data_that_cannot_be_used_lists_its_problems(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("", encoding="utf-8")
    made = call("data", str(path), "--json")
    value = json.loads(made.stdout)
    assert made.exit_code == 2
    assert value["problems"][0]["kind"] == "empty_file"
    assert call("data", str(tmp_path / "none.csv")).exit_code == 2


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("none.csv",), "no_such_file"),
        (("d.jsonl", "--column", "user=nowhere"), "no_such_column"),
        (("d.jsonl", "--column", "nothing"), "bad_request"),
        (("d.jsonl", "--test", "none.csv"), "no_such_file"),
        (("d.jsonl", "none.csv"), "no_such_file"),
    ],
)
@pytest.mark.usefixtures("chats")
def test_whatever_stops_data_is_among_its_problems(tmp_path: Path, words: tuple[str, ...], kind: str) -> None:
    named = [str(tmp_path / word) if "." in word else word for word in words]
    made = call("data", *named, "--json")
    problems = json.loads(made.stdout)["problems"]
    assert made.exit_code == 2
    assert (problems[-1]["kind"], problems[-1]["severity"]) == (kind, "error")
    assert {"kind", "severity", "file", "line", "row", "column", "member", "message", "fix"} <= set(problems[-1])


def test_what_was_found_before_an_error_is_said_too(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes("问题,答案\n怎么退？,点申请售后。\n".encode("gb18030") * 3)
    made = call("data", str(path), "--column", "user=nowhere")
    assert made.exit_code == 2
    assert made.stdout == ""
    assert "gb18030" in made.stderr
    assert "nowhere" in made.stderr


def test_data_writes_a_page(chats: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    value = json.loads(call("data", str(chats), "--html", str(page), "--json").stdout)
    assert value["page"] == str(page)
    assert "订单 0 到哪了？" in page.read_text(encoding="utf-8")
    refused = tmp_path / "refused.html"
    made = call("data", str(chats), "--column", "user=nowhere", "--html", str(refused), "--lang", "zh")
    assert made.exit_code == 2
    assert "nowhere" in refused.read_text(encoding="utf-8")


def test_data_takes_several_files_and_folders(chats: Path, tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    rows = [{"messages": [{"role": "user", "content": f"退 {i}"}, {"role": "assistant", "content": f"好 {i * 3}"}]}
            for i in range(30)]  # fmt: skip
    lines(more / "e.jsonl", rows)
    assert json.loads(call("data", str(chats), str(more), "--json").stdout)["conversations"] == 70


def test_data_masks_divides_and_takes_own_sets(tmp_path: Path) -> None:
    rows = [{"问题": f"电话 1381234{i:04}，第 {i * 11} 单到哪了？", "答案": f"到第 {i * 7} 站了。"} for i in range(60)]
    path, own = lines(tmp_path / "d.jsonl", rows[:50]), lines(tmp_path / "t.jsonl", rows[50:])
    value = json.loads(call("data", str(path), "--redact", "--test", str(own), "--json").stdout)
    assert value["redacted"]["phone"] == value["conversations"] > 50
    assert value["splits"]["test"] == 10
    assert "1381234" not in json.dumps(value, ensure_ascii=False)
    one, two = (json.loads(call("data", str(path), "--seed", seed, "--json").stdout) for seed in ("1", "1"))
    assert one == two


def test_data_of_a_hub_says_where_it_came_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "AUTOSWIFT_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AUTOSWIFT_HOME", str(tmp_path / "home"))
    with FakeHub(shelf()) as hub:
        for name, value in hub.environment().items():
            monkeypatch.setenv(name, value)
        made = call("data", "hf://classics/tang-poetry-instructions", "--json")
        shown = call("data", "hf://classics/tang-poetry-instructions").stdout
    found = json.loads(made.stdout)
    assert found["conversations"] > 150
    assert found["sourced"]["licence"] == "cc0-1.0"
    assert "cc0-1.0" in shown


def test_understanding_says_what_contradicts_the_data(tmp_path: Path) -> None:
    rows = [{"text": f"这个商品我很喜欢，第 {i} 次买了", "label": "好评" if i % 2 else "差评"} for i in range(60)]
    path = lines(tmp_path / "d.jsonl", rows)
    value = json.loads(call("understand", "做一个会看图的聊天机器人", "--data", str(path), "--json").stdout)
    assert value["goal"] == "classification"
    assert "modality_contradiction" in {one["kind"] for one in value["problems"]}
    shown = call("understand", "做一个会看图的聊天机器人", "--data", str(path)).stdout
    assert value["problems"][0]["message"] in shown
    assert "% sure" in shown


def test_what_the_user_says_of_a_sentence_wins() -> None:
    value = json.loads(call("understand", "写点东西", "--domain", "legal", "--goal", "reasoning", "--json").stdout)
    assert (value["domain"], value["goal"]) == ("legal", "reasoning")


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
