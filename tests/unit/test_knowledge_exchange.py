"""Out and in again: the same, all or nothing, and nothing but numbers and words of fixed lists."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from knowledge_runs import entries, entry
from typer.testing import CliRunner

from autoswift.cli.app import app
from autoswift.errors import InputError
from autoswift.knowledge import exchange
from autoswift.knowledge.entry import RunEntry
from autoswift.knowledge.exchange import Imported, export_to, import_from
from autoswift.knowledge.store import all_entries, forget_all, get, keep_all, record

NOW = 2e9


def call(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


@given(st.lists(entries, min_size=1, max_size=4, unique_by=lambda one: one.run_id))
@settings(max_examples=12)
def test_out_in_and_out_again_is_the_same(tmp_path: Path, brought: list[RunEntry]) -> None:
    path = tmp_path / "k.jsonl"
    forget_all()
    keep_all(brought)
    text, count = export_to(path)
    assert count == len(brought)
    assert import_from(path, NOW) == Imported(added=0, updated=0, unchanged=count)
    forget_all()
    assert import_from(path, NOW) == Imported(added=count, updated=0, unchanged=0)
    assert import_from(path, NOW) == Imported(added=0, updated=0, unchanged=count)
    assert export_to(None) == (text, count)


def test_of_two_states_of_a_run_the_later_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "k.jsonl"
    record(replace(entry("a"), updated=7.0, verdict="vetoed"))
    export_to(path)
    record(replace(entry("a"), updated=6.0))
    assert import_from(path) == Imported(added=0, updated=1, unchanged=0)
    assert get("a").verdict == "vetoed"
    record(replace(entry("a"), updated=8.0))
    assert import_from(path) == Imported(added=0, updated=0, unchanged=1)
    assert get("a").verdict == "better"


def _changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[str], str]:
    def made(line: str) -> str:
        value = json.loads(line)
        change(value)
        return json.dumps(value)

    return made


BAD: dict[str, tuple[Callable[[str], str], str]] = {
    "not JSON": (lambda line: line[:-3], "JSON"),
    "no object": (lambda line: "[1]", "object"),
    "nested": (lambda line: "[" * 10_000 + "]" * 10_000, ""),
    "another version": (_changed(lambda v: v.update(schema_version=3)), "schema_version"),
    "an unknown field": (_changed(lambda v: v["entry"].update(run="rm -rf /")), "Unexpected"),
    "an unknown field deep in": (_changed(lambda v: v["entry"]["trials"][0].update(code="x")), "trials"),
    "another digest": (_changed(lambda v: v["entry"].update(tuned=99.0)), "digest"),
    "a number as text": (_changed(lambda v: v["entry"].update(tuned="31.25")), "tuned"),
    "NaN": (lambda line: line.replace("31.25", "NaN"), "finite"),
    "infinity": (lambda line: line.replace("31.25", "1e999"), "tuned"),
    "a path": (_changed(lambda v: v["entry"]["fingerprint"].update(model="../../etc/passwd")), "model"),
    "a path as a setting": (_changed(lambda v: v["entry"]["best"].update(adapter="/tmp/x.pkl")), "best"),
    "a sentence": (_changed(lambda v: v["entry"]["fingerprint"].update(domain="my own words")), "domain"),
    "control characters": (_changed(lambda v: v["entry"]["fingerprint"].update(device="a\x1b[2J")), "device"),
    "a curve too long": (
        _changed(lambda v: v["entry"]["trials"][0].update(curve=[[1, 1.0, None, None]] * 33)),
        "curve",
    ),
    "too many trials": (_changed(lambda v: v["entry"].update(trials=v["entry"]["trials"] * 200)), "trials"),
    "too many settings": (_changed(lambda v: v["entry"].update(best={f"a{n}": 1 for n in range(33)})), "best"),
    "the same run twice": (lambda line: line.replace('"b"', '"a"'), ""),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named_and_nothing_is_taken_in(tmp_path: Path, name: str) -> None:
    spoil, told = BAD[name]
    path = tmp_path / "k.jsonl"
    keep_all([entry("a", created=1.0), entry("b", created=2.0)])
    first, second = export_to(None)[0].splitlines()
    forget_all()
    path.write_text(f"{first}\n\n{spoil(second)}\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        import_from(path)
    assert f"{path}:3" in caught.value.what
    assert told in caught.value.what
    assert len(caught.value.what) < 700
    assert all_entries() == []
    done = call("knowledge", "import", str(path), "--json")
    assert done.exit_code == 2
    assert json.loads(done.stdout)["error"] == "InputError"


def test_the_same_run_twice_with_its_own_digest_is_refused(tmp_path: Path) -> None:
    record(entry("a"))
    path = tmp_path / "k.jsonl"
    path.write_text(export_to(None)[0] * 2, encoding="utf-8")
    with pytest.raises(InputError, match="twice"):
        import_from(path)


def test_an_entry_from_the_future_is_refused(tmp_path: Path) -> None:
    record(replace(entry("a"), updated=NOW + 90_000))
    path = tmp_path / "k.jsonl"
    export_to(path)
    with pytest.raises(InputError, match="future"):
        import_from(path, NOW)


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(entry("a"))
    path = tmp_path / "k.jsonl"
    export_to(path)
    monkeypatch.setattr(exchange, "LONGEST_LINE", 100)
    with pytest.raises(InputError, match="100 bytes"):
        import_from(path)
    monkeypatch.setattr(exchange, "LARGEST_FILE", 100)
    with pytest.raises(InputError, match="larger"):
        import_from(path)
    for odd in (tmp_path, tmp_path / "absent.jsonl"):
        with pytest.raises(InputError):
            import_from(odd)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="no entry"):
        import_from(tmp_path / "empty.jsonl")


def test_a_place_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    record(entry("a"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError):
        export_to(tmp_path / "file" / "k.jsonl")


def test_the_command_line_lists_shows_hands_on_and_forgets(tmp_path: Path) -> None:
    path = str(tmp_path / "k.jsonl")
    keep_all([entry("run-a"), entry("run-b", created=2.0)])
    assert "run-a" in call("knowledge").stdout
    assert [row["run_id"] for row in json.loads(call("knowledge", "list", "--json").stdout)] == ["run-b", "run-a"]
    shown = json.loads(call("knowledge", "show", "run-b", "--json").stdout)
    assert shown["trials"][0]["prior"]["learning_rate"] == 2e-4
    assert "better than its base" in call("knowledge", "show", "run-b").stdout
    assert "优于基座模型" in call("knowledge", "show", "run-b", "--lang", "zh").stdout
    assert len(call("knowledge", "export").stdout.splitlines()) == 2
    assert json.loads(call("knowledge", "export", path, "--json").stdout) == {"exported": 2, "path": path}
    assert json.loads(call("knowledge", "forget", "run-a", "--json").stdout) == {"forgotten": "run-a"}
    assert json.loads(call("knowledge", "import", path, "--json").stdout) == {
        "added": 1, "updated": 0, "unchanged": 1,
    }  # fmt: skip
    assert "Forgot" in call("knowledge", "forget", "run-b").stdout
    assert json.loads(call("knowledge", "forget", "--all", "--json").stdout) == {"forgotten": 1}
    assert json.loads(call("knowledge", "--json").stdout) == []


@pytest.mark.parametrize(
    "words",
    [("burn",), ("show",), ("show", "x"), ("import",), ("forget",), ("forget", "x"), ("forget", "x", "--all"),
     ("list", "--all"), ("import", "/no/such/file")],
)  # fmt: skip
def test_what_cannot_be_done_ends_with_2(words: tuple[str, ...]) -> None:
    assert call("knowledge", *words).exit_code == 2


def test_several_runs_with_the_same_beginning_are_told() -> None:
    keep_all([entry("run-a"), entry("run-b")])
    done = call("knowledge", "show", "run")
    assert done.exit_code == 2
    assert json.loads(call("knowledge", "forget", "run-", "--json").stdout)["error"] == "InputError"
    assert len(all_entries()) == 2
