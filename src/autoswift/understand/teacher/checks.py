"""Why an example that a teacher made is thrown away before anybody judges it."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

from autoswift.domain.profile import TaskProfile
from autoswift.tables import table
from autoswift.understand.language import cjk_share
from autoswift.understand.text import same_key

ANSWER_HEAD = 60
"""Characters at the start of an answer where a refusal stands; further down the words are a story's."""
ANY_SCRIPT = {"translation", "code", "math", "extraction"}
"""Domains whose answers may be in another script than the request."""
CHINESE_FROM, CHINESE_BELOW = 0.2, 0.2
"""Share of Chinese characters that a Chinese text has at least (its names are Latin), and an English one at most."""
GRAM = 4
DISTINCT = 0.25
"""Least share of distinct 4-grams. Poems have 1.0, prose 0.8, code 0.4 to 0.7; a sentence said five times has 0.2."""
LONG_ENOUGH = 40
"""Characters from which the share of distinct 4-grams says anything."""
_RUN = re.compile(r"(\S)\1{19,}")
"""Twenty times the same character: lines drawn with hyphens are shorter."""


def instruction(text: str, profile: TaskProfile, language: str) -> str:
    """Why a request is thrown away, or an empty text."""
    shortest, longest = table("teacher")["limits"]["instruction"]
    if len(text.strip()) < shortest:
        return "too_short"
    if len(text) > longest:
        return "too_long"
    if wrong_script(text, language) and profile.domain not in ANY_SCRIPT:
        return "other_language"
    return "degenerate" if degenerate(text) else ""


def answer(asked: str, said: str, finish: str, profile: TaskProfile, language: str) -> str:
    """Why an answer is thrown away, or an empty text."""
    shortest, longest = table("teacher")["limits"]["answer"]
    if finish.startswith("error") or not said.strip():
        return "no_answer"
    if finish in ("length", "max_tokens"):
        return "cut_off"
    if len(said.strip()) < shortest:
        return "too_short"
    if len(said) > longest:
        return "too_long"
    if refusal(said):
        return "refusal"
    if same_key(said) == same_key(asked):
        return "echo"
    if degenerate(said):
        return "degenerate"
    if wrong_script(said, language) and profile.domain not in ANY_SCRIPT:
        return "other_language"
    return ""


def refusal(said: str) -> bool:
    """Whether an answer declines, or speaks of being a model."""
    return bool(_refusals().search(said[:ANSWER_HEAD].lower()))


def wrong_script(text: str, language: str) -> bool:
    """Whether a text is clearly not in the language: by script, Chinese or not."""
    share = cjk_share(text)
    return share < CHINESE_FROM if language == "zh" else share > CHINESE_BELOW


def degenerate(text: str) -> bool:
    """Whether a text circles: one character on and on, the same words again and again."""
    if _RUN.search(text):
        return True
    plain = "".join(text.split())
    if len(plain) < LONG_ENOUGH:
        return False
    grams = Counter(plain[i : i + GRAM] for i in range(len(plain) - GRAM + 1))
    # Long honest texts repeat themselves too (a page of code): what counts is judged on their first 2,000 characters.
    if len(plain) > 2000:
        return degenerate(plain[:2000])
    return len(grams) / grams.total() < DISTINCT


@cache
def _refusals() -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{one})" for one in table("teacher")["refusals"]))
