"""A flipped bit or a cut in a run's records is noticed, and what it held is never taken for what was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoswift.domain.artifact import Artifact, StepResult
from autoswift.domain.task import Task
from autoswift.errors import InputError
from autoswift.run.files import (
    Damaged,
    append_line,
    damaged_lines,
    file_sha256,
    plain,
    read_lines,
    read_sealed,
    sealed,
)
from autoswift.run.record import RunRecord, create
from autoswift.run.steps import step
from unit.plans import make_plan

ROWS = [
    {"time": 1.5, "event": "proposed", "trial": 1, "parameters": {"learning_rate": 0.0003}, "origin": "prior"},
    {"time": 2.5, "event": "ended", "trial": 1, "outcome": {"status": "finished", "metrics": {"nll": 1.25}}},
    {"time": 3.5, "kind": "note", "text": "退换货，“引号”\n和换行"},
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def harm(content: bytes, where: int, bit: int, *, cut: bool) -> bytes:
    where %= len(content)
    if cut:
        return content[:where]
    return content[:where] + bytes([content[where] ^ (1 << bit)]) + content[where + 1 :]


@given(where=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
@settings(max_examples=300)
def test_a_harmed_journal_gives_only_lines_that_were_written(
    where: int, bit: int, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("j") / "trials.jsonl"
    for row in ROWS:
        append_line(path, row)
    assert read_lines(path) == ROWS
    assert damaged_lines(path) == []
    whole = path.read_bytes()
    path.write_bytes(harm(whole, where, bit, cut=cut))
    kept = read_lines(path)
    assert all(row in ROWS for row in kept)
    ends_on_a_line = cut and (where % len(whole) == 0 or whole[: where % len(whole)].endswith((b"\n", b"}")))
    assert len(kept) == len(ROWS) or damaged_lines(path) or ends_on_a_line, "a loss is noticed"


@given(value=st.dictionaries(st.text(min_size=1, max_size=6), VALUES, min_size=1, max_size=5))
@settings(max_examples=60)
def test_what_is_sealed_reads_back(value: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> None:
    value = {k: v for k, v in plain(value).items() if k != "sha256"}
    path = tmp_path_factory.mktemp("s") / "a.json"
    path.write_text(sealed(value), encoding="utf-8")
    assert read_sealed(path) == json.loads(json.dumps(value))


@given(where=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
@settings(max_examples=300)
def test_a_harmed_record_is_refused_or_unchanged(
    where: int, bit: int, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("r") / "step.json"
    value = {"inputs": "ab12", "result": {"value": {"best": 3, "名": "退货"}, "seconds": 1.25}}
    path.write_text(sealed(value), encoding="utf-8")
    path.write_bytes(harm(path.read_bytes(), where, bit, cut=cut))
    try:
        found = read_sealed(path)
    except (Damaged, UnicodeDecodeError):
        return
    found = {k: v for k, v in found.items() if k in value or k not in ("inputs", "result")}
    assert {k: found[k] for k in value} == value, "only the seal's own name was hit: nothing that is used"


def test_records_of_before_there_were_seals_open(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"kind":"session","time":1.0}\n', encoding="utf-8")
    append_line(path, {"kind": "note", "time": 2.0})
    assert [r["kind"] for r in read_lines(path)] == ["session", "note"]
    plain_record = tmp_path / "run.json"
    plain_record.write_text('{"version": 1, "id": "x"}', encoding="utf-8")
    assert read_sealed(plain_record)["id"] == "x"


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    return create(Task(sentence="test", data="a.json"), tmp_path / "run")


def test_a_damaged_step_is_put_aside_told_and_done_again(record: RunRecord) -> None:
    calls: list[int] = []

    def work() -> StepResult:
        calls.append(1)
        return StepResult(value={"n": 7})

    step(record, record.journal, "merge", {"a": 1}, work)
    path = record.folder / "steps" / "merge.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"n": 7', '"n": 8'), encoding="utf-8")
    with pytest.raises(InputError, match=r"merge\.json"):
        record.value("merge")
    assert record.mend() == ["steps/merge.json"]
    assert record.mend() == []
    assert step(record, record.journal, "merge", {"a": 1}, work).value == {"n": 7}
    assert len(calls) == 2
    assert [p.name for p in path.parent.glob("*.damaged-*")] == ["merge.json.damaged-1"], "kept for who wants to look"


def test_a_damaged_plan_is_put_aside_and_the_run_says_which_lines_it_lost(record: RunRecord) -> None:
    record.save_plan(make_plan())
    path = record.folder / "plan" / "1.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"seed": 0', '"seed": 1'), encoding="utf-8")
    record.journal.event("note", text="one")
    record.journal.event("note", text="two")
    journal = record.folder / "events.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"one", b"two"))
    assert record.mend() == ["plan/1.json", "events.jsonl:1"]
    assert record.plans() == []
    assert [e["text"] for e in record.journal.events()] == ["two"]


def test_an_artefact_with_another_content_is_made_again(record: RunRecord) -> None:
    calls: list[int] = []

    def work() -> StepResult:
        calls.append(1)
        made = record.folder / "model.gguf"
        made.write_bytes(b"weights")
        hashes = {made.name: file_sha256(made)}
        return StepResult(value={}, artifacts=(Artifact(path=made.name, kind="gguf", hashes=hashes),))

    step(record, record.journal, "export", {}, work)
    step(record, record.journal, "export", {}, work)
    assert len(calls) == 1
    (record.folder / "model.gguf").write_bytes(b"wexghts")
    step(record, record.journal, "export", {}, work)
    assert len(calls) == 2


def test_a_damaged_run_json_is_an_error_in_words(record: RunRecord) -> None:
    path = record.folder / "run.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"test"', '"tesd"'), encoding="utf-8")
    with pytest.raises(InputError, match=r"run\.json"):
        record.task()
