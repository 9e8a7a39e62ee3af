"""What can be seen of an answer without a reference: its length, repetition, refusal, the language that it keeps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

GRAM = 4
"""Tokens of a run that counts as repeated when it comes again: three recur in ordinary prose."""

_REFUSAL = re.compile(
    r"^\W*(?:i'?m sorry,? but i (?:can'?t|cannot)|i (?:can'?t|cannot|am unable to|'m unable to|won'?t) "
    r"(?:help|assist|answer|provide|fulfill|comply|do that)|sorry,? (?:but )?i (?:can'?t|cannot)|as an ai(?: language)?"
    r" model,? i (?:can'?t|cannot|do not|don'?t)|"
    r"(?:很?抱歉|对不起|不好意思)[，,]?\s*(?:但是?|可是)?我(?:无法|不能|没法|不便)|作为(?:一个)?(?:人工智能|AI)[^。]{0,20}(?:无法|不能)|"
    r"我(?:无法|不能)(?:回答|提供|协助|帮助|完成))",
    re.IGNORECASE,
)
_HAN = re.compile(r"[\u3400-\u9fff]")
_LATIN = re.compile(r"[A-Za-z]+")


def repetition(text: str) -> float:
    """Share of runs of four tokens that came before in the same text, 0 to 1; a loop tends to 1."""
    from autoswift.evaluate.overlap import tokens_of

    tokens = tokens_of(text)
    grams = [tuple(tokens[i : i + GRAM]) for i in range(len(tokens) - GRAM + 1)]
    return 1 - len(Counter(grams)) / len(grams) if grams else 0.0


def refuses(text: str) -> bool:
    """Whether an answer begins as a refusal does."""
    return _REFUSAL.search(text.strip()[:120]) is not None


def script(text: str) -> str:
    """`zh` or `en` by the letters, one Chinese character for one word; empty where there are none."""
    han, words = len(_HAN.findall(text)), len(_LATIN.findall(text))
    return "" if not han and not words else "zh" if han >= words else "en"


def keeps_language(answer: str, reference: str) -> bool:
    """Whether the answer is in its reference's language; texts without letters keep any."""
    return not script(answer) or not script(reference) or script(answer) == script(reference)


def behaviour_rows(answers: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
    """answer_characters, repetition, refusal and language_kept, a value a row each."""
    return {
        "answer_characters": [float(len(a)) for a in answers],
        "repetition": [repetition(a) for a in answers],
        "refusal": [float(refuses(a)) for a in answers],
        "language_kept": [float(keeps_language(a, r)) for a, r in zip(answers, references, strict=True)],
    }
