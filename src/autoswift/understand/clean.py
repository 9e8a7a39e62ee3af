"""Tidies rows, removes those that teach nothing with the reason counted, and marks those to know about."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoswift.understand import flags
from autoswift.understand.boilerplate import is_about_markup, may_have_phrases, without_markup, without_phrases
from autoswift.understand.language import HAN
from autoswift.understand.redact import redact
from autoswift.understand.text import has_surrogates, same_key, tidy

Row = dict[str, Any]
TOO_LONG = 32_000
"""Characters of a row that is flagged as too long: 10,000 tokens or more in any language, beyond what a plan trains on
by itself. The exact limit is the tokenizer's business, later."""
UNANSWERED_TASKS = ("embedding", "reranking")
REASONS = (
    "empty_turns",
    "mixed_columns",
    "only_user_turns",
    "empty_answers",
    "no_question",
    "identical_pair",
    "degenerate_answer",
    "duplicate",
    "near_duplicate",
    "test_overlap",
)
"""Why a row is removed."""
TIDIED = (
    "null_bytes",
    "lone_surrogates",
    "html",
    "boilerplate",
    "joined_turns",
    "leading_answer_cut",
    "cut_at_empty_turn",
    "trailing_question_cut",
    "late_system",
)
"""What is done to a row that is kept."""
ROUNDS = 20
"""Each round shortens a row or is the last; entities inside entities ("&amp;amp;lt;") take one a level."""


@dataclass(slots=True)
class Outcome:
    """One row after cleaning.

    Attributes:
        reason: why it is removed; empty when it is kept.
        done: what was changed, of `TIDIED`. masked: kinds of personal data, once for each piece.
    """

    row: Row
    reason: str = ""
    done: list[str] = field(default_factory=list)
    masked: list[str] = field(default_factory=list)


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


def clean(rows: Sequence[Row], task: str) -> Cleaned:
    """Cleans rows of one task, exact duplicates among them removed.

    Args:
        rows: as `shapes.rewrite` makes them; they are not changed.
        task: as in CONTRACTS.
    """
    out = Cleaned([], [])
    seen: set[bytes] = set()
    for place, row in enumerate(rows):
        one = clean_row(row, task)
        if not one.reason:
            mark = fingerprint(one.row)
            one.reason = "duplicate" if mark in seen else ""
            seen.add(mark)
        if one.reason:
            out.removed[one.reason] = out.removed.get(one.reason, 0) + 1
            continue
        out.kept.append(one.row)
        out.places.append(place)
        for counts, kinds in ((out.flagged, flags.of_row(one.row, task, TOO_LONG)), (out.tidied, one.done)):
            for kind in kinds:
                counts[kind] = counts.get(kind, 0) + 1
    return out


def clean_row(row: Row, task: str, *, mask: bool = False) -> Outcome:
    """Cleans one row; cleaning what comes out changes nothing.

    Args:
        row: as `shapes.rewrite` makes it; it is not changed.
        task: as in CONTRACTS.
        mask: personal data is replaced by words for its kind.
    """
    out = _once(row, task, mask)
    for _ in range(ROUNDS):
        if out.reason or (not out.masked and out.done in ([], ["null_bytes"], ["lone_surrogates"])):
            break
        more = _once(out.row, task, mask)
        if more.row == out.row and not more.reason:
            break
        done = list(dict.fromkeys([*out.done, *more.done]))
        out = Outcome(more.row, more.reason, done, [*out.masked, *more.masked])
    return out


def _once(row: Row, task: str, mask: bool) -> Outcome:
    out = Outcome(_tidied(row))
    raw = "\n".join([t["content"] for t in row["messages"]])
    if "rejected_response" in row:
        raw += "\n" + str(row["rejected_response"])
    if "\x00" in raw:
        out.done.append("null_bytes")
    if has_surrogates(raw):
        out.done.append("lone_surrogates")
    _strip(out, raw)
    if task == "reranking":  # ms-swift puts each document behind the question: as its answer
        for key in ("positive_messages", "negative_messages"):
            for turns in out.row.get(key, []):
                turns[0]["role"] = "assistant"
    out.reason = _finish(out, task)
    if mask and not out.reason:
        chinese = bool(HAN.search(raw))
        _each_text(out.row, lambda text: _masked(text, chinese, out.masked))
    return out


def _masked(text: str, chinese: bool, masked: list[str]) -> str:
    text, kinds = redact(text, chinese)
    masked += kinds
    return text


def _tidied(row: Row) -> Row:
    """A copy of the row with tidy texts."""
    new = dict(row)
    new["messages"] = [{"role": t["role"], "content": t["content"]} for t in row["messages"]]
    for key in ("positive_messages", "negative_messages"):
        if key in row:
            new[key] = [[{"role": t["role"], "content": t["content"]} for t in turns] for turns in row[key]]
    _each_text(new, tidy)
    return new


def _each_text(row: Row, change: Callable[[str], str]) -> None:
    """Changes every text of a row in place."""
    for turn in row["messages"]:
        turn["content"] = change(turn["content"])
    for key in ("rejected_response", "text", "label"):
        if isinstance(row.get(key), str):
            row[key] = change(row[key])
    for key in ("positive_messages", "negative_messages"):
        for turns in row.get(key, ()):
            for turn in turns:
                turn["content"] = change(turn["content"])


