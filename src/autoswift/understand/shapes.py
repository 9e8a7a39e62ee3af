"""Recognises how a record writes its conversation: by the names of its columns, then by what is in them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from autoswift.understand.columns import (
    MEDIA_COLUMNS,
    Row,
    Shape,
    key_of,
    known_column,
    map_columns,
    media_columns,
)
from autoswift.understand.logs import join_turns
from autoswift.understand.rewrite import rewrite, verdict
from autoswift.understand.turns import ROLE_KEYS, is_turns, parse_turns, role_of, transcript

__all__ = [
    "MEDIA_COLUMNS", "Row", "Shape", "as_object", "guess", "is_record", "is_turn", "join_turns", "known_column",
    "main_shape", "majority", "map_columns", "rewrite", "samples", "shape_of", "tells_task",
]  # fmt: skip

LABELS_MOST = 100
"""A column with more distinct values than this is no label: the largest public intent set has 150, most under 80."""
LABEL_LENGTH = 40
"""Characters of a label, at most; beyond it is an answer."""
SAMPLE = 200
"""Rows that unknown columns are judged by: a share is then known to 7 points."""
ASKING = 0.2
"""By which share of cells that ask one column must lead another before it is the question in spite of their order."""
_ASKS = re.compile(
    r"[?？]\s*$|^(?:how|what|why|when|where|who|which|can|could|is|are|do|does|should|please)\b"
    r"|怎么|如何|什么|为什么|吗[？?。]?$|呢[？?。]?$|能不能|可以.{0,8}吗|多少|哪|请",
    re.IGNORECASE,
)
_JUDGING = frozenset(
    map(
        key_of,
        (
            "label",
            "labels",
            "desirable",
            "feedback",
            "is_good",
            "liked",
            "thumbs",
            "kto_tag",
            "点赞",
            "是否满意",
            "好坏",
        ),
    )
)
_ASK_ROLES = ("user", "instruction", "input")
_ASIDE_ROLES = ("system", "history", "context", "choices", "tools", "group", "turn", "time", *MEDIA_COLUMNS)
"""Roles that go with any task and decide none."""
_USED = {
    "sft": (*_ASK_ROLES, "assistant", "messages"),
    "kto": (*_ASK_ROLES, "assistant", "messages", "label"),
    "dpo": (*_ASK_ROLES, "assistant", "messages", "chosen", "rejected"),
    "classification": ("text", "label", "anchor", "positive"),
    "pretrain": ("text",),
    "embedding": ("anchor", "user", "text", "positive", "negative", "score", "label"),
    "reranking": ("user", "anchor", "candidates", "label"),
    "turn_per_row": (*_ASK_ROLES, "assistant", "speaker", "text", "document", "score"),
}
"""The roles that a shape or a task reads: others are not shown as if they mattered."""


def shape_of(row: Mapping[str, Any], given: Mapping[str, str]) -> Shape | None:
    """The shape of one record by its columns, or None when no known columns carry a conversation."""
    columns = map_columns([k for k, v in row.items() if v is not None], given)
    shape = _by_given(columns, given) or _of_conversations(row, columns) or _of_preference(columns)
    shape = shape or _of_pairs(row, columns) or _of_answers(row, columns) or _of_texts(row, columns)
    if shape is None:
        return None
    media = {} if any(kind in columns for kind in MEDIA_COLUMNS) else media_columns(row, shape.columns.values())
    used = _USED.get(shape.name if shape.name in _USED else shape.task, ())
    return Shape(
        shape.name, shape.task, {r: c for r, c in shape.columns.items() if r in used or r in _ASIDE_ROLES} | media
    )


def _by_given(columns: Mapping[str, str], given: Mapping[str, str]) -> Shape | None:
    """What the user's own words settle."""
    roles = {r for r in given if r in columns}
    only = {r: c for r, c in columns.items() if r in roles or (r in _ASIDE_ROLES and c not in given.values())}
    if {"chosen", "rejected"} <= roles or ({"assistant", "rejected"} <= roles and roles & set(_ASK_ROLES)):
        asks = {r: c for r, c in columns.items() if r in (*_ASK_ROLES, "messages")} if "rejected" in roles else {}
        return Shape("preference", "dpo", asks | only)
    if "positive" in roles and roles & {"anchor", "user", "text"}:
        return Shape("pairs", "embedding", only)
    if "assistant" in roles and roles & {*_ASK_ROLES, "text"}:
        named = only if roles & set(_ASK_ROLES) else only | {"user": only["text"]}
        return Shape("question_answer", "kto" if "label" in roles else "sft", named)
    if "label" in roles and roles & {"text", "user"}:
        return Shape("labelled", "classification", only | {"text": only.get("text") or only["user"]})
    if {"speaker", "text"} <= roles:
        return Shape("turn_per_row", "sft", only)
    if roles - set(_ASIDE_ROLES) == {"text"}:
        return Shape("text", "pretrain", only)
    return None


