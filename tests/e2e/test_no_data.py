"""No data at all: once from a hub that offers a poem data set among others, once from a teacher's endpoint."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autoswift.testing.hub import FakeHub
from autoswift.testing.shelf import poem_rows, shelf
from autoswift.testing.teacher_server import MODEL, TeacherServer
from support import SMALL, Cli, lines, tiny_model

pytestmark = pytest.mark.e2e

SENTENCE = "帮我做个会写诗的AI"
POEMS = "classics/tang-poetry-instructions"
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "AUTOSWIFT_OFFLINE")


@dataclass(frozen=True)
class Online(Cli):
    """The command line as a user has it who may ask hubs, whose addresses are given."""

    variables: tuple[tuple[str, str], ...] = ()

    @property
    def env(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in OFFLINE}
        return kept | {"AUTOSWIFT_HOME": str(self.home), "LANG": "zh_CN.UTF-8"} | dict(self.variables)


def ran(cli: Online, out: Path, *more: str) -> Path:
    """A whole run without data; what it printed is the result."""
    arguments = ["run", SENTENCE, "--model", str(tiny_model()), "--out", str(out), "--yes", "--json"]
    budget = ["--budget-trials", "1", "--budget-hours", "0.5", "--target", "none"]
    done = cli(*arguments, *budget, *SMALL, *more)
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
    return out


def source(run: Path) -> Any:
    """Where the data came from, as the run's record says."""
    step = json.loads((run / "steps" / "understand.json").read_text(encoding="utf-8"))
    return step["result"]["value"]["sourced"]


def trained_on(run: Path) -> list[list[dict[str, str]]]:
    """The dialogues of all three splits."""
    return [
        row["messages"] for name in ("train", "validation", "test") for row in lines(run / "data" / f"{name}.jsonl")
    ]


def shown(run: Path) -> str:
    """The report's words."""
    return html.unescape((run / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def from_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, FakeHub]]:
    folder = tmp_path_factory.mktemp("hub")
    with FakeHub(shelf()) as hub:
        cli = Online(folder / "home", tuple(hub.environment().items()))
        yield ran(cli, folder / "run"), hub


@pytest.fixture(scope="module")
def from_teacher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, TeacherServer, Online]]:
    folder = tmp_path_factory.mktemp("teacher")
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "MODELSCOPE_ENDPOINT": "http://127.0.0.1:9"}
    with TeacherServer() as server:
        cli = Online(folder / "home", tuple((nowhere | server.environment()).items()))
        yield ran(cli, folder / "run", "--set", "teacher_rows=80"), server, cli


def test_the_poems_are_found_among_the_others(from_hub: tuple[Path, FakeHub]) -> None:
    run, _ = from_hub
    found = source(run)
    assert found["kind"] == "hub"
    assert found["origin"].endswith(POEMS)
    assert (found["licence"], found["commercial"]) == ("cc0-1.0", "yes")
    known = {(row["instruction"], row["output"]) for row in poem_rows()}
    dialogues = trained_on(run)
    assert len(dialogues) > 150
    assert {(d[-2]["content"], d[-1]["content"]) for d in dialogues} <= known
    proposed = [e for e in lines(run / "events.jsonl") if e["kind"] == "source" and e["state"] == "proposed"]
    assert proposed[0]["candidates"][0]["id"] == POEMS
    assert {one["reference"].partition("://")[2] for one in proposed[0]["rejected"]} >= {"oldstyle/poetry-loader"}


def test_nothing_but_data_came_from_the_hub(from_hub: tuple[Path, FakeHub]) -> None:
    run, hub = from_hub
    fetched = [path for path, _, _ in hub.asked if "/resolve/" in path or "FilePath=" in path or "/cdn/" in path]
    assert fetched
    assert all("train.jsonl" in path for path in fetched)
    assert not list((run.parent / "home").rglob("*.py"))
    assert SENTENCE not in str(hub.asked)


def test_the_report_says_where_the_data_came_from(from_hub: tuple[Path, FakeHub]) -> None:
    run, _ = from_hub
    text = shown(run)
    for words in (POEMS, "cc0-1.0", source(run)["samples"][0]["instruction"], "verse/english-poems"):
        assert words in text
    first = json.loads((run / "plan" / "1.json").read_text(encoding="utf-8"))
    decided = {d["name"]: d for d in first["decisions"]}
    assert decided["data"]["value"] == source(run)["origin"]


def test_a_teacher_makes_the_data(from_teacher: tuple[Path, TeacherServer, Online]) -> None:
    run, server, _ = from_teacher
    found = source(run)
    assert (found["kind"], found["origin"]) == ("teacher", f"teacher://{MODEL}")
    assert found["details"]["kept"] >= 80
    assert sum(found["details"]["questions"].values()) == server.asked.total()
    made = {(r["messages"][0]["content"], r["messages"][1]["content"]) for r in lines(run / "data/teacher_rows.jsonl")}
    dialogues = trained_on(run)
    assert len(dialogues) > 60
    assert {(d[-2]["content"], d[-1]["content"]) for d in dialogues} <= made
    thrown = lines(run / "data" / "teacher_thrown.jsonl")
    assert len(thrown) == sum(found["thrown_away"].values()) > 5
    bad = {row["answer"] for row in thrown if row["answer"]}
    assert not bad & {d[-1]["content"] for d in dialogues}


def test_the_report_shows_what_was_thrown_away(from_teacher: tuple[Path, TeacherServer, Online]) -> None:
    run, _, _ = from_teacher
    text, found = shown(run), source(run)
    assert MODEL in text
    assert found["samples"][0]["messages"][0]["content"] in text
    for examples in found["details"]["thrown_examples"].values():
        assert examples[0]["instruction"][:20] in text


def test_a_resume_asks_the_teacher_nothing(from_teacher: tuple[Path, TeacherServer, Online]) -> None:
    run, server, cli = from_teacher
    asked = server.asked.total()
    (run / "steps" / "understand.json").unlink()
    (run / "steps" / "train.json").unlink()
    done = cli("resume", str(run), "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert server.asked.total() == asked


def test_without_hub_and_teacher_it_says_what_to_do(tmp_path: Path) -> None:
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "MODELSCOPE_ENDPOINT": "http://127.0.0.1:9"}
    cli = Online(tmp_path / "home", tuple(nowhere.items()))
    done = cli("run", SENTENCE, "--yes", "--json", "--model", str(tiny_model()), "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    said = json.loads(done.stdout or done.stderr)
    assert "AUTOSWIFT_TEACHER_BASE_URL" in json.dumps(said)
    assert not (tmp_path / "run").exists()


def test_a_named_set_is_taken(tmp_path: Path) -> None:
    with FakeHub(shelf()) as hub:
        cli = Online(tmp_path / "home", tuple(hub.environment().items()))
        done = cli("data", f"hf://{POEMS}", "--json")
        assert done.returncode == 0, done.stderr
        profile = json.loads(done.stdout)
        assert profile["conversations"] > 150
        assert profile["first"]["user"] == poem_rows()[0]["instruction"]
