"""Marks rows that are kept but should be known about: personal data, injected instructions, empty talk."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from autoswift.understand.text import same_key

_DIGITS = r"(?<![\d.])"
_END = r"(?![\d])"
_NUMBER = re.compile(r"\d[\d\s().-]{5,}[\dXx]")
_HINT = re.compile(
    r"\d[\d\s().-]{5,}[\dXx]|@|\d\s?(?:号|弄|栋|幢|单元|室)|\d +[A-Z]|我叫|名字|姓名|联系人|件人|货人|[Nn]ame"
)
"""One of these stands in every text with personal data: most texts are done with after one look."""
PHONE = re.compile(
    rf"{_DIGITS}(?:\+?86[\s-]?)?1[3-9]\d[\s-]?\d{{4}}[\s-]?\d{{4}}{_END}"
    rf"|{_DIGITS}0\d{{2,3}}-\d{{7,8}}{_END}"
    rf"|{_DIGITS}(?:\+1[\s.-]?)?\(?[2-9]\d{{2}}\)?[\s.-]\d{{3}}[\s.-]\d{{4}}{_END}"
    rf"|(?<!\w)\+\d{{1,3}}(?:[\s-]\d{{2,4}}){{2,4}}{_END}"
)
EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,4}\.[A-Za-z]{2,24}")
ID_CARD = re.compile(
    rf"{_DIGITS}[1-9]\d{{5}}(?:19|20)\d{{2}}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{{3}}[\dXx]{_END}"
    rf"|{_DIGITS}\d{{3}}-\d{{2}}-\d{{4}}{_END}"
)
BANK_CARD = re.compile(rf"{_DIGITS}[3-6]\d{{3}}(?:[ -]?\d{{4}}){{2,3}}(?:[ -]?\d{{1,4}})?{_END}")
ADDRESS = re.compile(
    r"[\u4e00-\u9fff]{2,10}(?:省|市|区|县)[\u4e00-\u9fffA-Za-z0-9]{1,20}?(?:路|街|道|巷|弄|镇|村)"
    r"[\u4e00-\u9fffA-Za-z0-9]{0,12}?\d{1,5}\s?(?:号|弄|栋|幢|单元|室)"
    r"(?:[\dA-Za-z-]{0,6}(?:号楼|楼|栋|幢|单元|室|层|座|号))*"
    r"|\b\d{1,5}\s+(?:[A-Z][a-z]+\s){1,3}(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct)\b"
)
_HOUSE = re.compile(r"\d\s?(?:号|弄|栋|幢|单元|室)|\d\s+[A-Z]")
_STREET = 60
"""Characters of an address before and behind its house number."""
_BEFORE_ADDRESS = re.compile(
    r"[\u4e00-\u9fff]{0,6}?(?:寄[到往给]|[发送寄][到往]|住[在址]?|位于|地址|[在到是为])[是为在]?"
)
"""What leads up to an address and is none of it: no name of a province has these characters at its beginning."""
_SURNAMES = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔钟谭陆汪范"
    "金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤"
)
NAME = re.compile(
    r"(?:我叫|我的名字[是叫]|姓名\s?[:：是为]\s?|联系人\s?[:：是]\s?|收[件货]人\s?[:：是]\s?|患者姓名\s?[:：]?\s?)"
    rf"(?P<zh>(?:欧阳|上官|司马|诸葛|司徒|东方|皇甫|慕容|[{_SURNAMES}])[\u4e00-\u9fff]{{1,2}})"
    r"(?=$|[\s，。,.!！?？;；、：:）)]|今年|电话|手机|是)"
    r"|(?:[Mm]y (?:full )?name is|[Ff]ull name\s?:|[Cc]ustomer name\s?:)\s+(?P<en>[A-Z][a-z]+(?:\s[A-Z][a-z]+){0,2})\b"
)
"""Only where the text says that it is a name, and with one of the hundred commonest surnames (85 % of people in China):
`我叫他来` is none."""
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
INJECTION = re.compile(
    r"ignore (?:all |any |the )*(?:previous|prior|above|earlier) (?:instructions?|prompts?|rules)"
    r"|disregard (?:all |the )*(?:previous|above|prior)"
    r"|(?:reveal|print|repeat|show)(?: me)? (?:your|the) (?:system )?prompt|you are now (?:dan|in developer mode)"
    r"|jailbreak"
    r"|(?:忽略|无视|忘记|忘掉)(?:你)?(?:以上|上面|之前|前面|先前|此前|所有|一切)(?:的)?(?:所有|全部|一切)?(?:的)?"
    r"(?:指令|指示|要求|提示|规则|设定|内容)"
    r"|(?:输出|告诉我|打印|重复)(?:你的)?(?:系统提示|系统指令|初始指令)"
    r"|<\|(?:im_start|im_end|endoftext|system|eot_id)\|>|\[/?INST\]|<<SYS>>",
    re.IGNORECASE,
)
FORMULA = re.compile(
    r"^\s*(?:=|@|\+|-)\s*(?:cmd|dde|hyperlink|importxml|importdata|webservice|exec|sum|[A-Z]{2,12}\()|^\s*=[\w+(\"']",
    re.IGNORECASE,
)
MASK = "***"
NUMBERS = re.compile(r"\d+")
LEAK_LENGTH = 2
"""A label of one character stands in any text by accident."""


def luhn(number: str) -> bool:
    """Whether a card number's check digit is right."""
    total = 0
    for i, c in enumerate(reversed(re.sub(r"\D", "", number))):
        d = int(c) * (2 if i % 2 else 1)
        total += d - 9 if d > 9 else d
    return total % 10 == 0


