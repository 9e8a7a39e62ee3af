"""The store: what comes back, what it survives, what it forgets."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from knowledge_runs import TASK, entries, entry, fingerprints, trial
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from autoswift.errors import InputError
from autoswift.knowledge import store
from autoswift.knowledge.entry import RunEntry, TrialRow, body_of
from autoswift.knowledge.likeness import packed, sentence_likeness, similarity, unpacked
from autoswift.knowledge.schema import first_table, tables
from autoswift.knowledge.store import all_entries, feedback, forget, forget_all, get, keep_all, read, record, similar

OLD = Path(__file__).parent / "knowledge_v1.db"
"""Written by the first version: two runs, one of a model in somebody's folder."""


def test_an_entry_comes_back_as_it_was() -> None:
    one = entry("20260101-000000-aaaa")
    record(one)
    assert all_entries() == [one]
    assert get("20260101") == one


@given(st.lists(entries, max_size=5, unique_by=lambda one: one.run_id))
@settings(max_examples=12)
def test_whatever_has_a_place_comes_back(brought: list[RunEntry]) -> None:
    forget_all()
    keep_all(brought)
    assert sorted(all_entries(), key=lambda one: one.run_id) == sorted(brought, key=lambda one: one.run_id)
    assert forget_all() == len(brought)
    assert all_entries() == []


def test_the_same_run_again_replaces_its_entry() -> None:
    record(entry("a"))
    record(replace(entry("a"), tuned=40.0))
    assert [one.tuned for one in all_entries()] == [40.0]


def test_a_later_word_on_a_run_is_what_counts() -> None:
    record(entry("a"))
    feedback("a", "vetoed", 5.0)
    assert (get("a").verdict, get("a").updated, get("a").trials) == ("vetoed", 5.0, entry("a").trials)
    with pytest.raises(InputError, match="Nothing is kept"):
        feedback("b", "vetoed", 5.0)


def test_numbers_that_are_not_finite_are_kept_as_absent() -> None:
    record(replace(entry("a"), base=float("nan"), trials=(trial(1.0, float("inf")),)))
    (one,) = all_entries()
    assert one.base is None
    assert one.trials[0].score is None


@pytest.mark.parametrize(
    "wrong",
    [
        replace(entry("a"), fingerprint=replace(TASK, domain="a sentence of the user's")),
        replace(entry("a"), fingerprint=replace(TASK, model="/home/somebody/model")),
        replace(entry("a"), fingerprint=replace(TASK, device="x\n")),
        replace(entry("a"), best={"path": "/etc/passwd"}),
        replace(entry("a"), best={"Not A Name": 1}),
        replace(entry("a"), trials=(TrialRow(parameters={"learning_rate": [1]}),)),  # type: ignore[dict-item]
        replace(entry("a"), trials=(TrialRow(parameters={}, curve=((1, None, None, None),) * 33),)),
        replace(entry("a"), run_id="../a"),
    ],
)
def test_what_has_no_place_is_refused(wrong: RunEntry) -> None:
    with pytest.raises(InputError, match="cannot be kept"):
        record(wrong)
    assert all_entries() == []


def test_entries_are_listed_newest_first_and_forgotten() -> None:
    record(entry("old", created=1.0))
    record(entry("new", created=2.0))
    assert [one.run_id for one in all_entries()] == ["new", "old"]
    assert [one.run_id for one in read(limit=1).entries] == ["new"]
    assert [one.run_id for one in read(goal="classification").entries] == []
    assert forget("new")
    assert not forget("new")
    assert [one.run_id for one in all_entries()] == ["old"]


def test_forgetting_leaves_no_trace_in_the_files(autoswift_home: Path) -> None:
    mark = replace(TASK, device="SecretDevice", model="SecretModel")
    keep_all([replace(entry(f"secret-{n}"), fingerprint=mark) for n in range(20)] + [entry("kept")])
    held = lambda: b"".join(p.read_bytes() for p in autoswift_home.glob("knowledge.db*"))  # noqa: E731
    assert b"SecretDevice" in held()
    for n in range(20):
        assert forget(f"secret-{n}")
    assert b"Secret" not in held()
    assert b"secret-" not in held()
    assert [one.run_id for one in all_entries()] == ["kept"]


def test_reading_makes_nothing(autoswift_home: Path) -> None:
    assert read() == store.Memory()
    assert not forget("a")
    assert list(autoswift_home.iterdir()) == []


def test_the_most_alike_comes_first() -> None:
    record(entry("same"))
    record(entry("smaller", parameters=1_543_714_304))
    record(entry("other-domain", domain="legal", rows=100_000))
    record(entry("other-goal", goal="classification"))
    record(entry("images", modality="image"))
    found = similar(TASK, limit=10)
    assert [one.run_id for one, _ in found] == ["same", "smaller", "other-domain"]
    assert found[0][1] == 1.0
    assert len(similar(TASK, limit=2)) == 2


