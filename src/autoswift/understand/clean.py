"""Tidies rows, removes those that teach nothing with the reason counted, and marks those to know about."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from autoswift.understand import flags

Row = dict[str, Any]
TOO_LONG = 32_000
"""Characters of a row that is flagged as too long: 10,000 tokens or more in any language, beyond what a plan trains on
by itself. The exact limit is the tokenizer's business, later."""
UNANSWERED_TASKS = ("embedding", "reranking")
_INVISIBLE = re.compile(r"[\x00\u200b\u2060\ufeff\ud800-\udfff]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_SPACES_AT_LINE_END = re.compile(r"[ \t\u00a0\u3000]+(?=\n)")
_BLANK_LINES = re.compile(r"\n{4,}")
_WHITE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Rows kept, with their place among those given.

    Attributes:
        kept: rows, cleaned. places: index of each among the rows given.
        removed: rows removed, by reason; with the rows kept they add up to those given.
        flagged: rows kept but marked, by kind.
        tidied: rows whose text was changed, by what was done.
    """

    kept: list[Row]
    places: list[int]
    removed: dict[str, int] = field(default_factory=dict)
    flagged: dict[str, int] = field(default_factory=dict)
    tidied: dict[str, int] = field(default_factory=dict)
    first_removed: dict[str, int] = field(default_factory=dict)


def tidy(text: str) -> str:
    """A text without invisible characters, spaces at line ends and around it, and piles of blank lines."""
    if _INVISIBLE.search(text):
        text = _INVISIBLE.sub("", text)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _BLANK_LINES.sub("\n\n\n", _SPACES_AT_LINE_END.sub("", text.strip()))


def same_key(text: str) -> str:
    """What two texts have in common when only width, case or white space tell them apart."""
    return _WHITE.sub(" ", unicodedata.normalize("NFKC", text)).strip().casefold()


def clean(rows: Sequence[Row], task: str) -> Cleaned:
    """Cleans rows of one task.

    Args:
        rows: as `shapes.rewrite` makes them; they are not changed.
        task: as in CONTRACTS.
    """
    out = Cleaned([], [])
    seen: set[bytes] = set()
    for place, row in enumerate(rows):
        tidied = _tidied(row, out)
        reason = _finish(tidied, task, out)
        if reason is None:
            mark = fingerprint(tidied)
            reason = "duplicate" if mark in seen else None
            seen.add(mark)
        if reason is not None:
            out.removed[reason] = out.removed.get(reason, 0) + 1
            out.first_removed.setdefault(reason, place)
            continue
        out.kept.append(tidied)
        out.places.append(place)
        for kind in flags.of_row(tidied, task, TOO_LONG):
            _count(out.flagged, kind)
    return out


def _count(counts: dict[str, int], kind: str) -> None:
    counts[kind] = counts.get(kind, 0) + 1


def _tidied(row: Row, out: Cleaned) -> Row:
    """A copy of the row with tidy texts; notes NULs and lone surrogates."""
    raw = "\n".join([*(t["content"] for t in row["messages"]), str(row.get("rejected_response", ""))])
    if "\x00" in raw:
        _count(out.tidied, "null_bytes")
    if _SURROGATES.search(raw):
        _count(out.tidied, "lone_surrogates")
    new = dict(row)
    new["messages"] = [{"role": t["role"], "content": tidy(t["content"])} for t in row["messages"]]
    for key in ("rejected_response", "text", "label"):
        if isinstance(row.get(key), str):
            new[key] = tidy(row[key])
    for key in ("positive_messages", "negative_messages"):
        if key in row:
            new[key] = [[{"role": t["role"], "content": tidy(t["content"])} for t in turns] for turns in row[key]]
    return new


def _finish(row: Row, task: str, out: Cleaned) -> str | None:
    """Brings a row's turns into order; the reason to remove it, or None."""
    if task == "pretrain":
        return None if row["messages"][0]["content"] else "empty_turns"
    if task in UNANSWERED_TASKS:
        texts = [row["messages"][0]["content"], *(turns[0]["content"] for turns in row["positive_messages"])]
        return None if all(texts) else "empty_turns"
    reason = _unusable(row["messages"])
    if reason:
        return reason
    ordered, done = in_order(row["messages"])
    if not ordered:
        return "empty_turns" if any(not t["content"] for t in row["messages"]) else "no_question"
    row["messages"] = ordered
    if task == "dpo":
        rejected = row["rejected_response"]
        reason = "identical_pair" if same_key(rejected) == same_key(ordered[-1]["content"]) else None
        reason = reason if rejected else "empty_answers"
    if reason is None:
        for kind in done:
            _count(out.tidied, kind)
    return reason


def _unusable(turns: Sequence[dict[str, str]]) -> str | None:
    """Why no order of the turns makes a dialogue, or None."""
    if not any(t["content"] for t in turns):
        return "empty_turns"
    answers = [t["content"] for t in turns if t["role"] == "assistant"]
    if not answers:
        return "only_user_turns"
    return None if any(answers) else "empty_answers"


def in_order(turns: Sequence[dict[str, str]]) -> tuple[list[dict[str, str]], list[str]]:
    """Turns as a trainer wants them: one system prompt first, then the user, then taking turns, an answer last.

    Returns:
        The turns, and what was done: joined_turns, leading_answer_cut, cut_at_empty_turn, trailing_question_cut.
    """
    done: list[str] = []
    system = [t["content"] for t in turns if t["role"] == "system" and t["content"]]
    out: list[dict[str, str]] = []
    for turn in (t for t in turns if t["role"] != "system"):
        if not turn["content"]:  # what follows an empty turn answers something that is not there
            done.append("cut_at_empty_turn")
            break
        if not out and turn["role"] != "user":
            done.append("leading_answer_cut")
            continue
        if out and out[-1]["role"] == turn["role"] and turn["role"] != "tool":
            out[-1] = {"role": turn["role"], "content": f"{out[-1]['content']}\n{turn['content']}"}
            done.append("joined_turns")
            continue
        out.append(dict(turn))
    while out and out[-1]["role"] != "assistant":
        out.pop()
        done.append("trailing_question_cut")
    head = [{"role": "system", "content": "\n".join(dict.fromkeys(system))}] if system and out else []
    return head + out, list(dict.fromkeys(done))


def row_text(row: Row) -> str:
    """All that a row says, the system prompt left out (it is the same in many rows and makes none alike)."""
    parts = [t["content"] for t in row["messages"] if t["role"] != "system"]
    parts += [str(row["rejected_response"])] if "rejected_response" in row else []
    for key in ("positive_messages", "negative_messages"):
        parts += [t["content"] for turns in row.get(key, []) for t in turns]
    return "\n".join(parts)


def fingerprint(row: Row) -> bytes:
    """Equal for rows that differ in width, case and white space only."""
    parts = [f"{t['role']}\x1f{same_key(t['content'])}" for t in row["messages"]]
    for key in ("rejected_response", "label", "images", "audios", "videos"):
        if key in row:
            parts.append(f"{key}\x1f{same_key(str(row[key]))}")
    for key in ("positive_messages", "negative_messages"):
        parts += [f"{key}\x1f{same_key(t['content'])}" for turns in row.get(key, []) for t in turns]
    return hashlib.sha256("\x1e".join(parts).encode("utf-8", "replace")).digest()


def prompt_key(row: Row) -> bytes:
    """Equal for rows that ask the same."""
    asked = "\x1e".join(same_key(t["content"]) for t in row["messages"] if t["role"] == "user")
    return hashlib.sha256(asked.encode("utf-8", "replace")).digest()
