"""Tables with one turn (or one question and answer) a row become conversations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from autoswift.understand.columns import Row, Shape
from autoswift.understand.rewrite import Cells, rewrite, verdict
from autoswift.understand.turns import Turn, role_of, text_of

_NUMBERS = re.compile(r"\d+")


def join_turns(rows: Sequence[Mapping[str, Any]], shape: Shape) -> list[tuple[int, Row]]:
    """Conversations of a table that has one turn a row, each with the index of its first row.

    They go by the conversation column; without one, a user's turn after an answer begins the next. Within one they
    are in the order of the turn or time column where every row has it. Tables of (query, document, relevance) become
    one row a query.
    """
    groups = _groups(rows, shape)
    if shape.task == "reranking":
        made = [(members[0], _ranked([rows[i] for i in members], shape)) for members in groups]
        return [(first, row) for first, row in made if row is not None]
    out = []
    for members in groups:
        ordered = [rows[i] for i in members]
        if "group" in shape.columns:
            ordered = _ordered(ordered, shape)
        row = _talk(ordered, shape) if "speaker" in shape.columns and "assistant" not in shape.columns else None
        out.append((members[0], row or _exchanges(ordered, shape)))
    return out


def _groups(rows: Sequence[Mapping[str, Any]], shape: Shape) -> list[list[int]]:
    """Indices of the rows of each conversation."""
    key, speaker = shape.columns.get("group"), shape.columns.get("speaker", "")
    groups: dict[Any, list[int]] = {}
    current, last = 0, ""
    for i, row in enumerate(rows):
        if key is None:
            role = role_of(row.get(speaker)) or "user"
            if last == "assistant" and role in ("user", "system"):
                current += 1
            last = role
            groups.setdefault(current, []).append(i)
        else:
            name = row.get(key)
            groups.setdefault(("row", i) if name in (None, "") else str(name), []).append(i)
    return list(groups.values())


def _ordered(rows: list[Mapping[str, Any]], shape: Shape) -> list[Mapping[str, Any]]:
    """Rows by their turn number, else by their time, where each has one; else as they stand."""
    for role in ("turn", "time"):
        name = shape.columns.get(role)
        if name is None:
            continue
        marks = [_mark(row.get(name)) for row in rows]
        if all(marks):
            return [rows[i] for i in sorted(range(len(rows)), key=lambda i: marks[i])]
    return rows


def _mark(value: Any) -> tuple[float, ...]:
    """A number, or the numbers of a date and time in their order; empty when there are none."""
    if isinstance(value, bool) or value is None:
        return ()
    if isinstance(value, int | float):
        return (float(value),)
    text = str(value).strip()
    try:
        return (float(text),)
    except ValueError:
        return tuple(float(n) for n in _NUMBERS.findall(text))


def _talk(rows: Sequence[Mapping[str, Any]], shape: Shape) -> Row:
    """One turn a row. Of speakers whose names say nothing, the first one asks."""
    names = [row.get(shape.columns["speaker"]) for row in rows]
    known = {str(n): role_of(n) for n in names}
    free = [r for r in ("user", "assistant") if r not in known.values()]
    for name, role in known.items():
        if role is None:
            known[name] = free.pop(0) if free else "user"
    turns: list[Turn] = [
        {"role": known[str(n)] or "user", "content": text_of(row.get(shape.columns["text"])) or ""}
        for n, row in zip(names, rows, strict=True)
    ]
    system = Cells(rows[0], shape.columns).text("system")
    if system and system.strip() and not any(t["role"] == "system" for t in turns):
        turns.insert(0, {"role": "system", "content": system})
    return {"messages": turns}


def _exchanges(rows: Sequence[Mapping[str, Any]], shape: Shape) -> Row:
    """A question and its answer a row; a cell that is empty says nothing."""
    one = Shape("question_answer", "sft", {r: c for r, c in shape.columns.items() if r != "group"})
    turns: list[Turn] = []
    out: Row = {}
    for row in rows:
        made = rewrite(row, one) or {"messages": []}
        turns += [t for t in made.pop("messages") if t["content"].strip() and (t["role"] != "system" or not turns)]
        for key, value in made.items():
            out[key] = out[key] + value if isinstance(out.get(key), list) else value
    return {"messages": turns} | out


def _ranked(rows: Sequence[Mapping[str, Any]], shape: Shape) -> Row | None:
    """One query with the documents that fit it and those that do not."""
    query = text_of(rows[0].get(shape.columns["user"])) or ""
    positive: list[str] = []
    negative: list[str] = []
    for row in rows:
        document, value = text_of(row.get(shape.columns["document"])), row.get(shape.columns["score"])
        fits = verdict(value)
        if fits is None:
            fits = isinstance(value, int | float) and value > 0
        if document:
            (positive if fits else negative).append(document)
    if not positive:
        return None
    out: Row = {"messages": [{"role": "user", "content": query}]}
    out["positive_messages"] = [[{"role": "user", "content": p}] for p in positive]
    if negative:
        out["negative_messages"] = [[{"role": "user", "content": n}] for n in negative]
    return out
