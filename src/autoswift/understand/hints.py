"""Hardware and constraints that a sentence names, by the patterns of the table."""

from __future__ import annotations

import re
from functools import cache

from autoswift.tables import table
from autoswift.understand.setting import clause_of, group, is_subject, near, negated

_NUMBERS = {"单": 1, "一": 1, "双": 2, "两": 2, "二": 2, "三": 3, "四": 4, "五": 5, "六": 6, "八": 8, "十六": 16}
_NUMBERS |= {"one": 1, "single": 1, "two": 2, "dual": 2, "three": 3, "four": 4, "six": 6, "eight": 8}
_MANY = "|".join(sorted(_NUMBERS, key=len, reverse=True))
_COUNTED = re.compile(rf"({_MANY}|\d{{1,3}})\s?-?(?:卡|张|块|台|[x×*]|gpu|card|(?=[halvb]\d|rtx))")
_TIMES = re.compile(r"[x×*]\s?(\d{1,3})$|([单双四八])卡$")
_GIGABYTES = re.compile(r"(?<!\d)(\d{1,4})\s?(?:gib|gb|g)(?![a-z])")
_CARD_G = re.compile(r"(?<![a-z0-9])a10g")
_MAIN_MEMORY = re.compile(r"内存|(?<!v)ram(?!\w)|unified")


def _text(name: str) -> str:
    return f"(?:{'|'.join(table('understand')['patterns'][name])})"


@cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(_text(name), re.IGNORECASE)


@cache
def _hardware() -> re.Pattern[str]:
    """Any machine; what says more comes first."""
    card = (
        rf"(?<![a-z0-9.]){_text('count')}?(?:nvidia\s?)?(?:geforce\s?)?{_text('gpu')}s?(?![a-z0-9])"
        r"(?:\s?[x×*]\s?\d{1,3}(?![\dg]))?(?:\s?(?:显卡|gpus?|cards?)(?![a-z]))?"
    )
    parts = (_text("no_gpu"), card, _text("machine"), _text("memory"), _text("cards"))
    return re.compile("|".join(parts), re.IGNORECASE)


def hardware(text: str) -> tuple[str, ...]:
    """The machines that a sentence names, in its own words: ("单卡3090", "24GB").

    Args:
        text: half-width, single-spaced, in its own capitals.
    """
    found: list[str] = []
    for m in _hardware().finditer(text):
        words = m.group().strip()
        if _pattern("memory").fullmatch(words) and _pattern("not_memory").match(text, m.end()):
            continue
        if not _pattern("no_gpu").fullmatch(words) and negated(text.lower(), m.start()):
            continue
        if words not in found:
            found.append(words)
    return tuple(found)


def device_count(words: tuple[str, ...]) -> int | None:
    """How many training devices hardware words speak of, or None when they do not say."""
    for one in map(str.lower, words):
        m = _TIMES.search(one) or _COUNTED.match(one)
        if m:
            number = next(g for g in m.groups() if g)
            return _NUMBERS.get(number) or int(number)
    return None


def constraints(text: str, machines: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Licence, privacy, latency, size, cost, devices and answer language that a normalised sentence demands.

    Returns:
        The constraints, and for each the words that it rests on.
    """
    found = _worded(text) | _measured(text) | _of_machines(machines)
    for language in table("understand")["answer_language"]:
        m = group("answer_language", language).search(text)
        if m and not negated(text, m.start()):
            found.setdefault("answer_language", (language, m.group()))
    return {k: value for k, (value, _) in found.items()}, {k: words.strip() for k, (_, words) in found.items()}


@cache
def _constraint(name: str, value: str) -> re.Pattern[str]:
    words = "|".join(table("understand")["constraints"][name][value])
    return re.compile(rf"(?<![a-z])(?:{words})(?![a-z])")


def _worded(text: str) -> dict[str, tuple[str, str]]:
    """Licence and privacy: the first value that the table lists and the sentence says."""
    found: dict[str, tuple[str, str]] = {}
    for name, values in table("understand")["constraints"].items():
        for value in values:
            m = _constraint(name, value).search(text)
            if m and not _mentioned(name, text, m):
                found.setdefault(name, (value, m.group()))
    return found


def _mentioned(name: str, text: str, m: re.Match[str]) -> bool:
    """Whether the words of a constraint only mention it: "not open source", "questions about GDPR"."""
    if name == "licence":
        return negated(text, m.start())
    return name == "privacy" and is_subject(text, m.start(), m.end())


def _measured(text: str) -> dict[str, tuple[str, str]]:
    """Latency, model size, and what training may cost in money and time."""
    found: dict[str, tuple[str, str]] = {}
    said = re.search(
        rf"{_text('latency_before')}[^,.;，。；]{{0,16}}?({_text('duration')})|({_text('duration')})(?:响应|返回|回复|出结果)",
        text,
    )
    if said:
        found["latency"] = ((said.group(1) or said.group(2)).strip(), said.group())
    elif low := _pattern("latency_low").search(text):
        found["latency"] = ("low", low.group())
    for name in ("budget", "time"):
        if spent := _pattern(name).search(text):
            found[name] = (next(g for g in spent.groups() if g).strip(), spent.group())
    if size := _pattern("parameters").search(text):
        found["parameters"] = (f"<={size.group(1) or size.group(2)}B", size.group())
    return found


def _of_machines(machines: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """How many devices, and how much memory each has."""
    found: dict[str, tuple[str, str]] = {}
    count = device_count(machines)
    if count:
        found["devices"] = (str(count), ", ".join(machines))
    for one in machines:
        m = _GIGABYTES.search(_CARD_G.sub("", one.lower()))
        if m and not _MAIN_MEMORY.search(one.lower()):
            found.setdefault("memory_gb", (m.group(1), one))
    return found


def runs_on(text: str, start: int, end: int) -> bool:
    """Whether a place in a normalised sentence is where the model shall be served, not where it is trained.

    The nearer of the two kinds of words decides: "train on AWS, deploy to a Raspberry Pi".
    """
    if not near(text, start, end, group("serving")):
        return False
    serve, train = (gap(text, start, end, group(name)) for name in ("serving", "training"))
    return train is None or (serve is not None and serve <= train)


def gap(text: str, start: int, end: int, words: re.Pattern[str]) -> int | None:
    """Characters between a span and the nearest of the words in its clause, or None."""
    begin, stop = clause_of(text, start)
    gaps = [
        start - m.end() if m.end() <= start else m.start() - end
        for m in words.finditer(text, begin, stop)
        if m.end() <= start or m.start() >= end
    ]
    return min(gaps, default=None)
