"""Finds the words of the lexicon in a sentence and weighs them by where they stand."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from autoswift.tables import table

CLAUSE_END = re.compile(r"[,.;:!?，。；：！？、\n]|\s[-–—]\s|——")
REACH_ZH, REACH_EN = 10, 40
"""Characters that a negation reaches forward within its clause: about four Chinese words, six English ones."""
NEAR = 24
"""Characters between a place ("树莓派") and the word that makes it a place to serve ("部署到"), at most."""
TYPO_LETTERS = 7
"""Shorter words are not corrected: one changed letter makes another common word of them (baking, banking)."""
EMPLOYER, SELF, ABOUT = 0.3, 0.5, 0.3
"""What is left of a word's weight when it only names who asks ("I'm a lawyer") or a topic ("about a lawyer")."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A word of the lexicon in a sentence; `weight` already carries the context."""

    value: str
    word: str
    start: int
    end: int
    weight: float
    negated: bool = False


def tidy(text: str) -> str:
    """Full-width to half-width, one space for many; the length may change."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip()


def normalise(text: str) -> str:
    """`tidy` in lower case, as the lexicon is matched."""
    return tidy(text).lower()


def word_pattern(word: str) -> str:
    """A word as a regular expression: Latin words whole, with a plural; others anywhere."""
    body = re.sub(r"(?:\\ |\s|\\-|-)+", r"[\\s-]+", re.escape(word.lower()))
    if not re.search(r"[a-z0-9]", word.lower()):
        return body
    left = r"(?<![a-z0-9])" if word[0].isascii() and word[0].isalnum() else ""
    plural = "(?:s|es)?" if word[-1].isascii() and word[-1].isalpha() else ""
    right = r"(?![a-z0-9])" if word[-1].isascii() and word[-1].isalnum() else ""
    return f"{left}{body}{plural}{right}"


def alternation(words: Iterable[str]) -> re.Pattern[str]:
    """One pattern for many words, longest first."""
    return re.compile("|".join(word_pattern(w) for w in sorted(set(words), key=lambda w: (-len(w), w))))


@dataclass(frozen=True, slots=True)
class _Facet:
    """A facet's words: one pattern by first character, and for each normalised word the values it speaks for.

    One alternation of all words would try each of them at every character: 30 times slower on a data sample.
    """

    starts: dict[str, re.Pattern[str]]
    speaks: dict[str, list[tuple[str, float]]]

    def matches(self, text: str) -> list[re.Match[str]]:
        """The words in a text, leftmost and longest, without overlap."""
        found: list[re.Match[str]] = []
        end = 0
        for start in _STARTS.finditer(text):
            at = start.start()
            pattern = self.starts.get(text[at])
            if at >= end and pattern and (m := pattern.match(text, at)):
                found.append(m)
                end = m.end()
        return found


_STARTS = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")


@cache
def _facet(facet: str) -> _Facet:
    speaks: dict[str, list[tuple[str, float]]] = {}
    for value, weights in table("understand")[facet].items():
        for weight, words in weights.items():
            for word in words:
                speaks.setdefault(_key(word), []).append((value, float(weight)))
    starts: dict[str, list[str]] = {}
    for word in speaks:
        starts.setdefault(word[0], []).append(word)
    return _Facet({first: alternation(words) for first, words in starts.items()}, speaks)


def _key(word: str) -> str:
    return re.sub(r"[\s-]+", " ", word.lower())


def _lookup(found: str, speaks: Mapping[str, list[tuple[str, float]]]) -> list[tuple[str, float]]:
    key = _key(found)
    for candidate in (key, key.removesuffix("s"), key.removesuffix("es")):
        if candidate in speaks:
            return speaks[candidate]
    return []


@cache
def group(section: str, name: str = "") -> re.Pattern[str]:
    """A word list of the table as one pattern, for instance `group("negation", "en")` or `group("serving")`."""
    entry: Any = table("understand")[section]
    return alternation(entry[name] if name else entry)


def clause_of(text: str, at: int) -> tuple[int, int]:
    """Start and end of the clause that holds a position."""
    start = max((m.end() for m in CLAUSE_END.finditer(text, 0, at)), default=0)
    after = CLAUSE_END.search(text, at)
    return start, after.start() if after else len(text)