def _of_conversations(row: Mapping[str, Any], columns: dict[str, str]) -> Shape | None:
    """A cell that holds a whole conversation."""
    name = columns.get("messages")
    if name is None or parse_turns(row[name]) is None:
        return None
    if "rejected" in columns:
        return Shape("preference", "dpo", columns)
    sharegpt = "from" in str(row[name])[:200] and name in ("conversations", "conversation")
    shape = "sharegpt" if sharegpt else "messages" if name == "messages" else "dialogue"
    return Shape(shape, "kto" if _is_judged(row, columns) else "sft", columns)


def _is_judged(row: Mapping[str, Any], columns: Mapping[str, str]) -> bool:
    """Whether a column says of the answer that it is good or bad. A number of stars does not, though 1 may be one."""
    name = columns.get("label", "")
    value = row.get(name)
    return isinstance(value, bool) or (key_of(name) in _JUDGING and verdict(value) is not None)


def _of_preference(columns: dict[str, str]) -> Shape | None:
    asks = any(role in columns for role in _ASK_ROLES)
    if "rejected" in columns and ("chosen" in columns or ("assistant" in columns and asks)):
        return Shape("preference", "dpo", columns)
    return None


def _of_pairs(row: Mapping[str, Any], columns: dict[str, str]) -> Shape | None:
    """Texts that belong together or not."""
    asks = any(role in columns for role in _ASK_ROLES)
    if "positive" in columns and ("anchor" in columns or "text" in columns or asks):
        label = row.get(columns.get("label", ""))
        if "anchor" in columns and isinstance(label, str) and "score" not in columns and verdict(label) is None:
            return Shape("labelled", "classification", columns | {"text": columns["anchor"]})  # entailment, neutral…
        return Shape("pairs", "embedding", columns)
    if "assistant" in columns:
        return None
    if "candidates" in columns and asks:
        return Shape("pairs", "reranking", columns)
    judged = columns.get("score") or columns.get("label")
    if not judged or "user" not in columns or columns.get("document") in (None, columns["user"]):
        return None
    if verdict(row.get(judged)) is None and not isinstance(row.get(judged), int | float):
        return None
    return Shape("turn_per_row", "reranking", columns | {"group": columns["user"], "score": judged})


def _of_answers(row: Mapping[str, Any], columns: dict[str, str]) -> Shape | None:
    """A question and its answer in two columns."""
    has = columns.keys()
    asks = any(role in has for role in _ASK_ROLES)
    if "entities" in has and "assistant" not in has and ("text" in has or asks):
        body = columns.get("text") or columns.get("user") or columns.get("input") or ""
        if body:
            return Shape("extraction", "sft", columns | {"user": body, "assistant": columns["entities"]})
    if "assistant" not in has or not (asks or "text" in has):
        return None
    if not asks:
        return Shape("question_answer", "sft", columns | {"user": columns["text"]})
    if _is_judged(row, columns):
        return Shape("prompt_completion", "kto", columns)
    if "group" in has and not {"history", "messages"} & has:
        return Shape("turn_per_row", "sft", columns)
    if "instruction" in has:
        return Shape("alpaca", "sft", columns)
    return Shape("prompt_completion" if columns.get("user") == "prompt" else "question_answer", "sft", columns)


def _of_texts(row: Mapping[str, Any], columns: dict[str, str]) -> Shape | None:
    """A text by itself, with its label, or with who says it."""
    has = columns.keys()
    spoken = "speaker" in has and "text" in has and columns["speaker"] != columns["text"]
    if spoken and ("group" in has or role_of(row.get(columns["speaker"]))):
        return Shape("turn_per_row", "sft", columns)
    body = next((role for role in ("text", "user", "input", "instruction") if role in has), "")
    if body and "label" in has and columns["label"] != columns[body]:
        if is_spans(row.get(columns["label"])):
            return Shape("extraction", "sft", columns | {"user": columns[body], "assistant": columns["label"]})
        return Shape("labelled", "classification", columns | {"text": columns[body]})
    if "text" not in has or not isinstance(row[columns["text"]], str):
        return None
    if transcript(row[columns["text"]]):
        return Shape("dialogue", "sft", columns | {"messages": columns["text"]})
    return Shape("text", "pretrain", columns)


