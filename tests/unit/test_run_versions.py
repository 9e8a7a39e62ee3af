"""Run folders of every earlier shape open, are complete, and can be gone on with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from autoswift.cli.show import as_value
from autoswift.errors import InputError
from autoswift.run.clock import seconds_spent
from autoswift.run.files import damaged_lines, read_sealed
from autoswift.run.record import RunRecord
from autoswift.search.history import rebuild

RECORDS = Path(__file__).parents[1] / "records"
SHAPES = {
    # name: state, trials with an end, plans, seconds on the clock
    "plain-partial": ("partial", 1, 2, 361.4),
    "sealed-interrupted": ("interrupted", 1, 2, 357.3),
    "ticks-done": ("done", 5, 2, 1.1),
}


@pytest.fixture(params=sorted(SHAPES))
def old(request: pytest.FixtureRequest, tmp_path: Path) -> RunRecord:
    return RunRecord(Path(shutil.copytree(RECORDS / request.param, tmp_path / request.param)))


def test_the_asset_list_is_whole() -> None:
    assert {p.name for p in RECORDS.iterdir() if p.is_dir()} == set(SHAPES)


def test_it_opens_and_says_what_it_said(old: RunRecord) -> None:
    state, trials, plans, seconds = SHAPES[old.folder.name]
    assert old.mend() == []
    assert old.state()["state"] == state
    assert old.task().sentence
    assert len(old.plans()) == plans
    history = rebuild(old.journal.trials())
    assert sum(trial.done for trial in history.values()) == trials
    assert all(trial.device_seconds >= 0 for trial in history.values())
    assert seconds_spent(old.journal.events()) == pytest.approx(seconds, abs=0.5)
    shown = as_value(old)
    assert shown["state"] == state


def test_it_is_gone_on_with_in_todays_shape(old: RunRecord) -> None:
    """A resume appends to old journals and writes beside old files; nothing old is lost by that."""
    before = old.journal.events()
    steps = {path.stem: old.step(path.stem) for path in old.folder.glob("steps/*.json")}
    old.journal.event("session", pid=1, version="later")
    old.journal.event("note", text="gone on with")
    old.update(stage="search")
    assert old.journal.events()[: len(before)] == before
    assert damaged_lines(old.folder / "events.jsonl") == []
    assert read_sealed(old.folder / "run.json")["stage"] == "search"
    assert {name: old.step(name) for name in steps} == steps
    assert old.mend() == []


def test_a_version_to_come_is_refused_in_words(tmp_path: Path) -> None:
    later = RunRecord(Path(shutil.copytree(RECORDS / "ticks-done", tmp_path / "run")))
    later.update(version=99)
    with pytest.raises(InputError, match="99"):
        later.task()
