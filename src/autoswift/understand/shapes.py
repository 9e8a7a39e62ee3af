"""Recognises how a record writes its conversation and rewrites it as {"messages": [{"role", "content"}, …], …}."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from autoswift.tables import table
from autoswift.understand.turns import Turn, parse_turns, role_of, text_of, transcript

Row = dict[str, Any]
MEDIA_COLUMNS = ("images", "audios", "videos")
LABELS_MOST = 100
"""A column with more distinct values than this is no label: the largest public intent set has 150, most under 80."""
LABEL_LENGTH = 40
"""Characters of a label, at most; beyond it is an answer."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How records of one set of columns are read.

    Attributes:
        name: messages, sharegpt, alpaca, prompt_completion, question_answer, dialogue, labelled, text, preference,
            pairs, turn_per_row or guessed.
        task: as in CONTRACTS.
        columns: role to column name.
    """

    name: str
    task: str
    columns: dict[str, str] = field(default_factory=dict)


@cache
def _aliases() -> dict[str, list[str]]:
    return {role: [str(n).lower() for n in names] for role, names in table("understand")["columns"].items()}


def map_columns(keys: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """Role to column name: the user's word first, then the known names in their order."""
    left = {str(k).strip().lower().replace(" ", "_"): k for k in keys if k not in given.values()}
    found = {role: name for role, name in given.items() if name in keys}
    for role, names in _aliases().items():
        if role not in found:
            name = next((left[n] for n in names if n in left), None)
            if name is not None:
                found[role] = name
    return found


def shape_of(row: Mapping[str, Any], given: Mapping[str, str]) -> Shape | None:
    """The shape of one record by its columns, or None when no known columns carry a conversation."""
    columns = map_columns([k for k, v in row.items() if v is not None], given)
    has = columns.keys()
    if given.keys() & {"user", "assistant"} and {"user", "assistant"} <= has:
        return Shape("question_answer", "sft", columns)
    turns = "messages" in has and parse_turns(row[columns["messages"]]) is not None
    if turns:
        sharegpt = "from" in str(row[columns["messages"]])[:200] and columns["messages"] in (
            "conversations",
            "conversation",
        )
        name = "sharegpt" if sharegpt else "messages" if columns["messages"] == "messages" else "dialogue"
        if "rejected" in has:
            return Shape("preference", "dpo", columns)
        if isinstance(row.get(columns.get("label", "")), bool):
            return Shape(name, "kto", columns)
        return Shape(name, "sft", columns)
    if {"chosen", "rejected"} <= has:
        return Shape("preference", "dpo", columns)
    return _from_columns(row, columns)


def _from_columns(row: Mapping[str, Any], columns: dict[str, str]) -> Shape | None:
    has = columns.keys()
    asks = has & {"user", "instruction", "input"}
    if {"assistant", "rejected"} <= has and asks:
        return Shape("preference", "dpo", columns)
    if "positive" in has and has & {"anchor", "user", "text"}:
        return Shape("pairs", "embedding", columns)
    if "candidates" in has and asks:
        return Shape("pairs", "reranking", columns)
    if "assistant" in has and asks:
        label = row.get(columns.get("label", ""))
        if isinstance(label, bool):
            return Shape("prompt_completion", "kto", columns)
        name = (
            "alpaca"
            if "instruction" in has
            else "prompt_completion"
            if columns.get("user") == "prompt"
            else "question_answer"
        )
        return Shape(name, "sft", columns)
    body = next((role for role in ("text", "user", "input", "instruction") if role in has), "")
    if body and "label" in has:
        return Shape("labelled", "classification", {**columns, "text": columns[body]})
    if "speaker" in has and "text" in has:
        return Shape("turn_per_row", "sft", columns)
    if "text" in has and isinstance(row[columns["text"]], str):
        if transcript(row[columns["text"]]):
            return Shape("dialogue", "sft", columns | {"messages": columns["text"]})
        return Shape("text", "pretrain", columns)
    return None


