"""What becomes of rows: near-duplicates, splits, cleaning, and the data weighed against the sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.domain.profile import DataProfile
from autoswift.understand import near, shapes
from autoswift.understand.clean import clean, fingerprint
from autoswift.understand.data import as_report, inspect
from autoswift.understand.problems import Findings
from autoswift.understand.reader import open_source
from autoswift.understand.sentence import understand
from autoswift.understand.split import size_of, split
from autoswift.understand.weigh import weigh

Write = Callable[[str, list[Any]], Path]
WORDS = [
    "订单",
    "退款",
    "发货",
    "尺码",
    "优惠",
    "地址",
    "发票",
    "会员",
    "积分",
    "换货",
    "物流",
    "客服",
    "售后",
    "质量",
    "颜色",
    "库存",
]


def dialogue(i: int) -> dict[str, Any]:
    """A row unlike the others."""
    a, b, c = (WORDS[(i // d) % len(WORDS)] for d in (1, 16, 256))
    return {
        "messages": [
            {"role": "user", "content": f"{a}{i}怎么办，{b * 3}"},
            {"role": "assistant", "content": f"{c * 4}第{i * 7919}号，{b}{a}"},
        ]
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(name: str, rows: list[Any]) -> Path:
        path = tmp_path / name
        path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
        return path

    return put


def look(path: Path, **columns: str) -> DataProfile:
    return inspect(path, columns, 0)[0]


def kinds(profile: DataProfile) -> set[str]:
    return {p.kind for p in profile.problems}


def test_near_duplicates_stay_together() -> None:
    base = "您好，我上周在你们店买的羽绒服拉链坏了，请问可以免费维修或者换一件新的吗"
    texts = [base, base.replace("上周", "昨天"), "完全不同的一句话，讲的是别的事情", f"  {base}！"]
    assert near.groups(texts) == [0, 0, 2, 0]
    assert near.join([0, 1, 2], ["a", "a", "b"], largest=2) == [0, 0, 2]
    assert near.join([0, 1, 2], ["a", "a", "a"], largest=2) == [0, 1, 2]


def test_sizes_of_the_splits() -> None:
    assert [size_of(n) for n in (1, 2, 10, 49, 100, 200, 500, 2000, 50_000)] == [0, 1, 2, 9, 20, 20, 50, 200, 200]


def test_few_rows_are_explained(write: Write) -> None:
    rows = [dialogue(i) for i in range(45)]
    assert "few_rows" in kinds(look(write("a.jsonl", rows)))
    assert "too_few_rows" in kinds(look(write("a.jsonl", rows[:5])))
    two = look(write("a.jsonl", rows[:2]))
    assert two.splits == {"train": 1, "validation": 0, "test": 1}
    assert "no_validation" in kinds(two)
    alike = [
        {"question": "这是一个几乎一样的很长很长很长的问题，请你认真回答它", "answer": f"好的好的{'甲乙丙丁'[i]}"}
        for i in range(4)
    ]
    assert "split_by_rows" in kinds(look(write("a.jsonl", alike)))


def test_texts_are_in_the_readers_language(write: Write) -> None:
    path = write("a.jsonl", [dialogue(i) for i in range(5)])
    zh = inspect(path, {}, 0, language="zh")[0].problems
    assert all(any("\u4e00" <= c <= "\u9fff" for c in p.message) for p in zh)
    assert inspect(path, {}, 0)[0].problems[0].message.isascii()


def test_report_has_the_shape_of_the_contract(write: Write) -> None:
    report = as_report(look(write("a.jsonl", [dialogue(i) for i in range(30)])))
    names = {"format", "task", "language", "domain", "modality", "conversations", "first", "roles", "columns"}
    assert names | {"removed", "flagged", "problems"} <= set(report)
    assert report["format"] == "jsonl"
    assert report["domain"] == "customer_service"
    json.dumps(report, allow_nan=False)
    keys = {"kind", "severity", "file", "line", "row", "column", "member", "message", "fix"}
    assert all(set(p) == keys for p in report["problems"])


def test_the_same_file_and_seed_give_the_same_answer_and_another_seed_another(write: Write) -> None:
    path = write("a.jsonl", [dialogue(i) for i in range(120)])
    assert inspect(path, {}, 3) == inspect(path, {}, 3)
    assert inspect(path, {}, 3)[1]["test"] != inspect(path, {}, 4)[1]["test"]


def test_the_splits_hardly_move_when_rows_are_added_or_reordered() -> None:
    rows = [dialogue(i) for i in range(400)]

    def held_out(some: list[dict[str, Any]]) -> set[bytes]:
        parts, _ = split(some, range(len(some)), 0)
        return {fingerprint(some[i]) for i in parts["test"]}

    assert held_out(rows) == held_out(rows[::-1])
    assert len(held_out(rows) & held_out(rows + [dialogue(i) for i in range(400, 420)])) >= 34


@given(st.lists(st.integers(0, 12), min_size=2, max_size=80), st.integers(0, 5))
def test_split_is_an_exact_partition_and_no_group_leaks(groups: list[int], seed: int) -> None:
    rows = [dialogue(i) for i in range(len(groups))]
    parts, problems = split(rows, groups, seed)
    assert sorted(i for part in parts.values() for i in part) == list(range(len(rows)))
    assert parts["train"]
    assert parts["test"]
    assert parts["validation"] or len(rows) == 2
    if "split_by_rows" not in {p.kind for p in problems}:
        where = {name: {groups[i] for i in part} for name, part in parts.items()}
        assert not where["test"] & where["train"]
        assert not where["test"] & where["validation"]
        assert not where["validation"] & where["train"]
    elif len(set(groups)) > 1 and max(map(groups.count, groups)) * 2 <= len(rows):
        assert not {groups[i] for i in parts["test"]} & {groups[i] for i in parts["train"]}


TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": st.text(max_size=12)}
    ),
    max_size=6,
)


@given(st.lists(st.fixed_dictionaries({"messages": TURNS}), max_size=12), st.sampled_from(["sft", "kto"]))
def test_cleaning_counts_add_up_and_is_done_once(rows: list[dict[str, Any]], task: str) -> None:
    done = clean(rows, task)
    assert len(done.kept) + sum(done.removed.values()) == len(rows)
    for row in done.kept:
        assert row["messages"][-1]["role"] == "assistant"
        assert all(t["content"].strip() for t in row["messages"])
    again = clean(done.kept, task)
    assert again.kept == done.kept
    assert not again.removed


CLEAN = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20)


@given(st.lists(st.lists(st.tuples(CLEAN, CLEAN), min_size=1, max_size=3), min_size=2, max_size=15, unique_by=str))
def test_reading_a_clean_messages_file_changes_nothing(tmp_path: Path, talks: list[list[tuple[str, str]]]) -> None:
    roles = ("user", "assistant")
    rows = [
        {"messages": [{"role": r, "content": c} for pair in t for r, c in zip(roles, pair, strict=True)]} for t in talks
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
    records = [r.value for r in open_source(path)]
    again = [shapes.rewrite(r, shapes.Shape("messages", "sft", {"messages": "messages"})) for r in records]
    assert again == rows
    kept = clean([r for r in again if r], "sft").kept
    assert all(r in rows for r in kept)


def test_the_data_completes_the_sentence_and_contradictions_are_said(write: Write) -> None:
    pairs = look(write("a.jsonl", [{"prompt": f"p {i}", "chosen": f"c {i}", "rejected": f"r {i}"} for i in range(12)]))
    assert weigh(understand("客服机器人"), pairs)[0].goal == "preference"
    task, problems = weigh(understand("classify my emails"), pairs)
    assert task.goal == "preference"
    assert [p.kind for p in problems] == ["goal_contradiction"]

    chats = look(write("b.jsonl", [dialogue(i) for i in range(30)]))
    task, problems = weigh(understand("make it better"), chats)
    assert (task.domain, task.language, task.goal) == ("customer_service", "zh", "chat")
    assert not problems
    assert len(task.assumptions) < len(understand("make it better").assumptions)
    assert {p.kind for p in weigh(understand("legal bot for photos, answers in English"), chats)[1]} == {
        "domain_contradiction",
        "modality_contradiction",
        "language_contradiction",
    }
    assert weigh(understand("用DPO训练"), chats)[0].goal == "chat"


def test_findings_keep_a_bounded_number_of_lines() -> None:
    findings = Findings("a.json")
    for line in range(1000):
        findings.add("corrupt_json_line", "warn", where={"line": line}, reason="x")
    assert len(findings.problems) == 20
