"""One conversation in any notation becomes a list of turns with the roles system, user, assistant, tool."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

from autoswift.tables import table
from autoswift.understand.columns import aliases, key_of

Turn = dict[str, str]
ROLE_KEYS = ("role", "from", "speaker", "author", "sender", "角色", "说话人")
TEXT_KEYS = ("content", "value", "text", "message", "utterance", "内容", "body")
MEDIA = {"image": "images", "image_url": "images", "audio": "audios", "input_audio": "audios", "video": "videos"}
_PLAIN = {"role", "content"}
MAX_NAME = 40
"""Characters of a speaker's name."""
MAX_TITLED = 6
"""Characters of a Chinese name with a title in it (客服小李, 王医生): longer ones are words of a text."""
_SPEAKER = re.compile(r"^[^\S\n]{0,20}([^\s:：]{1,12})[^\S\n]{0,20}[:：][^\S\n]{0,20}", re.MULTILINE)


@cache
def role_names() -> dict[str, str]:
    """Any known name of a role, in lower case, to system, user, assistant or tool."""
    return {str(alias).lower(): role for role, names in table("understand")["roles"].items() for alias in names}


def role_of(name: object) -> str | None:
    """The role that a name stands for, or None."""
    if not isinstance(name, str) or len(name) > MAX_NAME:
        return None
    return _role(name)


@lru_cache(maxsize=4096)
def _role(name: str) -> str | None:
    """The role of "客服", "User 2", "客服小李", "王医生", "Agent Smith"."""
    names = role_names()
    key = re.sub(r"[\d\s_:：#]+$", "", name.strip().lower())
    found = names.get(key) or names.get(name.strip().lower())
    if found or not key:
        return found
    first = re.split(r"[\s_\-]", key, maxsplit=1)[0]
    if first.isascii() and first != key and len(first) >= 4:
        return names.get(first)
    if len(key) > MAX_TITLED:
        return None
    titles = [t for t in names if len(t) >= 2 and not t.isascii() and (key.startswith(t) or key.endswith(t))]
    return names[max(titles, key=len)] if titles else None


def is_turns(value: Any) -> bool:
    """Whether a value is a list of turns, not a list of dialogues."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(value, list) and not (isinstance(first, list) and first and isinstance(first[0], dict))


def text_of(value: Any) -> str | None:
    """What a cell says as text: a string as it is, a number or truth value as JSON, a list's first text; else None."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, list) and value:
        return text_of(value[0])
    if isinstance(value, Mapping):
        for key in ("text", "content", "value"):  # SQuAD's answers: {"text": ["…"]}
            if key in value:
                return text_of(value[key])
    return None


def parse_turns(value: Any, media: dict[str, list[str]] | None = None) -> list[Turn] | None:
    """The turns of a conversation, or None when the value is none.

    Args:
        value: a list of {"role", "content"} or {"from", "value"} objects, of one-key objects ({"user": "…"}), of
            [question, answer] pairs or of texts that take turns; any of these as JSON in a string; or a transcript.
        media: collects the paths of pictures, sound and films named in the turns.
    """
    if isinstance(value, str):
        return _from_string(value, media)
    if isinstance(value, Mapping):
        return _from_string(str(value.get("text", "")), media)
    if not isinstance(value, Sequence) or not value:
        return None
    if all(isinstance(x, Mapping) for x in value):
        turns = [_one(x, media) for x in value]
        if all(t is not None for t in turns):
            return [t for part in turns if part is not None for t in part]
        return _two_speakers(value)
    if all(isinstance(x, str) for x in value):
        return _spoken(value)
    if all(isinstance(x, list) and len(x) == 2 for x in value):
        pairs = [(text_of(q), text_of(a)) for q, a in value]
        return [t for q, a in pairs for t in (_turn("user", q or ""), _turn("assistant", a or ""))]
    return None


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def _one(item: Mapping[str, Any], media: dict[str, list[str]] | None) -> list[Turn] | None:
    """The turn of one object; a {question, answer} object makes two."""
    if item.keys() == _PLAIN and isinstance(item["content"], str) and (plain := role_of(item["role"])):
        return [{"role": plain, "content": item["content"]}]
    name = next((item[k] for k in ROLE_KEYS if k in item), None)
    role = role_of(name)
    if role:
        if item.get("tool_calls") and not item.get("content"):
            return [_turn(role, json.dumps(item["tool_calls"], ensure_ascii=False))]
        content = next((item[k] for k in TEXT_KEYS if k in item), None)
        return [_turn(role, _content(content, media))]
    if name is None:
        known = [(role_of(k) or _column_role(k), v) for k, v in item.items()]
        spoken = [(r, text_of(v)) for r, v in known if r]
        if spoken and all(isinstance(t, str) for _, t in spoken):
            return [_turn(r, t or "") for r, t in sorted(spoken, key=lambda x: x[0] == "assistant")]
    return None


