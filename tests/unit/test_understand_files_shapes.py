"""What a record means, by the names of its columns and by what is in them."""

from __future__ import annotations

from typing import Any

import pytest

from autoswift.understand import shapes
from autoswift.understand.columns import key_of
from autoswift.understand.turns import role_of, transcript


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def made(records: Any, given: dict[str, str] | None = None) -> tuple[str, str, list[dict[str, Any]]]:
    values = [shapes.as_object(r) for r in (records if isinstance(records, list) else [records])]
    shape = shapes.main_shape(values, given or {})
    assert shape is not None
    if shape.name == "turn_per_row":
        return shape.name, shape.task, [row for _, row in shapes.join_turns(values, shape)]
    return shape.name, shape.task, [row for v in values if (row := shapes.rewrite(v, shape)) is not None]


def said(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(t["role"][0], t["content"]) for t in row["messages"]]


TALKS: list[tuple[Any, str, list[tuple[str, str]]]] = [
    ({"text": "长文", "summary": "短"}, "question_answer", [("u", "长文"), ("a", "短")]),
    ({"title": "问", "answer": "答"}, "question_answer", [("u", "问"), ("a", "答")]),
    ({"用户输入": "问", "模型输出": "答"}, "question_answer", [("u", "问"), ("a", "答")]),
    ({"Question (required)": "q", "Answer:": "a"}, "question_answer", [("u", "q"), ("a", "a")]),
    ({"userQuery": "q", "botReply": "r"}, "question_answer", [("u", "q"), ("a", "r")]),
    ({"中文": "你", "英文": "you"}, "question_answer", [("u", "你"), ("a", "you")]),
    ({"question": "q", "answer": "a", "rating": 1}, "question_answer", [("u", "q"), ("a", "a")]),
    (
        {"instruction": "i", "input": "n", "output": "o", "history": [["x", "y"]]},
        "alpaca",
        [("u", "x"), ("a", "y"), ("u", "i\nn"), ("a", "o")],
    ),
    (
        {"query": "q", "response": "r", "system": "s", "history": '[["x", "y"]]'},
        "question_answer",
        [("s", "s"), ("u", "x"), ("a", "y"), ("u", "q"), ("a", "r")],
    ),
    (
        {
            "prompt": [turn("user", "a"), turn("assistant", "b"), turn("user", "c")],
            "completion": [turn("assistant", "d")],
        },
        "prompt_completion",
        [("u", "a"), ("a", "b"), ("u", "c"), ("a", "d")],
    ),
    (
        {"question": "q", "context": "c", "choices": ["x", "y"], "answer": "A"},
        "question_answer",
        [("u", "c\nq\nA. x\nB. y"), ("a", "A")],
    ),
    (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"},
        "sharegpt",
        [("s", "s"), ("u", "a"), ("a", "b")],
    ),
    (
        {
            "conversations": [
                {"from": "human", "value": "a"},
                {"from": "function_call", "value": "f"},
                {"from": "observation", "value": "o"},
                {"from": "gpt", "value": "b"},
            ]
        },
        "sharegpt",
        [("u", "a"), ("a", "f"), ("t", "o"), ("a", "b")],
    ),
    ("User: a\nAssistant: b", "dialogue", [("u", "a"), ("a", "b")]),
    (
        {"text": "张三在北京", "entities": [{"text": "张三", "type": "PER"}]},
        "extraction",
        [("u", "张三在北京"), ("a", '[{"text": "张三", "type": "PER"}]')],
    ),
]


@pytest.mark.parametrize(("record", "name", "turns"), TALKS, ids=[str(i) for i in range(len(TALKS))])
def test_conversations(record: Any, name: str, turns: list[tuple[str, str]]) -> None:
    found, task, rows = made(record)
    assert (found, task, said(rows[0])) == (name, "sft", turns)


CHOICES: list[tuple[dict[str, Any], list[tuple[str, str]], str]] = [
    ({"query": "q", "response": "r", "rejected_response": "s"}, [("u", "q"), ("a", "r")], "s"),
    ({"问题": "q", "采纳": "r", "不采纳": "s"}, [("u", "q"), ("a", "r")], "s"),
    (
        {
            "prompt": [turn("user", "a"), turn("assistant", "b"), turn("user", "c")],
            "chosen": [turn("assistant", "x")],
            "rejected": [turn("assistant", "y")],
        },
        [("u", "a"), ("a", "b"), ("u", "c"), ("a", "x")],
        "y",
    ),
    (
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
        [("u", "a"), ("a", "b")],
        "c",
    ),
    (
        {
            "conversations": [{"from": "human", "value": "a"}],
            "chosen": {"from": "gpt", "value": "b"},
            "rejected": {"from": "gpt", "value": "c"},
        },
        [("u", "a"), ("a", "b")],
        "c",
    ),
    (
        {
            "input": {"messages": [turn("user", "a")]},
            "preferred_output": [turn("assistant", "x")],
            "non_preferred_output": [turn("assistant", "y")],
        },
        [("u", "a"), ("a", "x")],
        "y",
    ),
    (
        {"messages": [turn("user", "a"), turn("assistant", "b")], "rejected_response": "c"},
        [("u", "a"), ("a", "b")],
        "c",
    ),
]


