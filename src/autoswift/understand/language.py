"""Which language a text is in: by script where the script says it, by py3langid where it does not."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from autoswift.tables import table

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
KANA = re.compile(r"[\u3040-\u30ff\u31f0-\u31ff]+")
HANGUL = re.compile(r"[\u1100-\u11ff\uac00-\ud7af]+")
CJK = re.compile(r"[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af]+")
LATIN_WORD = re.compile(r"[A-Za-zÀ-ÖØ-öø-ÿ]+(?:['’-][A-Za-zÀ-ÖØ-öø-ÿ]+)*")
_WITH_DIGITS = re.compile(r"[A-Za-z]*\d[A-Za-z0-9]*")
"""Names of machines, models and versions ("k8s", "A100", "7B") are words of no language."""
OTHER_SCRIPT = re.compile(r"[\u0370-\u03ff\u0400-\u052f\u0590-\u06ff\u0900-\u0dff\u0e00-\u0e7f]+")

HAN_PER_WORD = 1.7
"""A Chinese word is 1.7 characters long on average (newspaper text), so this many count like one Latin word."""
MIXED_LOW, MIXED_HIGH = 0.35, 0.80
"""Below a Latin share of 35 % of the words a text is Chinese with borrowed words; above 80 % it is English that
names something in Chinese; between them neither language carries the sentence alone."""
OWN_SHARE = 0.08
"""Two ordinary English words make a Chinese sentence mixed from this share of its words: two to 23 Chinese ones."""
ONE_SHARE, ONE_AMONG, TERMS = 0.2, 0.1, 3
"""A single ordinary English word does in a very short sentence only, or beside terms that are English as well."""
SURE = 0.9
"""py3langid is asked about short texts, where it is right only when it is nearly certain."""
SAMPLE = 20_000
"""Characters that a data file's language is judged by: the shares change by less than a percent beyond that."""


def length_of(pattern: re.Pattern[str], text: str) -> int:
    """Characters of a text that a pattern covers."""
    return sum(map(len, pattern.findall(text)))


def cjk_share(text: str) -> float:
    """Share of Chinese, Japanese and Korean characters among those that are not spaces, 0 to 1."""
    seen = len(text) - sum(map(len, re.findall(r"\s+", text)))
    return length_of(CJK, text) / seen if seen else 0.0


def detect(text: str) -> str:
    """The language of a text: `zh`, `en`, `mixed` (Chinese and English), or an ISO 639-1 code.

    A text without letters counts as `en`.
    """
    text = text[:SAMPLE]
    han, kana, hangul = (length_of(p, text) for p in (HAN, KANA, HANGUL))
    if kana and kana >= 0.15 * (han + kana):  # Japanese prose is about half kana; 15 % lets kanji-heavy titles pass
        return "ja"
    if hangul > han:
        return "ko"
    words = LATIN_WORD.findall(text)
    if not han:
        return _without_han(text, words)
    words = LATIN_WORD.findall(_WITH_DIGITS.sub(" ", text))
    borrowed = frozenset(table("understand")["technical"])
    latin = sum(1 for w in words if w.lower() not in borrowed)
    share = latin / (latin + han / HAN_PER_WORD)
    if share < MIXED_LOW:
        return "zh"
    return "en" if share > MIXED_HIGH else "mixed"


def spoken(sentence: str) -> str:
    """The language of a request: as `detect`, but one sentence is mixed as soon as both languages carry a part of it.

    In a Chinese sentence names, units and the field's own terms ("用 LoRA 微调 Qwen") are borrowed words; ordinary
    English words ("能指出 risky clauses") are not. In an English sentence any Chinese word is one of Chinese.
    """
    found = detect(sentence)
    if found not in ("zh", "en") or not HAN.search(sentence):
        return found
    if found == "en":
        return "mixed"
    han = length_of(HAN, sentence) / HAN_PER_WORD
    words = [part for w in LATIN_WORD.findall(_WITH_DIGITS.sub(" ", sentence[:SAMPLE])) for part in w.split("-")]
    borrowed = frozenset(table("understand")["technical"])
    own = [w for w in words if _ordinary(w) and w.lower() not in borrowed]
    if len(own) >= 2:
        return "mixed" if len(own) >= OWN_SHARE * (len(own) + han) else "zh"
    known = any(w.lower() in _english() for w in own)
    share = ONE_SHARE if len(words) < TERMS else ONE_AMONG
    return "mixed" if known and share * (1 + han) <= 1 else "zh"


def _ordinary(word: str) -> bool:
    """Whether a Latin word may be an ordinary one: no abbreviation, no name, no single letter."""
    return len(word) > 2 and (word.islower() or (word.istitle() and word.lower() in _english()))


@cache
def _english() -> frozenset[str]:
    """English words that the lexicon knows, singly; programming's are names of tools half the time."""
    lexicon = table("understand")
    facets = [values for name in ("domain", "goal", "modality") for v, values in lexicon[name].items() if v != "code"]
    words = {w for weights in facets for group in weights.values() for w in group if w.isascii()}
    single = {part for w in words if w.islower() for part in w.replace("-", " ").split()}
    return frozenset(w for w in single | set(lexicon["english_common"]) if w.isalpha())


def _without_han(text: str, words: list[str]) -> str:
    other = length_of(OTHER_SCRIPT, text)
    if other <= sum(map(len, words)):
        if not words:
            return "en"
        common = frozenset(table("understand")["english_common"])
        known = sum(1 for w in words if w.lower() in common)
        plain = all(w.isascii() for w in words)
        # One word in five of running English is among the sixty commonest; other Latin languages share hardly any.
        if plain and (known >= 0.2 * len(words) or len(words) < 4):
            return "en"
    code, sure = _identify(text)
    return code if sure >= SURE else "en"


def _identify(text: str) -> tuple[str, float]:
    code, sure = _identifier().classify(text)
    return str(code), float(sure)


@cache
def _identifier() -> LanguageIdentifier:
    """py3langid with probabilities; loaded only for texts whose script does not say it (it takes half a second)."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    # 0.4 renamed it, when the model stopped being a pickle.
    load = getattr(LanguageIdentifier, "from_model_file", None) or LanguageIdentifier.from_pickled_model
    return load(MODEL_FILE, norm_probs=True)


def reading_language(language: str) -> str:
    """The language that people read our texts in, `zh` or `en`, for a text's language."""
    return "zh" if language in ("zh", "mixed") else "en"
