"""Rewrites a record as {"messages": [{"role", "content"}, …]} with what its task needs beside."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autoswift.understand.columns import MEDIA_COLUMNS, Row, Shape, media_kind
from autoswift.understand.turns import Turn, parse_turns, text_of, transcript

GOOD = ("1", "true", "yes", "good", "desirable", "chosen", "up", "thumbsup", "like", "liked", "👍",
        "好", "是", "赞", "点赞", "满意", "喜欢", "采纳", "有用", "相关", "relevant")  # fmt: skip
BAD = ("0", "false", "no", "bad", "undesirable", "rejected", "down", "thumbsdown", "dislike", "disliked",
       "👎", "差", "否", "踩", "点踩", "不满意", "不喜欢", "未采纳", "没用", "不相关", "irrelevant")  # fmt: skip
MEDIA = frozenset(MEDIA_COLUMNS)
_PICTURE = re.compile(
    r"!\[[^\]]{0,200}\]\(\s{0,9}<?([^()\s]{1,1000})>?(?:\s{1,9}\"[^\"]{0,200}\")?\s{0,9}\)|<img>([^<>]{1,1000})</img>"
)
_TAGGED = re.compile(r"<(image|audio|video)>([^<>\s][^<>\n]{0,999})</\1>")


def verdict(value: Any) -> bool | None:
    """What a label says of an answer: good, bad, or None when it says neither."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    if not isinstance(value, str) or len(value) > 20:
        return None
    word = re.sub(r"[\s_-]+", "", value.lower())
    return True if word in GOOD else False if word in BAD else None


def rewrite(row: Mapping[str, Any], shape: Shape) -> Row | None:
    """A record as {"messages": …} with what its task needs beside; None when it does not have the shape's columns.

    Turns are as they stand in the record: cleaning comes later.
    """
    get = Cells(row, shape.columns)
    media: dict[str, list[str]] = {}
    out = _maker(shape)(get, media)
    if out is None:
        return None
    if shape.task == "kto":
        judged = verdict(get.raw("label"))
        if judged is None:
            return None
        out["label"] = judged
    if shape.task != "pretrain":
        _tagged(out["messages"], media)
    for kind in MEDIA_COLUMNS if media or not MEDIA.isdisjoint(shape.columns) else ():
        paths = media.get(kind, []) + get.paths(kind)
        if paths:
            out[kind] = paths
            _tag(out["messages"], f"<{kind[:-1]}>", len(paths))
    if "tools" in shape.columns and get.raw("tools"):
        out["tools"] = get.raw("tools")
    return out


def _maker(shape: Shape) -> Callable[[Cells, dict[str, list[str]]], Row | None]:
    if shape.name == "extraction":
        return _extraction
    makers = {"dpo": _preference, "classification": _labelled, "pretrain": _plain}
    pairs = shape.task in ("embedding", "reranking")
    return _pairs if pairs else makers.get(shape.task, _conversation)


class Cells:
    """A record's cells by role."""

    def __init__(self, row: Mapping[str, Any], columns: Mapping[str, str]) -> None:
        self.row, self.columns = row, columns

    def raw(self, role: str) -> Any:
        """The cell as it stands, or None."""
        return self.row.get(self.columns[role]) if role in self.columns else None

    def text(self, role: str) -> str | None:
        """The cell as text."""
        return text_of(self.raw(role))

    def paths(self, role: str) -> list[str]:
        """The files that a cell names: one, a list, a list as JSON, or several with commas between."""
        value = self.raw(role)
        if isinstance(value, str):
            value = _split(value)
        items = value if isinstance(value, list) else [value]
        found = [x.get("path") or x.get("url") if isinstance(x, dict) else x for x in items]
        return [x.strip() for x in found if isinstance(x, str) and x.strip()]


def _split(value: str) -> list[Any]:
    text = value.strip()
    if text[:1] == "[":
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            return [value]
        return parsed if isinstance(parsed, list) else [value]
    parts = [p.strip() for p in re.split(r"[,;|，；]", text)]
    return parts if len(parts) > 1 and all(map(media_kind, parts)) else [value]