def test_what_is_not_known_yet_is_left_out_of_the_comparison() -> None:
    early = replace(TASK, parameters=0, method="", model="", device="", tokens_mean=0.0)
    assert similarity(early, TASK) == 1.0


@given(fingerprints, fingerprints)
def test_likeness_is_symmetric_bounded_and_one_for_the_same(one: store.Fingerprint, other: store.Fingerprint) -> None:
    assert similarity(one, other) == pytest.approx(similarity(other, one))
    assert 0.0 <= similarity(one, other) <= 1.0
    assert similarity(one, one) == pytest.approx(1.0)


def test_sentences_are_compared_by_their_embeddings() -> None:
    import numpy as np

    axes = np.eye(512, dtype=np.float32)
    marks = [replace(TASK, encoder="e", embedding=packed(v)) for v in (axes[0], axes[1], 0.6 * axes[0] + 0.8 * axes[1])]
    assert sentence_likeness(marks[0], marks[0]) == 1.0
    assert sentence_likeness(marks[0], marks[1]) == 0.0
    assert 0.0 < (sentence_likeness(marks[0], marks[2]) or 0.0) < 1.0
    assert similarity(marks[0], marks[0]) > similarity(marks[0], marks[2]) > similarity(marks[0], marks[1])
    assert sentence_likeness(marks[0], replace(marks[0], encoder="other")) is None
    assert unpacked("AAA=") is None
    assert unpacked("AH4=") is None  # NaN
    record(replace(entry("a"), fingerprint=marks[0]))
    assert get("a").fingerprint == marks[0]


def test_a_damaged_row_is_named_and_left_out(autoswift_home: Path) -> None:
    for name in ("good", "edited", "moved", "broken"):
        record(entry(name))
    with sqlite3.connect(autoswift_home / "knowledge.db") as raw:
        raw.execute("UPDATE entries SET body = replace(body, '31.25', '99.25') WHERE run_id = 'edited'")
        raw.execute("UPDATE entries SET goal = 'reasoning' WHERE run_id = 'moved'")
        raw.execute("UPDATE entries SET body = 'x' WHERE run_id = 'broken'")
    raw.close()
    memory = read()
    assert [one.run_id for one in memory.entries] == ["good"]
    assert memory.damaged == ("broken", "edited", "moved")
    assert forget("edited")
    assert read().damaged == ("broken", "moved")


def test_a_damaged_database_is_explained(autoswift_home: Path) -> None:
    (autoswift_home / "knowledge.db").write_bytes(b"this is no database, but long enough to look like one" * 100)
    for act in (all_entries, lambda: record(entry("a")), lambda: similar(TASK), lambda: forget("a")):
        with pytest.raises(InputError, match="not a database") as caught:
            act()
        assert "knowledge.db" in caught.value.fix


def test_a_locked_database_is_explained(autoswift_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(entry("a"))
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.05)
    store._engine.cache_clear()
    other = sqlite3.connect(autoswift_home / "knowledge.db")
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(InputError, match="locked") as caught:
            record(entry("b"))
        assert "Try again" in caught.value.fix
        assert [one.run_id for one in all_entries()] == ["a"]  # reading goes on
    finally:
        other.close()
        store._engine.cache_clear()
    record(entry("b"))