@pytest.mark.parametrize(("record", "turns", "rejected"), CHOICES, ids=[str(i) for i in range(len(CHOICES))])
def test_better_and_worse_answers(record: dict[str, Any], turns: list[tuple[str, str]], rejected: str) -> None:
    _, task, rows = made(record)
    assert (task, said(rows[0]), rows[0]["rejected_response"]) == ("dpo", turns, rejected)


@pytest.mark.parametrize(
    ("label", "good"),
    [(True, True), (0, False), ("good", True), ("BAD", False), ("1", True), ("👎", False), ("点踩", False)],
)
def test_answers_judged_good_or_bad(label: Any, good: bool) -> None:
    for record in ({"prompt": "p", "completion": "c"}, {"messages": [turn("user", "p"), turn("assistant", "c")]}):
        _, task, rows = made(record | {"label": label})
        assert (task, rows[0]["label"], said(rows[0])) == ("kto", good, [("u", "p"), ("a", "c")])


LABELLED: list[tuple[dict[str, Any], str, str]] = [
    ({"文本": "好", "类别": "正面"}, "好", "正面"),
    ({"sentence": "a b", "label": 1}, "a b", "1"),
    ({"text": "a", "label": 2.0}, "a", "2"),
    ({"text": "a", "label": 0, "label_text": "neg"}, "a", "neg"),
    ({"text": "a", "labels": ["x", "y"]}, "a", "x, y"),
    ({"premise": "a", "hypothesis": "b", "label": "neutral"}, "a\nb", "neutral"),
]


@pytest.mark.parametrize(("record", "text", "label"), LABELLED, ids=[str(i) for i in range(len(LABELLED))])
def test_texts_and_labels(record: dict[str, Any], text: str, label: str) -> None:
    _, task, rows = made(record)
    assert (task, rows[0]["text"], rows[0]["label"]) == ("classification", text, label)
    assert said(rows[0]) == [("u", text), ("a", label)]


PAIRS: list[tuple[Any, str, list[str], list[str], float | None]] = [
    ({"sentence1": "a", "sentence2": "b", "score": 3.2}, "embedding", ["b"], [], 3.2),
    ({"question1": "a", "question2": "b", "is_duplicate": "0"}, "embedding", ["b"], [], 0.0),
    ({"query": "a", "pos": ["b", "c"], "neg": '["d"]'}, "embedding", ["b", "c"], ["d"], None),
    ({"query": "a", "documents": ["b", "c"], "labels": [0, 1]}, "reranking", ["c"], ["b"], None),
    ({"query": "a", "passages": {"passage_text": ["b", "c"], "is_selected": [1, 0]}}, "reranking", ["b"], ["c"], None),
    (
        [
            {"query": "a", "document": "b", "relevance": 2},
            {"query": "z", "document": "b", "relevance": 1},
            {"query": "a", "document": "c", "relevance": 0},
        ],
        "reranking",
        ["b"],
        ["c"],
        None,
    ),
]


@pytest.mark.parametrize(("records", "task", "good", "bad", "score"), PAIRS, ids=[str(i) for i in range(len(PAIRS))])
def test_texts_that_belong_together(
    records: Any, task: str, good: list[str], bad: list[str], score: float | None
) -> None:
    _, found, rows = made(records)
    row = rows[0]
    assert (found, said(row), row.get("label")) == (task, [("u", "a")], score)
    assert [t[0]["content"] for t in row["positive_messages"]] == good
    assert [t[0]["content"] for t in row.get("negative_messages", [])] == bad


def test_a_turn_a_row_goes_by_session_in_the_order_of_time() -> None:
    rows = [
        {"工单号": n, "发送人": who, "内容": text, "时间": when}
        for n, who, text, when in (
            ("1", "小王", "在吗", "2024-01-01 10:02"),
            ("2", "客户", "喂", "2024-01-01 10:00"),
            ("1", "客服小李", "您好", "2024-01-01 10:03"),
            ("1", "小王", "先到", "2024-01-01 9:58"),
            ("2", "坐席", "您好", "2024-01-01 10:01"),
        )
    ]
    name, _, talks = made(rows)
    assert name == "turn_per_row"
    assert [said(t) for t in talks] == [[("u", "先到"), ("u", "在吗"), ("a", "您好")], [("u", "喂"), ("a", "您好")]]


