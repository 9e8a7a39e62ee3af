"""Every file that people have is read as it is meant, and every broken one says what is wrong and where."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from data_files import BAD, GOOD, Bad, Good, first, jsonl, parquet, put, read_as, table, workbook, zipped

from autoswift.domain.profile import Problem
from autoswift.errors import DataError
from autoswift.understand.data import inspect
from autoswift.understand.names import split_name
from autoswift.understand.reader import Limits, open_source


def names(files: list[Any]) -> list[str]:
    return [f"{one.name}-{i}" for i, one in enumerate(files)]


@pytest.fixture
def nothing_else(tmp_path: Path) -> Any:
    """A folder to work in; afterwards nothing was written beside what the test put there."""
    folder = tmp_path / "given"
    before = set(os.listdir(tmp_path)) | {"given"}
    yield folder
    assert set(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("one", GOOD, ids=names(GOOD))
def test_a_good_file_is_read_as_it_is_meant(nothing_else: Path, one: Good) -> None:
    path = put(nothing_else, one)
    source, shape, rows = read_as(path, one.columns)
    assert (source.format, shape.task, len(rows)) == (one.format, one.task, one.rows)
    assert one.shape in (None, shape.name)
    assert (first(rows[0], "user"), first(rows[0], "assistant")) == (one.user, one.assistant)
    said = {p.kind for p in source.findings.problems}
    assert one.kinds <= said
    assert said - one.kinds <= {"encoding_found", "hidden_skipped", "files_skipped", "sheet_formulas"}
    assert len(source.sha256) == 64


@pytest.mark.parametrize("one", GOOD, ids=names(GOOD))
def test_a_good_file_comes_through_all_of_the_preparation(nothing_else: Path, one: Good) -> None:
    profile, parts = inspect(put(nothing_else, one), one.columns, 0)
    assert (profile.format.split("/")[0], profile.task, profile.conversations) == (one.format, one.task, one.rows)
    assert (profile.first.get("user", ""), profile.first.get("assistant", "")) == (one.user or "", one.assistant or "")
    assert sum(map(len, parts.values())) == one.rows


@pytest.mark.parametrize("one", BAD, ids=names(BAD))
def test_a_bad_file_says_what_is_wrong_and_where(nothing_else: Path, one: Bad) -> None:
    path = put(nothing_else, one)
    begin = time.monotonic()
    problems: tuple[Any, ...]
    saved = None
    try:
        if one.whole:
            profile, _ = inspect(path, one.columns, 0)
            problems, saved = profile.problems, profile.conversations
        else:
            source = open_source(path, one.columns)
            saved = sum(1 for _ in source)
            problems = tuple(source.findings.problems)
    except DataError as exc:
        problems = exc.problems
    assert time.monotonic() - begin < 10
    found = next((p for p in problems if (p.kind, p.severity) == (one.kind, one.severity)), None)
    assert isinstance(found, Problem), [(p.kind, p.line) for p in problems]
    assert found.message
    assert found.fix
    assert found.file.startswith(str(path))
    if one.line is not None:
        assert found.line == one.line
    assert (found.column, found.member) == (one.column, one.member)
    if one.saved is None:
        assert saved is None
    elif one.kind == "damaged_archive":
        assert saved is not None
        assert saved > 100
    else:
        assert saved == one.saved


def test_there_are_sixty_files_and_more() -> None:
    assert len(GOOD) + len(BAD) >= 60
    assert len({one.kind for one in BAD}) >= 25


def test_a_second_reading_gives_the_same_and_reports_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": "x"}\nbroken\n{"a": NaN}\n{"a": "y"}\n', encoding="utf-8")
    source = open_source(path)
    for _ in source:  # a look at the beginning only
        break
    once = list(source)
    said = list(source.findings.problems)
    assert list(source) == once
    assert source.findings.problems == said
    assert [(p.kind, p.line) for p in said] == [("corrupt_json_line", 2), ("nan_infinity", 3)]
    assert source.lost == {"corrupt_json_line": 1}
    assert [(r.line, r.row) for r in once] == [(1, 1), (3, 3), (4, 4)]


def test_lines_are_right_in_every_format(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": f"a\n{i}"} for i in range(5)]
    cells = [(r["question"], r["answer"]) for r in rows]
    files: dict[str, tuple[bytes, list[int | None]]] = {
        "a.jsonl": (("\n\n" + jsonl(rows)).encode(), [3, 4, 5, 6, 7]),
        "a.json": (json.dumps(rows, indent=2).encode(), [2, 6, 10, 14, 18]),
        "b.json": (("\n" + json.dumps({"data": rows}, indent=2)).encode(), [4, 8, 12, 16, 20]),
        "a.csv": (table(["question", "answer"], cells).encode(), [2, 4, 6, 8, 10]),
        "a.xlsx": (workbook({"s": [("title",), ("question", "answer"), *cells]}), [3, 4, 5, 6, 7]),
        "a.parquet": (parquet({"question": [c[0] for c in cells], "answer": [c[1] for c in cells]}), [None] * 5),
        "a.txt": ("".join(f"Q: q{i}\nA: a\n{i}\n\n" for i in range(5)).encode(), [1, 5, 9, 13, 17]),
    }
    for name, (data, lines) in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        records = list(open_source(path))
        assert [(r.line, r.row) for r in records] == list(zip(lines, range(1, 6), strict=True)), name
        assert all(r.file == str(path) for r in records)


def test_several_files_a_pattern_and_their_own_splits(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "dev.csv", "test.json"):
        rows = [{"question": f"{name} {i}", "answer": "b"} for i in range(2)]
        data = (
            table(["question", "answer"], [(r["question"], "b") for r in rows]) if name.endswith("csv") else jsonl(rows)
        )
        (tmp_path / name).write_text(data, encoding="utf-8")
    source = open_source([tmp_path / "test.json", tmp_path / "dev.csv"])
    assert [split_name(Path(r.file).name) for r in source] == ["test", "test", "validation", "validation"]
    assert source.format == "mixed"
    spread = list(open_source(str(tmp_path / "train-*.jsonl")))
    assert [(Path(r.file).name, r.row, split_name(Path(r.file).name)) for r in spread] == [
        (f"train-0000{n}-of-00002.jsonl", row, "train") for n in (0, 1) for row in (1, 2)
    ]
    assert len(list(open_source(tmp_path))) == 8


def test_splits_under_keys_and_in_archives(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": "b"} for i in range(3)]
    keyed, packed = tmp_path / "a.json", tmp_path / "b.zip"
    keyed.write_text(json.dumps({"train": rows, "test": rows[:1]}), encoding="utf-8")
    packed.write_bytes(zipped({"x/test.jsonl": jsonl(rows).encode(), "x/train.jsonl": jsonl(rows).encode()}))
    assert [split_name(r.member or "") for r in open_source(keyed)] == ["train"] * 3 + ["test"]
    assert [split_name(r.member or "") for r in open_source(packed)] == ["test"] * 3 + ["train"] * 3


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(
            (n, None)
            for n in ("unit-test-generation.jsonl", "latest.json", "contest_rows.csv", "训练方法问答.jsonl", "")
        ),
        *(
            (n, "train")
            for n in ("train.jsonl", "alpaca_train.json", "train_sft-00000-of-00001.parquet", "客服训练集.csv")
        ),
        *((n, "validation") for n in ("dev.json.gz", "data/valid/a.csv", "验证集.xlsx", "validation-00000.parquet")),
        *((n, "test") for n in ("x/test/part-1.json", "测试.csv", "my.test.jsonl")),
    ],
)
def test_what_names_say_of_splits(name: str, split: str | None) -> None:
    assert split_name(name) == split


def test_a_name_on_a_hub_is_not_a_file(tmp_path: Path) -> None:
    for name in ("hf://owner/set", "ms://owner/set", "HF::owner/set"):
        with pytest.raises(DataError) as caught:
            open_source(name)
        assert [getattr(p, "kind", "") for p in caught.value.problems] == ["needs_hub"]


def test_closest_names_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Question,Reply\na,b\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        open_source(path, {"user": "question"})
    assert "Question" in caught.value.fix


def test_limits_are_the_callers(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({f"{i}.jsonl": b'{"text": "x"}\n' for i in range(12)}))
    assert len(list(open_source(path, limits=Limits(entries=12)))) == 12
    with pytest.raises(DataError) as caught:
        open_source(path, limits=Limits(entries=11))
    assert getattr(caught.value.problems[-1], "kind", "") == "zip_bomb"
