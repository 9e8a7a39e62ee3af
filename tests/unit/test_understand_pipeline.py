"""The way of rows from a file to their splits on disk: what is kept, what is removed, and that nothing leaks."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoswift.domain.profile import DataProfile
from autoswift.errors import DataError
from autoswift.understand import crew, near, passes, sessions
from autoswift.understand.clean import clean_row, row_text
from autoswift.understand.data import Options, as_report, inspect, prepare_data, profile_data

Write = Callable[[str, list[Any]], Path]
TOPICS = [
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


def row(i: int, user: str = "", assistant: str = "") -> dict[str, Any]:
    """A row unlike the others."""
    seed = hashlib.sha256(str(i).encode()).digest()
    said = "".join(chr(0x4E00 + int.from_bytes(seed[k : k + 2], "big") % 0x4000) for k in range(0, 28, 2))
    turns = [
        {"role": "user", "content": user or f"{TOPICS[i % 16]}的问题{said}怎么办"},
        {"role": "assistant", "content": assistant or f"您好，{said[::-1]}，请看{TOPICS[i // 16 % 16]}页面"},
    ]
    return {"messages": turns}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(name: str, rows: list[Any]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
        return path

    return put


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def kinds(profile: DataProfile) -> set[str]:
    return {p.kind for p in profile.problems}


PIECES = st.sampled_from(
    [
        *("您好", "请问订单什么时候发货", "hello there", " ", "\n", "\n\n\n\n\n", "\u3000", "\u200b", "\r\n", "x", "2"),
        *(
            "<br>",
            "<br/>",
            "&nbsp;",
            "&amp;",
            "&amp;lt;",
            "lt;",
            "<p>",
            "</p>",
            "<b>",
            "</b>",
            "<div class=x>",
            "<",
            ">",
        ),
        *("&", "<!--", "-->", "<image>", "<script>", "</script>", "，", "。", "！", "哈哈哈哈"),
        *("13812345678", "a@b.co", "110105", "19491231002X", "我叫", "张伟", "北京市朝阳区建国路8号"),
        *("未经许可不得转载", "版权所有，侵权必究", "Sent from my iPhone"),
    ]
)
TEXTS = st.lists(PIECES, max_size=7).map("".join)
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "user", "assistant", "assistant", "tool"]), "content": TEXTS}
    ),
    max_size=6,
)


@settings(max_examples=400)
@given(TURNS, st.sampled_from(["sft", "kto", "pretrain"]), st.booleans())
def test_cleaning_is_idempotent(turns: list[dict[str, str]], task: str, mask: bool) -> None:
    if task == "pretrain":
        turns = [{"role": "assistant", "content": "".join(t["content"] for t in turns)}]
    once = clean_row({"messages": turns}, task, mask=mask)
    if once.reason:
        return
    again = clean_row(once.row, task, mask=mask)
    assert again.row == once.row
    assert (again.reason, again.done, again.masked) == ("", [], [])


@settings(max_examples=25)
@given(
    st.lists(st.integers(0, 400), min_size=4, max_size=40),
    st.lists(st.tuples(st.integers(0, 39), st.sampled_from(["！", "。", "吗", "呢呢"])), max_size=30),
    st.integers(0, 3),
)
def test_no_near_duplicate_crosses_the_split(
    tmp_path: Path, numbers: list[int], copies: list[tuple[int, str]], seed: int
) -> None:
    rows = [row(i) for i in numbers]
    for place, more in copies:
        turns = rows[place % len(numbers)]["messages"]
        rows.append({"messages": [{"role": "user", "content": turns[0]["content"] + more}, turns[1]]})
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    try:
        profile, parts = inspect(path, {}, seed)
    except DataError:
        return  # all the same
    assert profile.rows == len(rows) == profile.conversations + sum(profile.removed.values())
    if "split_by_rows" in kinds(profile):
        return
    texts = {name: [row_text(r) for r in part] for name, part in parts.items()}
    for one, other in (("test", "train"), ("validation", "train"), ("test", "validation")):
        assert all(near.similarity(a, b) < near.THRESHOLD for a in texts[one] for b in texts[other])


def test_near_duplicates_planted_far_apart_stay_together(write: Write) -> None:
    rows = [row(i) for i in range(300)]
    for i in range(60):
        turns = [dict(t) for t in rows[i]["messages"]]
        turns[0]["content"] = turns[0]["content"].replace("怎么办", "怎么处理")
        rows.append({"messages": turns})
    profile, parts = inspect(write("a.jsonl", rows), {}, 0)
    place = {row_text(r): name for name, part in parts.items() for r in part}
    assert profile.near == {"groups": 60, "rows": 120, "largest": 2}
    assert profile.flagged["near_duplicate"] == 60
    assert all(place[row_text(rows[i])] == place[row_text(rows[300 + i])] for i in range(60))


def test_the_same_input_gives_the_same_bytes_in_one_process_and_in_two(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(i) for i in range(400)]
    rows[20]["messages"][0]["content"] += "\ud83d"  # half an emoji goes through the pipe as it is
    rows[30] = {"question": "?", "nothing": None}
    rows[40]["messages"][1]["content"] = ""
    rows += rows[:9]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    monkeypatch.setattr(passes, "BATCH", 37)
    monkeypatch.setattr(crew, "AFTER", 1)
    read = {}
    for name, helpers in (("alone", 0), ("again", 0), ("both", 1)):
        found = prepare_data(path, tmp_path / name, Options(seed=7, helpers=helpers))
        assert not list((tmp_path / name).glob(".*"))  # nothing left of the work
        read[name] = {kind: file.read_bytes() for kind, file in found.files.items()}
    assert read["alone"] == read["again"] == read["both"]
    other = prepare_data(path, tmp_path / "other", Options(seed=8))
    assert other.files["test"].read_bytes() != read["alone"]["test"]


def test_rows_are_made_here_when_the_other_process_dies(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("a.jsonl", [row(i) for i in range(300)])
    monkeypatch.setattr(passes, "BATCH", 20)
    monkeypatch.setattr(crew, "AFTER", 1)
    expected = prepare_data(path, tmp_path / "alone", Options(helpers=0)).files["train"].read_bytes()
    monkeypatch.setattr(crew, "WORKER", "autoswift.no_such_module")
    assert prepare_data(path, tmp_path / "out", Options(helpers=1)).files["train"].read_bytes() == expected


def test_the_files_are_what_the_manifest_says(write: Write, tmp_path: Path) -> None:
    rows = [row(i) for i in range(120)]
    rows += [row(3), {"messages": [{"role": "user", "content": "问"}]}, row(500, assistant="哈" * 60)]
    path = write("a.jsonl", rows)
    found = prepare_data(path, tmp_path / "out", Options())
    manifest = json.loads(found.files["manifest"].read_text(encoding="utf-8"))
    assert set(manifest["files"]) == {"train.jsonl", "validation.jsonl", "test.jsonl", "removed.jsonl"}
    for name, facts in manifest["files"].items():
        data = (tmp_path / "out" / name).read_bytes()
        assert facts == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "rows": data.count(b"\n")}
    counts = manifest["counts"]
    assert counts["read"] == 123 == counts["kept"] + sum(counts["removed"].values())
    removed = lines(found.files["removed"])
    assert Counter(r["reason"] for r in removed) == counts["removed"]
    assert counts["removed"] == {"duplicate": 1, "only_user_turns": 1, "degenerate_answer": 1}
    again = next(r for r in removed if r["reason"] == "duplicate")
    assert (again["file"], again["line"], again["same_as"]["line"]) == ("a.jsonl", 121, 4)
    assert again["record"] == row(3)
    assert str(tmp_path) not in found.files["manifest"].read_text() + found.files["removed"].read_text()
    assert json.loads(found.files["profile"].read_text(encoding="utf-8"))["conversations"] == 120


def test_broken_lines_are_named_among_the_removed(tmp_path: Path) -> None:
    text = [json.dumps(row(i)) for i in range(30)]
    text[7] = '{"messages": [{"role"'
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(text), encoding="utf-8")
    found = prepare_data(path, tmp_path / "out", Options())
    (lost,) = lines(found.files["removed"])
    assert (lost["reason"], lost["line"], lost["record"]) == ("corrupt_json_line", 8, None)
    assert found.profile.rows == 30 == found.profile.conversations + 1


def test_what_web_pages_left_is_taken_out(write: Write) -> None:
    rows = [row(i) for i in range(40)]
    rows += [
        row(100, "这件<b>衣服</b>怎么洗<br>能机洗吗&nbsp;谢谢"),
        row(101, assistant="<p>您好，可以退货。</p><p>七天之内都行。</p>"),
        row(102, "HTML 里的 <br> 标签是什么意思", "<br> 是换行。"),
        row(103, assistant="退款三天到账。\n未经许可，不得转载。"),
        row(104, "“未经许可不得转载”是什么意思", "未经许可不得转载"),
    ]
    profile, parts = inspect(write("a.jsonl", rows), {}, 0)
    said = {t["content"] for part in parts.values() for r in part for t in r["messages"]}
    assert {"这件衣服怎么洗\n能机洗吗 谢谢", "您好，可以退货。\n\n七天之内都行。", "退款三天到账。"} <= said
    assert {"HTML 里的 <br> 标签是什么意思", "<br> 是换行。", "未经许可不得转载"} <= said
    assert profile.tidied == {"html": 2, "boilerplate": 1}
    assert {"tidied_html", "tidied_boilerplate"} <= kinds(profile)
    example = profile.examples["html"][0]
    assert (example.line, "<b>" in example.before, "<b>" in example.after) == (41, True, False)


def test_personal_data_is_masked_everywhere_when_asked(write: Write, tmp_path: Path) -> None:
    rows = [row(i) for i in range(30)]
    rows += [
        row(200, "我叫张伟，手机13812345678，寄到广东省深圳市南山区科技路12号"),
        row(201, "Mail me at ann.lee@example.com please", "I will write to ann.lee@example.com"),
        row(202, "身份证11010519491231002X", "卡号4111 1111 1111 1111"),
        {"messages": [{"role": "user", "content": "电话13987654321"}]},  # removed, and kept among the removed
    ]
    path = write("a.jsonl", rows)
    kept = prepare_data(path, tmp_path / "kept", Options())
    assert {"pii": 3, "pii_phone": 1, "pii_name": 1, "pii_email": 1}.items() <= kept.profile.flagged.items()
    assert not kept.profile.redacted
    masked = prepare_data(path, tmp_path / "masked", Options(redact=True))
    assert masked.profile.redacted == dict.fromkeys(["phone", "email", "id_card", "bank_card", "address", "name"], 1)
    assert "pii" not in masked.profile.flagged
    written = "".join(f.read_text(encoding="utf-8") for f in masked.files.values())
    for secret in ("13812345678", "ann.lee", "11010519491231002X", "4111 1111", "张伟", "科技路12", "13987654321"):
        assert secret not in written
    assert "我叫[姓名]，手机[手机号]，寄到[地址]" in written
    assert "I will write to [EMAIL]" in written
    shown = kept.files["profile"].read_text(encoding="utf-8")
    assert not any(secret in shown for secret in ("13812345678", "ann.lee", "4111 1111", "13987654321"))


def test_answers_that_say_nothing_are_marked(write: Write) -> None:
    rows = [row(i) for i in range(60)]
    rows += [row(300 + i, assistant="好的") for i in range(12)]
    rows += [row(320, assistant="啊啊啊啊啊啊"), row(321, "请重复这句话", "请重复这句话")]
    rows += [row(322, assistant="我不知道该怎么说才好，" * 12), row(323, assistant="......?")]
    profile = inspect(write("a.jsonl", rows), {}, 0)[0]
    assert profile.flagged["degenerate_answers"] == 4
    for kind in ("repeated", "same_as_question", "looping", "wordless"):
        assert profile.flagged[f"degenerate_{kind}"] == 1
    assert profile.flagged["short_answers"] == 12
    assert profile.conversations == len(rows)


def test_other_languages_boilerplate_and_long_rows_are_marked(write: Write) -> None:
    rows = [row(i) for i in range(50)]
    for one in rows[:30]:
        one["messages"][1]["content"] += "。感谢您的咨询，祝您生活愉快！"
    rows.append(row(400, "Where is the parcel that I ordered last week?", "It is on its way to your address."))
    rows.append(row(401, assistant="".join(chr(0x4E00 + i * 7 % 0x4000) for i in range(33_000))))
    profile = inspect(write("a.jsonl", rows), {}, 0)[0]
    assert profile.language == "zh"
    assert profile.flagged["language_mismatch"] == 1
    assert profile.examples["language_mismatch"][0].line == 51
    assert profile.flagged["boilerplate"] == 30
    assert "感谢您的咨询，祝您生活愉快" in profile.examples["boilerplate"][0].before
    assert profile.flagged["too_long_rows"] == 1
    assert "estimate" in next(p.message for p in profile.problems if p.kind == "too_long_rows")
    assert profile.conversations == 52


def test_a_row_is_removed_as_a_near_duplicate_only_when_it_says_nothing_new(write: Write) -> None:
    question = "".join(chr(0x4E00 + i * 37 % 0x3000) for i in range(160))
    rows = [row(i) for i in range(40)]
    rows += [
        row(0, f"{question}好吗", "可以退货，请在七天之内寄回。"),
        row(0, f"{question}好么", "可以退货，请在七天之内寄回。"),
        row(0, f"{question}好嘛", "不可以退货，已经超过了七天。"),
        row(0, f"{question}好5", "可以退货，请在七天之内寄回。"),
    ]
    profile, parts = inspect(write("a.jsonl", rows), {}, 0)
    assert profile.removed == {"near_duplicate": 1}
    assert profile.near["largest"] == 3
    holding = {name for name, part in parts.items() for r in part if question in row_text(r)}
    assert len(holding) == 1


def test_an_own_test_set_is_used_and_what_train_shares_with_it_is_removed(write: Write) -> None:
    train = write("a.jsonl", [row(i) for i in range(200)])
    mine = [row(1000 + i) for i in range(40)]
    mine[0] = row(5)
    mine[1] = row(6, row(6)["messages"][0]["content"] + "呢？")
    test = write("own.jsonl", mine)
    profile, parts = inspect(train, {}, 0, test=test)
    assert profile.splits == {"train": 178, "validation": 20, "test": 40}
    assert profile.removed == {"test_overlap": 2}
    assert profile.own_sets == {"test": 40, "overlap_test": 2, "removed_from_train": 2}
    held = {row_text(r) for r in parts["test"]}
    assert held == {row_text(r) for r in mine}
    assert not held & {row_text(r) for r in parts["train"]}
    assert profile.rows == 240 == profile.conversations + 2


def test_an_own_test_set_that_overlaps_too_much_is_refused(write: Write) -> None:
    train = write("a.jsonl", [row(i) for i in range(200)])
    test = write("own.jsonl", [row(i) for i in range(190, 220)])
    with pytest.raises(DataError) as caught:
        inspect(train, {}, 0, test=test)
    problem: Any = caught.value.problems[-1]
    assert (problem.kind, problem.line) == ("test_overlap", 1)
    assert problem.file == str(test)
    assert "10 of the 30 rows" in problem.message
    assert "33.3 %" in problem.message


def test_a_folder_with_test_and_validation_files_is_taken_at_its_word(write: Write, tmp_path: Path) -> None:
    write("data/train.jsonl", [row(i) for i in range(100)])
    write("data/valid.jsonl", [row(i) for i in range(100, 112)])
    write("data/test.jsonl", [row(i) for i in range(112, 130)])
    found = prepare_data(tmp_path / "data", tmp_path / "out", Options())
    assert found.profile.splits == {"train": 100, "validation": 12, "test": 18}
    assert lines(found.files["test"]) == [row(i) for i in range(112, 130)]
    only = write("other/test.jsonl", [row(i) for i in range(100)])
    assert profile_data(only, Options()).splits == {"train": 60, "validation": 20, "test": 20}


def test_labels_are_spread_over_the_splits(write: Write) -> None:
    rows = [
        {"text": f"{row(i)['messages'][0]['content']}", "label": "rare" if i % 20 == 0 else "ab"[i % 2]}
        for i in range(400)
    ]
    profile, parts = inspect(write("a.jsonl", rows), {}, 0)
    assert profile.labels == {"b": 200, "a": 180, "rare": 20}
    for name in ("validation", "test"):
        assert profile.label_splits[name] == {"b": 20, "a": 18, "rare": 2}
        assert Counter(r["label"] for r in parts[name]) == profile.label_splits[name]


def test_sessions_stay_together(write: Write) -> None:
    rows = [
        {"session_id": f"s{i // 5}", "text": row(i)["messages"][0]["content"], "label": "ab"[i % 2]} for i in range(200)
    ]
    _, parts = inspect(write("a.jsonl", rows), {}, 0)
    session = {r["text"]: r["session_id"] for r in rows}
    where = {name: {session[r["text"]] for r in part} for name, part in parts.items()}
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [160, 20, 20]
    assert not where["test"] & (where["train"] | where["validation"])
    assert not where["validation"] & where["train"]


@pytest.mark.parametrize("grouped", [True, False])
def test_a_long_table_of_turns_gives_the_same_conversations(
    write: Write, monkeypatch: pytest.MonkeyPatch, grouped: bool
) -> None:
    turns: list[dict[str, Any]] = []
    for i in range(40):
        one = [{"role": t["role"], "content": t["content"]} for t in row(i)["messages"]]
        for k, turn in enumerate(one):
            turns.insert(len(turns) - (i % 2 and grouped and k == 0), {"session_id": i, **turn} if grouped else turn)
    path = write("a.jsonl", turns)
    whole = inspect(path, {}, 0)
    monkeypatch.setattr(sessions, "IN_MEMORY", 11)
    assert inspect(path, {}, 0) == whole
    assert whole[0].conversations == 40


def test_the_forms_that_the_trainer_reads(write: Write) -> None:
    texts = [row(i)["messages"] for i in range(40)]
    pairs = [{"query": q["content"], "pos": [a["content"]], "neg": ["别的" + q["content"]]} for q, a in texts]
    made = inspect(write("a.jsonl", pairs), {}, 0)[1]["train"][0]
    assert set(made) == {"messages", "positive_messages", "negative_messages"}
    assert made["positive_messages"][0][0]["role"] == "user"
    ranked = [{"query": q["content"], "documents": [a["content"], "别的"], "label": [1, 0]} for q, a in texts]
    profile, parts = inspect(write("b.jsonl", ranked), {}, 0)
    assert profile.task == "reranking"
    assert parts["train"][0]["positive_messages"][0][0]["role"] == "assistant"
    liked = [{"messages": m, "label": i % 2 == 0} for i, m in enumerate(texts)]
    profile, parts = inspect(write("c.jsonl", liked), {}, 0)
    assert (profile.task, profile.labels) == ("kto", {"False": 20, "True": 20})
    assert all(isinstance(r["label"], bool) for r in parts["train"])
    plain = inspect(write("d.jsonl", [{"text": a["content"]} for _, a in texts]), {}, 0)[1]["train"][0]
    assert [t["role"] for t in plain["messages"]] == ["assistant"]


def test_the_profile_shows_samples_lengths_and_examples(write: Write) -> None:
    rows = [row(i) for i in range(60)] + [row(2)]
    profile = inspect(write("a.jsonl", rows), {}, 0)[0]
    assert [s["line"] for s in profile.samples] == [1, 2, 3]
    assert profile.samples[0]["user"] == rows[0]["messages"][0]["content"]
    for bars, stats in ((profile.histogram, profile.characters), (profile.token_histogram, profile.tokens)):
        assert stats is not None
        assert sum(b.count for b in bars) == 60
        assert all(a.high == b.low for a, b in pairwise(bars))
        assert bars[-1].high >= stats.max
    assert profile.examples["duplicate"][0].line == 61
    report = as_report(profile)
    json.dumps(report, allow_nan=False)
    assert {"samples", "histogram", "tokens", "examples", "near", "labels"} <= set(report)
