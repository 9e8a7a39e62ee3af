"""Marks rows that are kept but should be known about: personal data, injected instructions, leaked labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_DIGITS = r"(?<![\d.])"
_END = r"(?![\d])"
_NUMBER = re.compile(r"\d")
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
    r"|\b\d{1,5}\s+(?:[A-Z][a-z]+\s){1,3}(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct)\b"
)
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
    """Personal data in a text as (kind, start, end); kinds phone, email, id_card, bank_card, address."""
    found: list[tuple[str, int, int]] = []
    if _NUMBER.search(text):
        taken: list[tuple[int, int]] = []
        for kind, pattern, real in (
            ("id_card", ID_CARD, _id_card),
            ("bank_card", BANK_CARD, _bank_card),
            ("phone", PHONE, bool),
            ("address", ADDRESS, bool),
        ):
            for m in pattern.finditer(text):
                if real(m.group()) and not any(a < m.end() and m.start() < b for a, b in taken):
                    taken.append(m.span())
                    found.append((kind, *m.span()))
    if "@" in text:
        found += [("email", *m.span()) for m in EMAIL.finditer(text)]
    return found


def masked(text: str) -> str:
    """A text with its personal data blotted out, so that a report may show it."""
    for _, start, end in sorted(pii(text), key=lambda f: -f[1]):
        text = text[:start] + "***" + text[end:]
    return text


def of_row(row: Mapping[str, Any], task: str, too_long: int) -> list[str]:
    """The flags of one row."""
    texts = [t["content"] for t in row["messages"]]
    if "rejected_response" in row:
        texts.append(str(row["rejected_response"]))
    whole = "\n".join(texts)
    kinds = sorted({kind for kind, _, _ in pii(whole)})
    found = ["pii", *(f"pii_{k}" for k in kinds)] if kinds else []
    if INJECTION.search(whole):
        found.append("prompt_injection")
    if len(whole) > too_long:
        found.append("too_long_rows")
    if task == "classification" and label_leaks(str(row.get("text", "")), str(row.get("label", ""))):
        found.append("label_leak")
    return found


def label_leaks(text: str, label: str) -> bool:
    """Whether the text says its own label, as a word of its own where the label is Latin."""
    if len(label) < LEAK_LENGTH:
        return False
    if label.isascii():
        return bool(re.search(rf"(?<!\w){re.escape(label)}(?!\w)", text, re.IGNORECASE))
    return label in text