def _tagged(turns: Sequence[Turn], media: dict[str, list[str]]) -> None:
    """Files that a user's text names by ![](…), <img>…</img> or <image>…</image> leave a tag there."""

    def take(found: re.Match[str]) -> str:
        path = found[1] or found[2] or ""
        kind = media_kind(path)
        if kind is None:
            return found[0]
        media.setdefault(kind, []).append(path)
        return f"<{kind[:-1]}>"

    def take_tagged(found: re.Match[str]) -> str:
        media.setdefault(f"{found[1]}s", []).append(found[2].strip())
        return f"<{found[1]}>"

    for turn in turns:
        text = turn["content"]
        if turn["role"] != "user" or ("![" not in text and "<" not in text):
            continue
        if "![" in text or "<img>" in text:
            text = _PICTURE.sub(take, text)
        if "</" in text:
            text = _TAGGED.sub(take_tagged, text)
        if text is not turn["content"]:
            turn["content"] = text


def _tag(turns: Sequence[Turn], tag: str, count: int) -> None:
    """As many tags as there are files: missing ones go before the first question."""
    missing = count - sum(t["content"].count(tag) for t in turns)
    first = next((t for t in turns if t["role"] == "user"), None)
    if first is not None and missing > 0:
        first["content"] = tag * missing + first["content"]


def _prompt(get: Cells) -> str:
    """The question of a record: instruction and input, question with its passage and choices."""
    parts = [get.text(role) for role in ("context", "instruction", "user", "input") if role in get.columns]
    if "choices" in get.columns and (choices := get.raw("choices")):
        values = list(choices.values()) if isinstance(choices, dict) else choices
        if isinstance(values, list):
            parts += [f"{chr(65 + i)}. {text_of(v) or ''}" for i, v in enumerate(values[:26])]
    return "\n".join(p.strip("\n") for p in parts if p and p.strip())


def _asked(get: Cells) -> list[Turn]:
    """The turns that a record's question is: mostly one, several where the cell holds a list of turns."""
    for role in ("user", "input"):
        value = get.raw(role)
        if isinstance(value, Mapping) and "messages" in value:
            value = value["messages"]
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            turns = parse_turns(value)
            if turns:
                return turns
    question = _prompt(get)
    return [{"role": "user", "content": question}] if question else []


def before(get: Cells) -> list[Turn]:
    """System prompt and earlier turns."""
    turns: list[Turn] = []
    if "system" in get.columns and (system := get.text("system")) and system.strip():
        turns.append({"role": "system", "content": system})
    return turns + (parse_turns(get.raw("history")) or []) if "history" in get.columns else turns


def _conversation(get: Cells, media: dict[str, list[str]]) -> Row | None:
    if "messages" in get.columns and (turns := parse_turns(get.raw("messages"), media)) is not None:
        return {"messages": [*([] if any(t["role"] == "system" for t in turns) else before(get)), *turns]}
    if "assistant" not in get.columns:
        return None
    asked = _asked(get) or [{"role": "user", "content": ""}]
    answer = _answer(get.raw("assistant"))
    head = [] if asked[0]["role"] == "system" else before(get)
    return {"messages": [*head, *asked, {"role": "assistant", "content": answer[1] if answer else ""}]}


def _labelled(get: Cells, media: dict[str, list[str]]) -> Row | None:
    text, label = get.text("text"), _label(get.raw("label"))
    if text is None and not label:
        return None
    second = get.text("positive") if get.columns.get("text") == get.columns.get("anchor") else None
    body = f"{text or ''}\n{second}" if second else text or ""
    messages = [{"role": "user", "content": body}, {"role": "assistant", "content": label}]
    return {"messages": [*before(get), *messages], "text": body, "label": label}


def _label(value: Any) -> str:
    """A label as text; several are joined."""
    if isinstance(value, list):
        return ", ".join(filter(None, map(_label, value)))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return (text_of(value) or "").strip()


def _plain(get: Cells, media: dict[str, list[str]]) -> Row | None:
    text = get.text("text")
    return None if text is None else {"messages": [{"role": "assistant", "content": text}], "text": text}