def negated(text: str, start: int) -> bool:
    """Whether a negation in the same clause reaches the word that begins at `start`."""
    begin, _ = clause_of(text, start)
    before = text[begin:start]
    blocked = [m.span() for m in group("negation", "not_negation").finditer(before)]
    for name, reach in (("zh", REACH_ZH), ("en", REACH_EN)):
        for m in group("negation", name).finditer(before):
            gap = before[m.end() :]
            if any(a <= m.start() < b for a, b in blocked) or len(gap) > reach:
                continue
            # "不要太长的客服回答": what stands before 的 is refused, what follows is wanted.
            if (name == "zh" and "的" in gap) or group("negation", "stop").search(gap):
                continue
            return True
    return False


def _setting(text: str, start: int, end: int) -> float:
    """What remains of a domain word's weight in its context, 0 to 1."""
    begin, stop = clause_of(text, start)
    before, after = text[begin:start], text[end:stop]
    factor = 1.0
    if re.match(r"\s*" + f"(?:[^\\s的]{{0,4}}?)(?:{group('setting', 'employer_after').pattern})", after):
        factor = min(factor, EMPLOYER)
    if any(len(before) - m.end() <= 12 for m in group("setting", "self_before").finditer(before)):
        factor = min(factor, SELF)
    if any(len(before) - m.end() <= 24 for m in group("setting", "about_before").finditer(before)):
        factor = min(factor, ABOUT)
    return factor


def hits(text: str, facet: str) -> list[Hit]:
    """The words of a facet in a normalised sentence, leftmost and longest, with negation and context applied.

    A word that stands twice is returned twice; `none` hits are left out, having taken their words away.
    """
    lexicon = _facet(facet)
    found: list[Hit] = []
    for m in lexicon.matches(text):
        values = _lookup(m.group(), lexicon.speaks)
        if not values or any(value == "none" for value, _ in values):
            continue
        refused = negated(text, m.start())
        factor = _setting(text, m.start(), m.end()) if facet == "domain" else 1.0
        found += [Hit(v, m.group(), m.start(), m.end(), w * factor, refused) for v, w in values if w]
    return found


def near(text: str, start: int, end: int, words: re.Pattern[str]) -> bool:
    """Whether one of the words stands in the same clause within `NEAR` characters of a span."""
    begin, stop = clause_of(text, start)
    window = text[max(begin, start - NEAR) : min(stop, end + NEAR)]
    return bool(words.search(window))


def scores(found: Iterable[Hit]) -> dict[str, float]:
    """Weight by value over distinct words; refused words do not count."""
    best: dict[tuple[str, str], float] = {}
    for h in found:
        if not h.negated:
            key = (h.value, _key(h.word).removesuffix("s"))
            best[key] = max(best.get(key, 0.0), h.weight)
    total: dict[str, float] = {}
    for (value, _), weight in best.items():
        total[value] = total.get(value, 0.0) + weight
    return total


def confidence(best: float, second: float) -> float:
    """Share of the votes, with one vote of doubt: 3 against none is 0.75, 3 against 3 is 0.43."""
    return round(best / (best + second + 1.0), 2)


@cache
def _single_words() -> frozenset[str]:
    names = {w for facet in ("domain", "goal", "modality", "deploy") for w in _facet(facet).speaks}
    return frozenset(w for w in names if w.isascii() and w.isalpha() and len(w) >= TYPO_LETTERS)


@cache
def corrected(word: str) -> str | None:
    """A lexicon word that one mistyped, missing, extra or swapped letter makes of `word`, or None."""
    known = _single_words()
    if word in known or word.removesuffix("s") in known or word in table("understand")["not_typos"]:
        return None
    for name in sorted(known):
        if (
            abs(len(name) - len(word)) <= 1
            and name[0] == word[0]
            and not word.startswith(name)
            and _one_slip(name, word)
        ):
            return name
    return None


def _one_slip(a: str, b: str) -> bool:
    """Whether two different words are one edit or one swap of neighbours apart."""
    if len(a) > len(b):
        a, b = b, a
    i = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    if len(a) < len(b):
        return a[i:] == b[i + 1 :]
    return a[i + 1 :] == b[i + 1 :] or (a[i : i + 2] == b[i : i + 2][::-1] and a[i + 2 :] == b[i + 2 :])


def correct_typos(text: str) -> tuple[str, tuple[str, ...]]:
    """The sentence with its near-misses of lexicon words corrected, and what was corrected ("custmer → customer")."""
    changes: list[str] = []

    def mend(m: re.Match[str]) -> str:
        right = corrected(m.group())
        if right is None:
            return m.group()
        changes.append(f"{m.group()} → {right}")
        return right

    return re.sub(r"(?<![a-z0-9])[a-z]{7,}(?![a-z0-9])", mend, text), tuple(changes)