def test_a_home_that_cannot_be_written(autoswift_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = autoswift_home / "file"
    blocked.write_text("")
    monkeypatch.setenv("AUTOSWIFT_HOME", str(blocked / "below"))
    with pytest.raises(InputError):
        record(entry("a"))


def test_a_file_that_may_only_be_read(autoswift_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(entry("a"))
    path = autoswift_home / "knowledge.db"
    monkeypatch.setenv("AUTOSWIFT_KNOWLEDGE_URL", f"sqlite:///file:{path}?mode=ro&uri=true")
    assert [one.run_id for one in all_entries()] == ["a"]
    with pytest.raises(InputError, match="readonly"):
        record(entry("b"))


def test_a_driver_that_is_not_installed_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSWIFT_KNOWLEDGE_URL", "postgresql+no_such_driver://somebody:secret@nowhere/knowledge")
    with pytest.raises(InputError) as caught:
        all_entries()
    assert "secret" not in f"{caught.value.what} {caught.value.why} {caught.value.fix}"


def test_what_the_first_version_kept_is_read_and_moved_by_the_next_writer(autoswift_home: Path) -> None:
    path = autoswift_home / "knowledge.db"
    shutil.copy(OLD, path)
    before = all_entries()
    assert [one.run_id for one in before] == ["20260902-090000-c3d4", "20260901-101500-a1b2"]
    assert _names(path) == {"runs"}, "reading changed it"
    record(entry("new"))
    assert [one for one in all_entries() if one.run_id != "new"] == before
    assert "runs" not in _names(path)
    assert "entries" in _names(path)
    finance, shop = before
    assert finance.fingerprint.model == "mine", "no path of the user's is kept"
    assert finance.trials[0].prior == {}, "its second trial was no multiple of the rule's: the rule is not known"
    assert [row.score for row in shop.trials] == [9.5, 12.25, None, 12.0], "the final training is no trial"
    assert shop.trials[2].symptom == "nan"
    assert all(row.prior["learning_rate"] == 0.00071 for row in shop.trials)


def test_a_damaged_row_of_the_first_version_is_left_out(autoswift_home: Path) -> None:
    path = autoswift_home / "knowledge.db"
    shutil.copy(OLD, path)
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE runs SET trials = 'x' WHERE goal = 'chat'")
    raw.close()
    assert read().damaged == ("20260901-101500-a1b2",)
    assert len(read().entries) == 1
    assert forget("20260902-090000-c3d4")
    assert all_entries() == []


def _names(path: Path) -> set[str]:
    with sqlite3.connect(path) as raw:
        found = {name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    raw.close()
    return found


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from knowledge_runs import entry
from autoswift.knowledge.store import record
for n in range(8):
    record(entry(f"{sys.argv[2]}-{n}"))
"""


def test_several_processes_write_at_once(autoswift_home: Path) -> None:
    shutil.copy(OLD, autoswift_home / "knowledge.db")  # the first of them moves the old table
    here = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    children = [
        subprocess.Popen([sys.executable, "-c", WRITER, here, name], stderr=subprocess.PIPE, env=environment)
        for name in ("one", "two", "three")
    ]
    for child in children:
        _, told = child.communicate(timeout=60)
        assert child.returncode == 0, told.decode()
    assert len(all_entries()) == 2 + 3 * 8
    assert read().damaged == ()


def test_the_tables_and_queries_compile_for_postgresql() -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    _, table = tables()
    made = str(CreateTable(table).compile(dialect=dialect))
    assert "body TEXT NOT NULL" in made
    assert "PRIMARY KEY (run_id)" in made
    for index in table.indexes:
        assert index.name
    asked = str(table.select().where(table.c.goal == "chat").limit(3).compile(dialect=dialect))
    assert "LIMIT" in asked
    assert "runs" in str(CreateTable(first_table()).compile(dialect=dialect))


def test_only_words_counts_and_settings_have_a_place() -> None:
    _, table = tables()
    assert {c.name for c in table.columns} == {
        "run_id", "version", "created", "goal", "modality", "metric", "digest", "body",
    }  # fmt: skip
    long = max((word for word in body_of(entry("a")).split('"') if word.isalpha()), key=len)
    assert len(long) < 20


def test_damaged_rows_are_put_aside_when_the_database_is_next_written_to(autoswift_home: Path) -> None:
    path = autoswift_home / "knowledge.db"
    for name in ("good", "edited"):
        record(entry(name))
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE entries SET body = replace(body, '31.25', '99.25') WHERE run_id = 'edited'")
    raw.close()
    assert read().damaged == ("edited",), "told where it is read"
    record(entry("next"))
    assert read().damaged == ()
    assert sorted(one.run_id for one in all_entries()) == ["good", "next"]
    with sqlite3.connect(path) as raw:
        kept = raw.execute("SELECT run_id, row FROM damaged").fetchall()
    raw.close()
    assert [(run, "99.25" in row) for run, row in kept] == [("edited", True)], "kept for who wants to look"
    assert forget("edited"), "and forgotten with the rest"
    assert b"99.25" not in path.read_bytes()


def test_damaged_rows_of_the_first_version_outlive_its_table(autoswift_home: Path) -> None:
    path = autoswift_home / "knowledge.db"
    shutil.copy(OLD, path)
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE runs SET trials = 'x' WHERE goal = 'chat'")
    raw.close()
    record(entry("new"))
    assert "runs" not in _names(path)
    with sqlite3.connect(path) as raw:
        kept = [run for (run,) in raw.execute("SELECT run_id FROM damaged")]
    raw.close()
    assert kept == ["20260901-101500-a1b2"]


def test_a_row_that_its_columns_hide_is_told_of(autoswift_home: Path) -> None:
    """Planning asks for one goal: a row whose column was hit must not just be missing."""
    record(entry("a"))
    with sqlite3.connect(autoswift_home / "knowledge.db") as raw:
        raw.execute("UPDATE entries SET goal = 'chaT'")
    raw.close()
    assert read("chat", "text").damaged == ("a",)
    assert read("classification").damaged == ()