def _extraction(get: Cells, media: dict[str, list[str]]) -> Row | None:
    """A text and what is to be found in it, as JSON."""
    text, found = get.text("user"), get.raw("assistant")
    if text is None or found is None:
        return None
    if isinstance(found, list):
        found = [_entity(x, text) for x in found]
    answer = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    instruction = get.text("instruction")
    question = f"{instruction}\n{text}" if instruction and instruction != text else text
    return {"messages": [*before(get), {"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _entity(mark: Any, text: str) -> Any:
    """A place in a text with the words that stand there: a model writes words, not numbers."""
    if isinstance(mark, list) and len(mark) == 3 and all(isinstance(x, int) for x in mark[:2]):
        return {"text": text[mark[0] : mark[1]], "type": mark[2]}
    if isinstance(mark, dict):
        start = next((mark[k] for k in ("start", "start_offset", "begin") if k in mark), None)
        end = next((mark[k] for k in ("end", "end_offset") if k in mark), None)
        if isinstance(start, int) and isinstance(end, int):
            kind = next((mark[k] for k in ("label", "type", "entity", "entity_type") if k in mark), "")
            return {"text": mark.get("text") or text[start:end], "type": kind}
    return mark


def _answer(value: Any) -> tuple[list[Turn], str] | None:
    """A chosen or rejected cell as the turns before it and its last answer."""
    if isinstance(value, str):
        turns = (transcript(value) if "\n" in value else None) or []
        if turns and turns[-1]["role"] == "assistant":
            return turns[:-1], turns[-1]["content"]
        return [], value
    turns = parse_turns(value) or []
    if turns and turns[-1]["role"] == "assistant":
        return turns[:-1], turns[-1]["content"]
    text = text_of(value)
    return None if text is None else ([], text)


def _preference(get: Cells, media: dict[str, list[str]]) -> Row | None:
    rejected = _answer(get.raw("rejected"))
    turns = parse_turns(get.raw("messages"), media) or []
    if rejected is None:
        return None
    if "chosen" in get.columns:
        chosen = _answer(get.raw("chosen"))
        if chosen is None:
            return None
        asked_before, answer = chosen
        if turns and turns[-1]["role"] == "assistant":
            turns = turns[:-1]
    elif turns:
        if turns[-1]["role"] != "assistant":
            return None
        asked_before, answer, turns = [], turns[-1]["content"], turns[:-1]
    else:
        asked_before, answer = [], get.text("assistant") or ""
    asked = turns or (asked_before if len(asked_before) >= len(_asked(get)) else []) or _asked(get)
    head = [] if any(t["role"] == "system" for t in asked) else before(get)
    return {"messages": [*head, *asked, {"role": "assistant", "content": answer}], "rejected_response": rejected[1]}


def _pairs(get: Cells, media: dict[str, list[str]]) -> Row | None:
    """Anchor, positives and negatives as swift's embedding and re-ranking rows."""
    anchor = get.text("anchor") or get.text("user") or get.text("text")
    positive, negative = _texts(get.raw("positive")), _texts(get.raw("negative"))
    candidates, labels = get.raw("candidates"), get.raw("label")
    if isinstance(candidates, dict):  # MS MARCO: {"passage_text": […], "is_selected": […]}
        lists = [v for v in candidates.values() if isinstance(v, list)]
        labels = next((v for v in lists if v and all(x in (0, 1) for x in v)), None)
        candidates = next((v for v in lists if v and isinstance(v[0], str)), None)
    if isinstance(candidates, list) and isinstance(labels, list) and len(labels) == len(candidates):
        positive = [text_of(c) or "" for c, x in zip(candidates, labels, strict=True) if x]
        negative = [text_of(c) or "" for c, x in zip(candidates, labels, strict=True) if not x]
    if anchor is None or not positive:
        return None
    row: Row = {"messages": [{"role": "user", "content": anchor}]}
    row["positive_messages"] = [[{"role": "user", "content": p}] for p in positive]
    if negative:
        row["negative_messages"] = [[{"role": "user", "content": n}] for n in negative]
    score = _score(get)
    if score is not None and not negative:
        row["label"] = score
    return row


def _score(get: Cells) -> float | None:
    """How much two texts are alike, where a column says it."""
    value = get.raw("score") if "score" in get.columns else get.raw("label")
    judged = verdict(value)
    if judged is not None:
        return float(judged)
    try:
        return float(value) if isinstance(value, str | int | float) else None
    except ValueError:
        return None


def _texts(value: Any) -> list[str]:
    if isinstance(value, str) and value[:1] == "[":
        value = _split(value)
    items = value if isinstance(value, list) else [value]
    return [t for t in map(text_of, items) if t]
