"""`evaluate` and `compare` on runs that kept their answers, and for real on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from autoswift.cli.app import app
from autoswift.cli.evaluate import Asked, load_of, worker_at
from autoswift.domain.task import Task
from autoswift.evaluate.answers import Answers
from autoswift.evaluate.comparison import Setting, compare
from autoswift.evaluate.kept import keep
from autoswift.report.comparison import page
from autoswift.run.files import plain
from autoswift.run.record import create
from support import tiny_model

REFERENCES = [f"您好，第 {i} 号订单可以退货，请在订单页面提交申请。" for i in range(24)]
ROWS = [
    {"messages": [{"role": "user", "content": f"第 {i} 号怎么退货"}, {"role": "assistant", "content": r}]}
    for i, r in enumerate(REFERENCES)
]


def side(texts: list[str]) -> Answers:
    n = len(texts)
    return Answers(texts, [9] * n, [True] * n, [1.0] * n, [1] * n, 2.0, [0.1] * n)


BASE, TUNED = side(["<b>I do not know.</b>"] * 24), side([*REFERENCES[:20], *["不知道"] * 4])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    record = create(Task(sentence="退货"), tmp_path / "run")
    keep(record.folder, ROWS, REFERENCES, {"base": BASE, "tuned": TUNED})
    value = plain(compare(BASE, TUNED, ROWS, REFERENCES, Setting(metric="chrf")))
    record.save_step("evaluate", {"inputs": "", "result": {"value": value}})
    return record.folder


def ask(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_a_run_shows_its_kept_result_and_compares_with_its_base(run: Path, tmp_path: Path) -> None:
    shown = ask("evaluate", str(run), "--json")
    assert shown.exit_code == 0, shown.output
    kept = json.loads(shown.stdout)["suites"]["test"]
    assert kept["kept"] is True
    html = tmp_path / "page.html"
    found = ask("compare", f"{run}:base", str(run), "--html", str(html), "--json")
    value = json.loads(found.stdout)
    assert value["verdict"]["kind"] == "better"
    assert value["difference"]["chrf"]["value"] == pytest.approx(kept["difference"]["chrf"]["value"])
    text = html.read_text(encoding="utf-8")
    assert value["verdict"]["words"]["en"] in text
    assert "<b>I do not know" not in text  # what models say is escaped
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_a_model_against_itself_and_words_for_people(run: Path) -> None:
    same = ask("compare", str(run), str(run))
    assert same.exit_code == 0
    assert "no difference is proven" in same.output
    zh = ask("compare", f"{run}:base", str(run), "--lang", "zh")
    assert "提升" in zh.output
    assert "变好的例子" in zh.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("evaluate", "http://127.0.0.1:9/v1", "--suite", "guard"), "likelihood"),
        (("evaluate", "http://127.0.0.1:9/v1", "--suite", "test"), "Only a run has a test set"),
        (("compare", "http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1"), "no kept answers"),
        (("evaluate", "no-such-run"), "no-such-run"),
    ],
)
def test_what_cannot_be_evaluated_is_said(
    words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOSWIFT_HOME", str(tmp_path))
    monkeypatch.setenv("LANG", "en_US.UTF-8")
    found = ask(*words)
    assert found.exit_code == 2
    assert said in found.output


def test_the_page_of_labels_shows_what_was_taken_for_what() -> None:
    labels = ["退货", "换货"] * 12
    rows = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": r}]} for r in labels]
    value = compare(side(["退货"] * 24), side(labels), rows, labels, Setting(metric="macro_f1"))
    text = page(plain(value), ("甲", "乙"), "zh")
    assert "混淆矩阵（乙）" in text
    assert "通用能力" not in text  # it was not asked


@pytest.mark.slow
def test_the_guard_is_asked_of_a_real_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSWIFT_HOME", str(tmp_path))
    found = ask("evaluate", str(tiny_model()), "--suite", "guard", "--json")
    assert found.exit_code == 0, found.output
    guard = json.loads(found.stdout)["suites"]["guard"]
    assert guard["rows"] >= 120
    assert 0 < guard["score"]["value"] < 1
    assert len({one["name"] for one in guard["abilities"]}) == 6


@pytest.mark.slow
def test_a_prompt_read_once_for_all_its_answers_scores_as_each_row_alone(tmp_path: Path) -> None:
    options = [["Yes.", "No, it is not at all.", "可以"], ["退货", "7"], ["a", "b", "c", "d"]]
    prompts = [{"messages": [{"role": "user", "content": text}]} for text in ("Can I?", "怎么退货，运费谁付？", "x")]
    alone = [
        {"messages": [*prompt["messages"], {"role": "assistant", "content": one}]}
        for prompt, given in zip(prompts, options, strict=True)
        for one in given
    ]
    with worker_at(tmp_path) as worker:
        worker.ask("load", **load_of(Asked("tiny", folder=tiny_model())))
        together = worker.ask("choose", rows=prompts, options=options, batch_size=2)["rows"]
        plainly = worker.ask("score", rows=alone, batch_size=1)["rows"]
    flat = [(n, t) for row in together for n, t in zip(row["nll_sums"], row["tokens"], strict=True)]
    assert [t for _, t in flat] == [row["tokens"] for row in plainly]
    assert [n for n, _ in flat] == pytest.approx([row["nll_sum"] for row in plainly], abs=1e-3)