def test_speakers_of_unknown_names_take_the_roles_that_are_left() -> None:
    rows = [
        {"session_id": 1, "sender": who, "message": what} for who, what in (("Ann", "hi"), ("Bob", "yo"), ("Ann", "ok"))
    ]
    assert said(made(rows)[2][0]) == [("u", "hi"), ("a", "yo"), ("u", "ok")]
    rows[0]["sender"] = rows[2]["sender"] = "Support Team"
    assert said(made(rows)[2][0]) == [("a", "hi"), ("u", "yo"), ("a", "ok")]


def test_questions_and_answers_of_a_session_are_one_conversation() -> None:
    rows = [{"会话ID": n, "用户": f"u{i}", "客服": f"a{i}"} for i, n in enumerate("aba")]
    assert [said(t) for t in made(rows)[2]] == [
        [("u", "u0"), ("a", "a0"), ("u", "u2"), ("a", "a2")],
        [("u", "u1"), ("a", "a1")],
    ]


@pytest.mark.parametrize(
    ("record", "kind", "paths", "question"),
    [
        ({"question": "<image>这是", "answer": "猫", "images": ["a.png"]}, "images", ["a.png"], "<image>这是"),
        ({"question": "看 ![x](a/b.png) 这", "answer": "猫"}, "images", ["a/b.png"], "看 <image> 这"),
        ({"question": "<img>a.jpg</img>?", "answer": "猫"}, "images", ["a.jpg"], "<image>?"),
        ({"question": "<video>a.mp4</video>?", "answer": "猫"}, "videos", ["a.mp4"], "<video>?"),
        ({"q": "x", "a": "y", "pic": "1.jpg; 2.jpg"}, "images", ["1.jpg", "2.jpg"], "<image><image>x"),
        ({"q": "x", "a": "y", "图片": '["1.jpg"]'}, "images", ["1.jpg"], "<image>x"),
        (
            {"q": "x", "a": "y", "附件": "http://h.example/1.wav?k=1"},
            "audios",
            ["http://h.example/1.wav?k=1"],
            "<audio>x",
        ),
        (
            {"q": "<image>x<image>", "a": "y", "images": ["1", "2", "3"]},
            "images",
            ["1", "2", "3"],
            "<image><image>x<image>",
        ),
    ],
    ids=[str(i) for i in range(8)],
)
def test_files_that_rows_name(record: dict[str, Any], kind: str, paths: list[str], question: str) -> None:
    row = made(record)[2][0]
    assert (row[kind], row["messages"][0]["content"]) == (paths, question)


def test_a_link_in_an_answer_stays() -> None:
    assert said(made({"question": "q", "answer": "![x](a.png)"})[2][0])[1] == ("a", "![x](a.png)")


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"author": "李白", "title": "静夜思", "content": "床前"}, "床前"),
        ({"text": "a", "source": "wiki"}, "a"),
        ("一段", "一段"),
    ],
)
def test_corpora(record: Any, text: str) -> None:
    name, task, rows = made(record)
    assert (name, task, rows[0]["text"]) == ("text", "pretrain", text)


def test_the_users_word_counts_most() -> None:
    row = {"问题": "q", "答案": "a", "备注": "c"}
    assert said(made(row, {"user": "备注", "assistant": "问题"})[2][0]) == [("u", "c"), ("a", "q")]
    assert made(row, {"text": "问题", "label": "备注"})[1] == "classification"
    assert made(row, {"text": "答案"})[1] == "pretrain"
    assert made(row, {"user": "问题", "chosen": "答案", "rejected": "备注"})[1] == "dpo"
    assert made(row, {"anchor": "问题", "positive": "答案"})[1] == "embedding"


def test_unknown_names_are_told_by_what_is_in_them() -> None:
    asked = [
        {"x": f"你可以这样做{i}，先打开", "y": f"怎么做{i}？", "z": "张三" if i % 2 else "李四"} for i in range(12)
    ]
    assert said(made(asked)[2][0]) == [("u", "怎么做0？"), ("a", "你可以这样做0，先打开")]
    judged = [{"x": f"内容不错的{i}，先打开", "y": ("a1", "b1")[i % 2]} for i in range(12)]
    assert made(judged)[1] == "classification"


def test_names_of_columns_and_speakers() -> None:
    assert len({key_of(n) for n in ("session_id", "Session ID", "session-id", "sessionId", " SESSION_ID： ")}) == 1
    assert key_of("问题（必填）") == key_of("问题")
    roles = {"User 2": "user", "客服001": "assistant", "王医生": "assistant", "Agent Smith": "assistant", "张三": None}
    assert {name: role_of(name) for name in roles} == roles
    assert transcript("\n" * 200_000) is None  # quickly


def test_samples_show_what_became_of_rows() -> None:
    rows = [{"问题": f"q{i}", "答案": f"a{i}"} for i in range(9)]
    shape = shapes.main_shape(rows, {})
    assert shape is not None
    assert [(r["问题"], said(out)[1]) for r, out in shapes.samples(rows, shape)] == [
        (f"q{i}", ("a", f"a{i}")) for i in (0, 3, 6)
    ]