def _strip(out: Outcome, raw: str) -> None:
    """Takes out what web pages left."""
    if ("<" in raw or "&" in raw) and not is_about_markup([raw]):
        _change_texts(out, "html", without_markup)
    if may_have_phrases(raw):
        _change_texts(out, "boilerplate", without_phrases)


def _change_texts(out: Outcome, kind: str, change: Callable[[str], str]) -> None:
    changed = False

    def one(text: str) -> str:
        nonlocal changed
        new = change(text)
        if new == text:
            return text
        changed = True
        return tidy(new)

    _each_text(out.row, one)
    if changed:
        out.done.append(kind)


def _finish(out: Outcome, task: str) -> str:
    """Brings a row's turns into order; the reason to remove it, or nothing."""
    row = out.row
    if task == "pretrain":
        return "" if row["messages"][0]["content"] else "empty_turns"
    if task in UNANSWERED_TASKS:
        texts = [row["messages"][0]["content"], *(turns[0]["content"] for turns in row["positive_messages"])]
        return "" if all(texts) else "empty_turns"
    if reason := _unusable(row["messages"]):
        return reason
    ordered, done = in_order(row["messages"])
    if not ordered:
        return "empty_turns" if any(not t["content"] for t in row["messages"]) else "no_question"
    row["messages"] = ordered
    if task == "dpo":
        rejected = row["rejected_response"]
        if not rejected:
            return "empty_answers"
        if same_key(rejected) == same_key(ordered[-1]["content"]):
            return "identical_pair"
    out.done += done
    return "degenerate_answer" if flags.is_noise(ordered[-1]["content"]) else ""


def _unusable(turns: Sequence[dict[str, str]]) -> str:
    """Why no order of the turns makes a dialogue, or nothing."""
    answers = [t["content"] for t in turns if t["role"] == "assistant"]
    if any(answers):
        return ""
    if not any([t["content"] for t in turns]):
        return "empty_turns"
    return "empty_answers" if answers else "only_user_turns"


def in_order(turns: Sequence[dict[str, str]]) -> tuple[list[dict[str, str]], list[str]]:
    """Turns as a trainer wants them: one system prompt first, then the user, then taking turns, an answer last.

    Returns:
        The turns, and what was done: joined_turns, leading_answer_cut, cut_at_empty_turn, trailing_question_cut,
        late_system.
    """
    if _is_in_order(turns):
        return list(turns), []
    done: list[str] = []
    system = [t["content"] for t in turns if t["role"] == "system" and t["content"]]
    if any(t["role"] == "system" for t in turns[1:]):
        done.append("late_system")
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


def _is_in_order(turns: Sequence[dict[str, str]]) -> bool:
    """Whether nothing is to be done, as for most rows."""
    spoken = turns[1:] if turns[0]["role"] == "system" and turns[0]["content"] else turns
    asks = len(spoken) > 1 and len(spoken) % 2 == 0
    return asks and all(t["content"] and t["role"] == ("assistant" if i % 2 else "user") for i, t in enumerate(spoken))


def row_text(row: Row) -> str:
    """All that a row says, the system prompt left out (it is the same in many rows and makes none alike)."""
    parts = [t["content"] for t in row["messages"] if t["role"] != "system"]
    parts += [str(row["rejected_response"])] if "rejected_response" in row else []
    for key in ("positive_messages", "negative_messages"):
        parts += [t["content"] for turns in row.get(key, []) for t in turns]
    return "\n".join(parts)


@dataclass(frozen=True, slots=True)
class Keys:
    """What a row has in common with others, as digests and texts after `same_key`.

    Attributes:
        whole: equal for rows that differ in width, case and white space only: 32 bytes.
        prompt: equal for rows that ask the same; empty where nobody asks.
        answer: what is answered: the last answer, the rejected one, the texts to be found.
        text: all that the row says but the system prompt. turns: each turn.
    """

    whole: bytes
    prompt: str
    answer: str
    text: str
    turns: list[str]


def keys_of(row: Row) -> Keys:
    """The keys of a clean row."""
    turns = [(t["role"], same_key(t["content"])) for t in row["messages"]]
    parts = [f"{role}\x1f{key}" for role, key in turns]
    spoken = [key for role, key in turns if role != "system"]
    answer = [turns[-1][1]] if turns[-1][0] == "assistant" else []
    for key in ("rejected_response", "label", "images", "audios", "videos"):
        if key in row:
            value = same_key(str(row[key]))
            parts.append(f"{key}\x1f{value}")
            if key == "rejected_response":
                spoken.append(value)
                answer.append(value)
    for key in ("positive_messages", "negative_messages"):
        if key in row:
            texts = [same_key(t["content"]) for turns in row[key] for t in turns]
            parts += [f"{key}\x1f{text}" for text in texts]
            spoken += texts
            answer += texts
    return Keys(
        whole=hashlib.sha256("\x1e".join(parts).encode("utf-8", "replace")).digest(),
        prompt="\x1e".join(key for role, key in turns if role == "user"),
        answer="\x1e".join(answer),
        text="\n".join(spoken),
        turns=[key for _, key in turns],
    )


def fingerprint(row: Row) -> bytes:
    """Equal for rows that differ in width, case and white space only."""
    return keys_of(row).whole