def is_spans(value: Any) -> bool:
    """Whether a cell marks places in a text: [[0, 3, "ORG"], …] or [{"start": 0, "end": 3, "label": "ORG"}, …]."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(x, dict) or (isinstance(x, list) and len(x) == 3) for x in value)


def guess(rows: Sequence[Mapping[str, Any]]) -> Shape | None:
    """The shape of records with unknown column names, from what their cells look like.

    Two text columns are a question and its answer: the one that asks more often is the question, else the first one.
    A short repeated one beside a long one is a label; a single one is plain text.
    """
    sample = rows[:SAMPLE]
    names = list(dict.fromkeys(k for r in sample for k in r))
    texts = [n for n in names if sum(isinstance(r.get(n), str) and _wordy(r[n]) for r in sample) >= 0.5 * len(sample)]
    distinct = {n: {str(r.get(n)) for r in sample} for n in names}
    labels = [
        n
        for n in names
        if len(sample) >= 10
        and 1 < len(distinct[n]) <= min(LABELS_MOST, max(2, len(sample) // 3))
        and max(map(len, distinct[n])) <= LABEL_LENGTH
    ]
    media = media_columns(sample[0], texts) if sample else {}
    bodies = [n for n in texts if n not in labels and n not in media.values() and len(distinct[n]) > 1]
    if len(bodies) == 1 and labels:
        label = min(labels, key=lambda n: (n not in texts, len(distinct[n])))
        return Shape("guessed", "classification", {"text": bodies[0], "label": label} | media)
    if len(bodies) >= 2:
        user, assistant = _question_and_answer(sample, bodies)
        return Shape("guessed", "sft", {"user": user, "assistant": assistant} | media)
    if len(bodies) == 1 and len(names) == 1:
        return Shape("guessed", "pretrain", {"text": bodies[0]})
    return None


def _question_and_answer(sample: Sequence[Mapping[str, Any]], bodies: Sequence[str]) -> tuple[str, str]:
    """Of two or more text columns, the one that asks and the one that answers (of several, the longest)."""

    def cells(name: str) -> list[str]:
        return [r[name] for r in sample if isinstance(r.get(name), str)]

    asking = {n: sum(bool(_ASKS.search(c.strip())) for c in cells(n)) / max(1, len(cells(n))) for n in bodies}
    length = {n: sum(map(len, cells(n))) / max(1, len(cells(n))) for n in bodies}
    if len(bodies) > 2:  # names, places, remarks: the two that say most
        bodies = sorted(sorted(bodies, key=lambda n: -length[n] * (1 + asking[n]))[:2], key=list(bodies).index)
    first, second = bodies
    return (second, first) if asking[second] > asking[first] + ASKING else (first, second)


def _wordy(value: str) -> bool:
    """Whether a cell holds words, not numbers, dates or codes."""
    letters = sum(c.isalpha() for c in value[:500])
    return letters >= 2 and letters * 2 >= len(value[:500].replace(" ", ""))


def main_shape(records: Sequence[Any], given: Mapping[str, str]) -> Shape | None:
    """The shape of a file by its first records; None when neither names nor contents tell it.

    Args:
        records: objects, or bare dialogues and texts as `as_object` makes them.
        given: role to column name, as the user said it.
    """
    known = [shape_of(r, given) if isinstance(r, dict) else None for r in records[:SAMPLE]]
    return majority(known) or guess([r for r in records if isinstance(r, dict)])


def as_object(value: Any) -> Any:
    """A bare dialogue or text as an object."""
    if isinstance(value, list):
        return {"messages": value}
    return {"text": value} if isinstance(value, str) else value


def majority(shapes: Sequence[Shape | None]) -> Shape | None:
    """The shape that most records have."""
    known = Counter((s.name, s.task) for s in shapes if s)
    if not known:
        return None
    best = max(known, key=lambda k: (known[k], k))
    return next(s for s in shapes if s and (s.name, s.task) == best)


def is_turn(row: Mapping[str, Any]) -> bool:
    """Whether an object is one turn of a dialogue, not a record."""
    return role_of(next((row[k] for k in ROLE_KEYS if k in row), None)) is not None


def is_record(value: Mapping[str, Any]) -> bool:
    """Whether an object is itself one record, whatever lists it has."""
    shape = shape_of(value, {})
    if shape is None or shape.task == "pretrain":
        return False
    nested = value.get(shape.columns.get("messages", ""))
    return nested is None or isinstance(nested, str) or is_turns(nested)


def tells_task(names: Sequence[str]) -> bool:
    """Whether a table's column names say what its rows are."""
    return shape_of({n: "x" for n in names if n}, {}) is not None


def samples(records: Sequence[Any], shape: Shape, count: int = 3) -> list[tuple[Row, Row]]:
    """Records, evenly spaced, each with what is made of it: to show how the columns were understood."""
    rows = [r for r in records if isinstance(r, dict)]
    made = [(r, out) for r in rows[:: max(1, len(rows) // count)] if (out := rewrite(r, shape)) is not None]
    return made[:count]
