"""What a teacher's answers say, read as data: lists of requests, judgements, class names."""

from __future__ import annotations

import json
import re
from typing import Any

LIST_SCHEMA = {
    "type": "object",
    "properties": {"instructions": {"type": "array", "items": {"type": "string"}}},
    "required": ["instructions"],
    "additionalProperties": False,
}
LABELS_SCHEMA = {
    "type": "object",
    "properties": {"labels": {"type": "array", "items": {"type": "string"}}},
    "required": ["labels"],
    "additionalProperties": False,
}
JUDGE_SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 1, "maximum": 5}, "reason": {"type": "string"}},
    "required": ["score", "reason"],
    "additionalProperties": False,
}
_LISTED = re.compile(r"^\s*(?:\d{1,3}[.)、:：]|[-*•])\s*(.+?)\s*$", re.MULTILINE)
_SCORED = re.compile(r"(?:score|分数|评分|得分)\D{0,6}([1-5])(?!\d)", re.IGNORECASE)
_LINE = re.compile(r'"(?:[^"\\\n]|\\.)*"')
LONGEST = 50_000
"""Characters of an answer that are read: several times what it may have in tokens."""
DEEPEST = 12
"""Nested brackets that are looked at: ours are two deep."""


def instructions(said: str) -> list[str]:
    """The requests in an answer: from its JSON, from what is whole of a broken one, or from a numbered list."""
    said = said[:LONGEST]
    value = json_in(said)
    if isinstance(value, dict):
        value = next((v for k, v in value.items() if isinstance(v, list)), None)
    if isinstance(value, list):
        found = [one if isinstance(one, str) else _first_text(one) for one in value]
        return [" ".join(one.split()) if "\n" not in one else one.strip() for one in found if one.strip()]
    if "[" in said:  # cut off in the middle: the strings before the cut are whole
        quoted = [_unquoted(one) for one in _LINE.findall(said.partition("[")[2])]
        if any(quoted):
            return [one for one in quoted if one]
    return [one.strip('"“” ') for one in _LISTED.findall(said)]


def labels(said: str) -> list[str]:
    """Class names, each once."""
    names = [one.strip(" 。.、,") for one in instructions(said)]
    return list(dict.fromkeys(name for name in names if 0 < len(name) <= 40))


def judgement(said: str) -> tuple[int, str] | None:
    """Score 1 to 5 and reason, or None when it cannot be read."""
    said = said[:LONGEST]
    value = json_in(said)
    if isinstance(value, dict):
        score = value.get("score")
        if isinstance(score, str) and re.fullmatch(r"\s*[1-5](?:\.0)?\s*", score):
            score = float(score)
        if isinstance(score, int | float) and not isinstance(score, bool) and 1 <= score <= 5:
            return int(score), str(value.get("reason") or "")[:300]
        return None
    match = _SCORED.search(said)
    return (int(match[1]), " ".join(said.split())[:300]) if match else None


def json_in(said: str) -> Any:
    """The first JSON object or list in a text (a fence around it does not matter), or None."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"[{\[]", said):
        run = said[match.start() : match.start() + DEEPEST]
        if len(run) == DEEPEST and set(run) <= set("[{"):
            return None
        try:
            return decoder.raw_decode(said, match.start())[0]
        except (ValueError, RecursionError):
            continue
    return None


def _first_text(value: Any) -> str:
    """Some models wrap each request in an object."""
    if isinstance(value, dict):
        return next((v for v in value.values() if isinstance(v, str)), "")
    return ""


def _unquoted(quoted: str) -> str:
    try:
        return str(json.loads(quoted)).strip()
    except ValueError:
        return ""