def guess(rows: Sequence[Mapping[str, Any]]) -> Shape | None:
    """The shape of records with unknown column names, from what their cells look like.

    Two text columns are a question and its answer, in their order; a short repeated one beside a long one is a label;
    a single one is plain text.
    """
    sample = rows[:200]
    names = list(dict.fromkeys(k for r in sample for k in r))
    texts = [
        n for n in names if sum(isinstance(r.get(n), str) and bool(_wordy(r[n])) for r in sample) >= 0.5 * len(sample)
    ]
    distinct = {n: {str(r.get(n)) for r in sample} for n in names}
    labels = [
        n
        for n in names
        if len(sample) >= 10
        and len(distinct[n]) <= min(LABELS_MOST, len(sample) // 3)
        and max(map(len, distinct[n])) <= LABEL_LENGTH
    ]
    bodies = [n for n in texts if n not in labels]
    if len(bodies) == 1 and len(labels) == 1:
        return Shape("guessed", "classification", {"text": bodies[0], "label": labels[0]})
    if len(bodies) == 2:
        return Shape("guessed", "sft", {"user": bodies[0], "assistant": bodies[1]})
    if len(bodies) == 1 and len(names) == 1:
        return Shape("guessed", "pretrain", {"text": bodies[0]})
    return None


def _wordy(value: str) -> bool:
    """Whether a cell holds words, not numbers, dates or codes."""
    letters = sum(c.isalpha() for c in value)
    return letters >= 2 and letters * 2 >= len(value.replace(" ", ""))


def rewrite(row: Mapping[str, Any], shape: Shape) -> Row | None:
    """A record as {"messages": …} with what its task needs beside; None when it does not have the shape's columns.

    Turns are as they stand in the record: cleaning comes later.
    """
    get = _Cells(row, shape.columns)
    media: dict[str, list[str]] = {}
    makers = {
        "dpo": _preference,
        "classification": _labelled,
        "pretrain": _plain,
        "embedding": _pairs,
        "reranking": _pairs,
    }
    out = makers.get(shape.task, _conversation)(get, media)
    if out is None:
        return None
    for kind in MEDIA_COLUMNS:
        paths = media.get(kind, []) + get.paths(kind)
        if paths:
            out[kind] = paths
            tag = f"<{kind[:-1]}>"
            first = next((t for t in out["messages"] if t["role"] == "user"), None)
            if first and not any(tag in t["content"] for t in out["messages"]):
                first["content"] = tag * len(paths) + first["content"]
    if get.raw("tools"):
        out["tools"] = get.raw("tools")
    return out


class _Cells:
    """A record's cells by role."""

    def __init__(self, row: Mapping[str, Any], columns: Mapping[str, str]) -> None:
        self.row, self.columns = row, columns

    def raw(self, role: str) -> Any:
        return self.row.get(self.columns[role]) if role in self.columns else None

    def text(self, role: str) -> str | None:
        return text_of(self.raw(role))

    def paths(self, role: str) -> list[str]:
        value = self.raw(role)
        items = value if isinstance(value, list) else [value]
        found = [x.get("path") or x.get("url") if isinstance(x, dict) else x for x in items]
        return [x for x in found if isinstance(x, str) and x.strip()]


def _prompt(get: _Cells) -> str:
    """The question of a record: instruction and input, question with its passage and choices."""
    parts = [get.text(role) for role in ("context", "instruction", "user", "input")]
    if get.raw("choices"):
        choices = get.raw("choices")
        values = list(choices.values()) if isinstance(choices, dict) else choices
        if isinstance(values, list):
            parts += [f"{chr(65 + i)}. {text_of(v) or ''}" for i, v in enumerate(values[:26])]
    return "\n".join(p.strip("\n") for p in parts if p and p.strip())


def _before(get: _Cells) -> list[Turn]:
    """System prompt and earlier turns."""
    system = get.text("system")
    turns: list[Turn] = [{"role": "system", "content": system}] if system and system.strip() else []
    return turns + (parse_turns(get.raw("history")) or [])


def _conversation(get: _Cells, media: dict[str, list[str]]) -> Row | None:
    if "messages" in get.columns and (turns := parse_turns(get.raw("messages"), media)) is not None:
        out: Row = {"messages": [*([] if any(t["role"] == "system" for t in turns) else _before(get)), *turns]}
    elif "assistant" in get.columns:
        question, answer = _prompt(get), get.text("assistant")
        out = {
            "messages": [
                *_before(get),
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer or ""},
            ]
        }
    else:
        return None
    if isinstance(get.raw("label"), bool):
        out["label"] = get.raw("label")
    return out


