"""What was written is read back, any bytes are read or refused, and a large file takes little memory and time."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from data_files import GOOD, Good, first, jsonl, parquet, read_as, table, workbook
from hypothesis import given, settings
from hypothesis import strategies as st

from autoswift.errors import DataError
from autoswift.understand.reader import open_source

TEXT = st.text(
    st.sampled_from("abcXYZ019 你好吗退货订单请问谢谢，。？！,.;:|\"'{}[]\\/#*-_=+<>&%\n\t")
    | st.characters(exclude_categories=["C", "Z"]),
    min_size=1,
    max_size=40,
).map(lambda t: "x" + t.strip() + "y")
GBK = st.text(st.sampled_from("abc 你好吗退货订单请问谢谢的一是不了在人有我他这，。？！,.\"'|;\n"), max_size=40).map(
    lambda t: "问" + t.strip() + "好"
)


def conversations(words: st.SearchStrategy[str]) -> st.SearchStrategy[list[tuple[str, str]]]:
    return st.lists(st.tuples(words, words), min_size=2, max_size=6)


def _bytes(kind: str, rows: list[tuple[str, str]], encoding: str) -> bytes:
    objects = [{"question": a, "answer": b} for a, b in rows]
    talks = [{"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]} for a, b in rows]
    if kind == "xlsx":
        return workbook({"s": [("question", "answer"), *rows]})
    if kind == "parquet":
        return parquet({"question": [a for a, _ in rows], "answer": [b for _, b in rows]})
    text = {
        "jsonl": lambda: jsonl(talks),
        "json": lambda: json.dumps(talks, ensure_ascii=False, indent=1),
        "key.json": lambda: json.dumps({"data": objects}, ensure_ascii=False),
        "csv": lambda: table(["question", "answer"], rows),
        "tsv": lambda: table(["question", "answer"], rows, "\t"),
    }[kind]()
    return text.encode(encoding)


@settings(max_examples=80)
@given(
    st.sampled_from(["jsonl", "json", "key.json", "csv", "tsv", "xlsx", "parquet"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"]),
    conversations(TEXT),
)
def test_what_was_written_is_read_back(tmp_path: Path, kind: str, encoding: str, rows: list[tuple[str, str]]) -> None:
    if encoding == "utf-16-le" and not any(c.isascii() for pair in rows for t in pair for c in t):
        encoding = "utf-16"
    path = tmp_path / f"a.{kind}"
    path.write_bytes(_bytes(kind, rows, encoding))
    _, _, read = read_as(path, {"user": "question", "assistant": "answer"} if kind not in ("jsonl", "json") else {})
    assert [(first(r, "user"), first(r, "assistant")) for r in read] == rows


@settings(max_examples=40)
@given(st.sampled_from(["jsonl", "json", "csv"]), st.sampled_from(["gbk", "gb18030"]), conversations(GBK))
def test_what_was_written_in_an_older_encoding_is_read_back(
    tmp_path: Path, kind: str, encoding: str, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(_bytes(kind, rows, encoding))
    _, _, read = read_as(path, {})
    assert [(first(r, "user"), first(r, "assistant")) for r in read] == rows


@settings(max_examples=120)
@given(
    st.binary(max_size=400),
    st.sampled_from(["json", "jsonl", "csv", "txt", "md", "srt", "xlsx", "parquet", "zip", "gz", ""]),
)
def test_any_bytes_are_read_or_refused(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(data)
    caught = None
    try:
        assert all(r.row > 0 for r in open_source(path))
    except DataError as exc:
        caught = exc
    if caught:
        assert caught.problems
        json.dumps(caught.as_json(), ensure_ascii=False).encode()


@settings(max_examples=100)
@given(
    st.sampled_from([g for g in GOOD if isinstance(g.data, bytes | str)]), st.integers(0, 10_000), st.binary(max_size=6)
)
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, one: Good, at: int, noise: bytes) -> None:
    data = one.data.encode() if isinstance(one.data, str) else one.data
    assert isinstance(data, bytes)
    at %= len(data)
    path = tmp_path / one.name
    path.write_bytes(data[:at] + noise + data[at + 3 * len(noise) :])
    try:
        count = sum(1 for _ in open_source(path))
    except DataError as exc:
        count = len(exc.problems)
    assert count


STREAM = """
    import resource, sys
    from autoswift.understand.reader import open_source
    small = sum(1 for _ in open_source(sys.argv[1]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    large = sum(1 for _ in open_source(sys.argv[2]))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    print(small, large, (after - before) * unit)
"""


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_a_large_file_takes_little_memory(tmp_path: Path, kind: str) -> None:
    row = {"question": "请问这个订单什么时候发货" * 20, "answer": "您好，今天就会发出" * 40}
    count = 20_000
    line = json.dumps(row, ensure_ascii=False)
    one = f"{row['question']},{row['answer']}\n"
    for name, rows in (("small", 10), ("large", count)):
        with (tmp_path / f"{name}.{kind}").open("w", encoding="utf-8") as out:
            if kind == "csv":
                out.write("question,answer\n" + one * rows)
            elif kind == "json":
                out.write("[" + ",\n".join([line] * rows) + "]")
            else:
                out.write((line + "\n") * rows)
    size = (tmp_path / f"large.{kind}").stat().st_size
    argv = [
        sys.executable,
        "-c",
        textwrap.dedent(STREAM),
        str(tmp_path / f"small.{kind}"),
        str(tmp_path / f"large.{kind}"),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=True)
    small, large, grown = map(int, done.stdout.split())
    assert (small, large) == (10, count)
    assert size > 30 * 2**20
    assert grown < 24 * 2**20, f"{grown / 2**20:.0f} MiB for {size / 2**20:.0f}"


def test_a_hundred_thousand_short_rows_take_two_seconds(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        jsonl([{"messages": [{"role": "user", "content": f"怎么退货{i}"}]} for i in range(100_000)]), encoding="utf-8"
    )
    begin = time.process_time()
    assert sum(1 for _ in open_source(path)) == 100_000
    assert time.process_time() - begin < 2