def _id_card(text: str) -> bool:
    """Whether a Chinese resident number's check digit is right; US social security numbers have none."""
    if "-" in text:
        return True
    return "10X98765432"[sum(int(c) * w for c, w in zip(text[:17], _WEIGHTS, strict=True)) % 11] == text[17].upper()


def _bank_card(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return 13 <= len(digits) <= 19 and luhn(digits) and len(set(digits)) > 1


def pii(text: str) -> list[tuple[str, int, int]]:
    """Personal data in a text as (kind, start, end); kinds phone, email, id_card, bank_card, address, name."""
    if not _HINT.search(text):
        return []
    found: list[tuple[str, int, int]] = []
    taken: list[tuple[int, int]] = []
    for kind, start, end in _suspects(text):
        at = bisect(taken, (start, end))
        free = (at == 0 or taken[at - 1][1] <= start) and (at == len(taken) or taken[at][0] >= end)
        if free:
            taken.insert(at, (start, end))
            found.append((kind, start, end))
    return found


def _suspects(text: str) -> Iterator[tuple[str, int, int]]:
    """Pieces that look like personal data, the surest kinds first: a card number holds what reads like a phone's."""
    if _NUMBER.search(text):
        yield from (("id_card", *m.span()) for m in ID_CARD.finditer(text) if _id_card(m.group()))
        yield from (("bank_card", *m.span()) for m in BANK_CARD.finditer(text) if _bank_card(m.group()))
        yield from (("phone", *m.span()) for m in PHONE.finditer(text))
    yield from _addresses(text)
    if "@" in text:
        yield from (("email", *m.span()) for m in EMAIL.finditer(text))
    yield from (("name", *m.span("zh" if m["zh"] else "en")) for m in NAME.finditer(text))


def _addresses(text: str) -> Iterator[tuple[str, int, int]]:
    """Addresses: only about a house number, since the whole pattern is slow on a long text."""
    last = 0
    for house in _HOUSE.finditer(text):
        begin = max(last, house.start() - _STREET)
        if house.end() > last and (m := ADDRESS.search(text, begin, house.end() + _STREET)):
            before = _BEFORE_ADDRESS.match(m.group())
            yield "address", m.start() + (before.end() if before else 0), m.end()
            last = m.end()


def blotted(text: str, word: Callable[[str], str]) -> tuple[str, list[str]]:
    """A text with its personal data replaced by a word for its kind, and the kinds, once for each piece."""
    found = sorted(pii(text), key=lambda f: f[1])
    parts, at = [], 0
    for kind, start, end in found:
        parts += [text[at:start], word(kind)]
        at = end
    return ("".join([*parts, text[at:]]) if found else text), [kind for kind, _, _ in found]


def masked(text: str) -> str:
    """A text with its personal data blotted out, so that a report may show it."""
    return blotted(text, lambda _: MASK)[0]


_INJECTION_HINT = re.compile(
    r"ignore|disregard|prompt|you are now|jailbreak|忽略|无视|忘记|忘掉|指令|系统提示|<\||inst\]|<<sys"
)


def injects(text: str) -> bool:
    """Whether a text tries to take over a model, or holds its control tokens."""
    return bool(_INJECTION_HINT.search(text.lower())) and bool(INJECTION.search(text))


REPEATS, REPEATED = 10, 20
"""An answer that is one unit of up to four characters, at least ten times and twenty characters long, is noise."""
LOOP, LOOPED = 60, 4
"""A model that got stuck repeats its last words: from 60 characters on, four times the last twelve."""
LAST = 12
LOOP_SHARE = 0.4
"""Of four-character pieces that are different, in running text 0.8 and more."""
SHORT = 10
"""Characters of an answer that may be the same in many rows: "好的", "OK, thanks"."""


def is_noise(answer: str) -> bool:
    """Whether an answer is nothing but a few characters repeated: a stuck key, a broken export."""
    if len(answer) < REPEATED or answer[0] not in answer[1:5]:
        return False
    period = (answer + answer).find(answer, 1)
    return period <= 4 and len(answer) >= REPEATS * period


def degenerate(question: str, answer: str) -> str | None:
    """What is wrong with an answer that says nothing: repeated, looping, wordless, same_as_question; or None.

    Args:
        question: what was asked, after `same_key`. answer: likewise.
    """
    if len(answer) > 4 and answer[0] == answer[1] == answer[-1] and len(set(answer)) == 1:
        return "repeated"
    loops = len(answer) >= LOOP and answer.count(answer[-LAST:]) >= LOOPED
    if loops and len({answer[i : i + 4] for i in range(len(answer) - 3)}) < len(answer) * LOOP_SHARE:
        return "looping"
    if not answer[:1].isalnum() and answer.isascii() and not any(c.isalnum() for c in answer):
        return "wordless"
    return "same_as_question" if answer == question else None


def of_row(row: Mapping[str, Any], task: str, too_long: int, keys: Sequence[str] = ()) -> list[str]:
    """The flags of one row.

    Args:
        row: clean.
        task: as in CONTRACTS.
        too_long: characters from which on it is.
        keys: of its messages, after `same_key`, where they are at hand.
    """
    turns = row["messages"]
    texts = [t["content"] for t in turns]
    if "rejected_response" in row:
        texts.append(str(row["rejected_response"]))
    whole = "\n".join(texts)
    found: list[str] = []
    if personal := pii(whole):
        found = ["pii", *(f"pii_{k}" for k in sorted({kind for kind, _, _ in personal}))]
    if injects(whole):
        found.append("prompt_injection")
    if len(whole) > too_long:
        found.append("too_long_rows")
    if task == "classification":
        if label_leaks(str(row.get("text", "")), str(row.get("label", ""))):
            found.append("label_leak")
    elif turns[-1]["role"] == "assistant":
        said = keys or [same_key(t) for t in texts[: len(turns)]]
        if what := degenerate(said[-2] if len(said) > 1 else "", said[-1]):
            found += ["degenerate_answers", f"degenerate_{what}"]
    return found


def label_leaks(text: str, label: str) -> bool:
    """Whether the text says its own label, as a word of its own where the label is Latin."""
    if len(label) < LEAK_LENGTH:
        return False
    if label.isascii():
        return bool(re.search(rf"(?<!\w){re.escape(label)}(?!\w)", text, re.IGNORECASE))
    return label in text