def _column_role(name: object) -> str | None:
    key = key_of(name)
    return next((r for r in ("user", "assistant", "system") if key in aliases()[r]), None)


def _content(value: Any, media: dict[str, list[str]] | None) -> str:
    """A message's text; parts that are pictures leave a tag and go into `media`."""
    if not isinstance(value, list):
        return text_of(value) or ""
    texts: list[str] = []
    for part in value:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping):
            kind = str(part.get("type", "text"))
            if kind in MEDIA:
                where = part.get(kind)
                path = where.get("url") if isinstance(where, Mapping) else where
                if media is not None and isinstance(path, str):
                    media.setdefault(MEDIA[kind], []).append(path)
                texts.append(f"<{MEDIA[kind][:-1]}>")
            else:
                texts.append(text_of(part.get("text")) or "")
    return "".join(texts)


def _two_speakers(items: Sequence[Any]) -> list[Turn] | None:
    """Turns of two speakers whose names are not roles: who speaks first asks."""
    names = [next((x[k] for k in ROLE_KEYS if k in x), None) for x in items]
    texts = [next((text_of(x[k]) for k in TEXT_KEYS if k in x), None) for x in items]
    if any(not isinstance(n, str) for n in names) or any(t is None for t in texts):
        return None
    unknown = [str(n) for n in dict.fromkeys(names) if role_of(n) is None]
    taken = {role_of(n) for n in names}
    free = [r for r in ("user", "assistant") if r not in taken]
    if len(unknown) > len(free):
        return None
    roles = dict(zip(unknown, free, strict=False))
    return [_turn(role_of(n) or roles[str(n)], t or "") for n, t in zip(names, texts, strict=True)]


def _spoken(texts: Sequence[str]) -> list[Turn]:
    """Texts that take turns, the user first, unless each begins with its speaker."""
    marked = [_SPEAKER.match(t) for t in texts]
    if all(m and role_of(m.group(1)) for m in marked):
        return [_turn(role_of(m.group(1)) or "user", t[m.end() :]) for m, t in zip(marked, texts, strict=True) if m]
    return [_turn("user" if i % 2 == 0 else "assistant", t) for i, t in enumerate(texts)]


def _from_string(value: str, media: dict[str, list[str]] | None) -> list[Turn] | None:
    text = value.strip()
    if text[:1] == "[":
        try:
            return parse_turns(json.loads(text), media)
        except (ValueError, RecursionError):
            return None
    return transcript(value)


def transcript(text: str) -> list[Turn] | None:
    """The turns of "User: …" / "客服：…" lines; None unless it begins so and both sides speak."""
    marks = [m for m in _SPEAKER.finditer(text) if role_of(m.group(1))]
    if len(marks) < 2 or text[: marks[0].start()].strip():
        return None
    turns = []
    for m, after in zip(marks, [*marks[1:], None], strict=True):
        turns.append(
            _turn(role_of(m.group(1)) or "user", text[m.end() : after.start() if after else len(text)].strip())
        )
    return turns if {"user", "assistant"} <= {t["role"] for t in turns} else None