def _labelled(get: _Cells, media: dict[str, list[str]]) -> Row | None:
    text, label = get.text("text"), get.text("label")
    if text is None and label is None:
        return None
    label = (label or "").strip()
    messages = [{"role": "user", "content": text or ""}, {"role": "assistant", "content": label}]
    return {"messages": [*_before(get), *messages], "text": text or "", "label": label}


def _plain(get: _Cells, media: dict[str, list[str]]) -> Row | None:
    text = get.text("text")
    return None if text is None else {"messages": [{"role": "assistant", "content": text}], "text": text}


def _answer(value: Any) -> tuple[list[Turn], str] | None:
    """A chosen or rejected cell as the turns before it and its last answer."""
    if isinstance(value, str):
        turns = transcript(value) or []
        if turns and turns[-1]["role"] == "assistant":
            return turns[:-1], turns[-1]["content"]
        return [], value
    turns = parse_turns(value) or []
    if turns and turns[-1]["role"] == "assistant":
        return turns[:-1], turns[-1]["content"]
    text = text_of(value)
    return None if text is None else ([], text)


def _preference(get: _Cells, media: dict[str, list[str]]) -> Row | None:
    rejected = _answer(get.raw("rejected"))
    turns = parse_turns(get.raw("messages"), media) or []
    if rejected is None:
        return None
    if "chosen" in get.columns:
        chosen = _answer(get.raw("chosen"))
        if chosen is None:
            return None
        before, answer = chosen
        if turns and turns[-1]["role"] == "assistant":
            turns = turns[:-1]
    elif turns:
        if turns[-1]["role"] != "assistant":
            return None
        before, answer, turns = [], turns[-1]["content"], turns[:-1]
    else:
        before, answer = [], get.text("assistant") or ""
    question = _prompt(get)
    asked = turns or before or ([{"role": "user", "content": question}] if question else [])
    head = [] if any(t["role"] == "system" for t in asked) else _before(get)
    return {"messages": [*head, *asked, {"role": "assistant", "content": answer}], "rejected_response": rejected[1]}


def _pairs(get: _Cells, media: dict[str, list[str]]) -> Row | None:
    """Anchor, positives and negatives as swift's embedding and re-ranking rows."""
    anchor = get.text("anchor") or get.text("user") or get.text("text")
    positive, negative = _texts(get.raw("positive")), _texts(get.raw("negative"))
    candidates, labels = get.raw("candidates"), get.raw("label")
    if isinstance(candidates, list) and isinstance(labels, list) and len(labels) == len(candidates):
        positive = [text_of(c) or "" for c, x in zip(candidates, labels, strict=True) if x]
        negative = [text_of(c) or "" for c, x in zip(candidates, labels, strict=True) if not x]
    if anchor is None or not positive:
        return None
    row: Row = {"messages": [{"role": "user", "content": anchor}]}
    row["positive_messages"] = [[{"role": "user", "content": p}] for p in positive]
    if negative:
        row["negative_messages"] = [[{"role": "user", "content": n}] for n in negative]
    return row


def _texts(value: Any) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [t for t in map(text_of, items) if t]


def join_turns(rows: Sequence[Mapping[str, Any]], shape: Shape) -> list[tuple[int, Row]]:
    """Conversations of a table that has one turn a row, each with the index of its first row.

    They go by the conversation column; without one, a user's turn after an answer begins the next.
    """
    speaker, text, key = shape.columns["speaker"], shape.columns["text"], shape.columns.get("group")
    order: dict[Any, tuple[int, list[Turn]]] = {}
    current, last = 0, ""
    for i, row in enumerate(rows):
        role = role_of(row.get(speaker)) or "user"
        if key is None and last == "assistant" and role in ("user", "system"):
            current += 1
        last = role
        name = str(row.get(key)) if key is not None else current
        order.setdefault(name, (i, []))[1].append({"role": role, "content": text_of(row.get(text)) or ""})
    return [(first, {"messages": turns}) for first, turns in order.values()]


def majority(shapes: Sequence[Shape | None]) -> Shape | None:
    """The shape that most records have."""
    known = Counter((s.name, s.task) for s in shapes if s)
    if not known:
        return None
    best = max(known, key=lambda k: (known[k], k))
    return next(s for s in shapes if s and (s.name, s.task) == best)
