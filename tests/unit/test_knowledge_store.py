from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.errors import InputError
from autoswift.knowledge import store
from autoswift.knowledge.store import Fingerprint, RunEntry, all_entries, forget, record, similar, similarity

TASK = Fingerprint(
    goal="chat",
    language="zh",
    domain="medical",
    rows=1000,
    tokens_mean=200.0,
    model="qwen2.5-7b-instruct",
    parameters=7_615_616_512,
    method="lora",
    device="cuda A100",
)


def entry(run_id: str, created: float = 1.0, **changes: object) -> RunEntry:
    return RunEntry(
        run_id=run_id,
        created=created,
        fingerprint=replace(TASK, **changes),
        best={"learning_rate": 2e-4, "lora_rank": 16},
        metric="chrf",
        base=20.5,
        tuned=31.25,
        trials=({"parameters": {"learning_rate": 1e-4}, "metric": 30.0, "status": "finished"},),
        device_seconds=1234.5,
    )


def test_an_entry_comes_back_as_it_was():
    one = entry("20260101-000000-aaaa")
    record(one)
    assert all_entries() == [one]


def test_the_same_run_again_replaces_its_entry():
    record(entry("a"))
    record(replace(entry("a"), tuned=40.0))
    assert [one.tuned for one in all_entries()] == [40.0]


def test_values_that_are_not_finite_are_kept_as_absent():
    record(replace(entry("a"), base=float("nan"), trials=({"metric": float("inf"), "status": "failed"},)))
    (one,) = all_entries()
    assert one.base is None
    assert one.trials[0]["metric"] is None


def test_entries_are_listed_newest_first_and_forgotten():
    record(entry("old", created=1.0))
    record(entry("new", created=2.0))
    assert [one.run_id for one in all_entries()] == ["new", "old"]
    assert forget("new")
    assert not forget("new")
    assert [one.run_id for one in all_entries()] == ["old"]


def test_the_most_alike_comes_first():
    record(entry("same"))
    record(entry("smaller", parameters=1_543_714_304))
    record(entry("other domain", domain="legal"))
    record(entry("other goal", goal="classification", language="en", domain="finance", parameters=100_000_000))
    record(entry("images", modality="image"))
    found = similar(TASK, limit=10)
    assert [one.run_id for one, _ in found][:3] == ["same", "smaller", "other domain"]
    assert found[0][1] == 1.0
    assert "images" not in {one.run_id for one, _ in found}
    assert len(similar(TASK, limit=2)) == 2


def test_what_is_not_known_yet_is_left_out_of_the_comparison():
    early = replace(TASK, parameters=0, method="", model="", device="", tokens_mean=0.0)
    assert similarity(early, TASK) == 1.0


fingerprints = st.builds(
    Fingerprint,
    goal=st.sampled_from(["chat", "classification"]),
    language=st.sampled_from(["zh", "en", "mixed"]),
    domain=st.sampled_from(["medical", "legal"]),
    modality=st.sampled_from(["text", "image"]),
    rows=st.integers(0, 10**7),
    tokens_mean=st.floats(0, 1e5),
    parameters=st.integers(0, 10**12),
    method=st.sampled_from(["", "lora", "full"]),
)


@given(fingerprints, fingerprints)
def test_likeness_is_symmetric_bounded_and_one_for_the_same(one, other):
    assert similarity(one, other) == pytest.approx(similarity(other, one))
    assert 0.0 <= similarity(one, other) <= 1.0
    assert similarity(one, one) == pytest.approx(1.0)


def test_only_words_counts_and_settings_have_a_place():
    _, runs = store._schema()
    assert {column.name for column in runs.columns} == {
        "run_id", "version", "created", "goal", "language", "domain", "modality", "model", "method", "device", "rows",
        "tokens_mean", "parameters", "best", "metric", "base", "tuned", "trials", "device_seconds",
    }  # fmt: skip


def test_a_damaged_database_is_explained(autoswift_home):
    (autoswift_home / "knowledge.db").write_bytes(b"this is no database, but long enough to look like one" * 100)
    for act in (all_entries, lambda: record(entry("a")), lambda: similar(TASK), lambda: forget("a")):
        with pytest.raises(InputError, match="not a database") as caught:
            act()
        assert "knowledge.db" in caught.value.fix


def test_a_locked_database_is_explained(autoswift_home, monkeypatch):
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


def test_a_home_that_cannot_be_written(autoswift_home, monkeypatch):
    blocked = autoswift_home / "file"
    blocked.write_text("")
    monkeypatch.setenv("AUTOSWIFT_HOME", str(blocked / "below"))
    with pytest.raises(InputError):
        record(entry("a"))
