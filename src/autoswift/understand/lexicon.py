"""Finds the words of the lexicon in a sentence and weighs them by where they stand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

from autoswift.tables import table
from autoswift.understand import setting
from autoswift.understand.setting import Hit, alternation, negated, normalise, tidy

__all__ = ["Hit", "confidence", "correct_typos", "corrected", "hits", "normalise", "scores", "tidy"]

FADING = 0.6
"""So that "总结患者的病史给医生" stays a summary: many topic words never outvote the named task by their number."""
MOST_PATTERNS = 20_000
"""Runs of letters that are remembered: a large file has any number of them."""
TYPO_LETTERS, PART_LETTERS = 5, 6
"""Shorter words are not corrected, whole entries and parts of longer ones: one letter makes another word of them."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A word of the lexicon where it stands in a text."""

    word: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Facet:
    """A facet's words, and for each normalised word the values it speaks for.

    One pattern of all words would be tried at every character, and to compile patterns of some thousand words takes a
    second. So the words are found by how they begin: Latin ones by their first run of letters and digits, others by
    their first character; a pattern is made of the few that may stand at a place, when a text first has such a place.

    Attributes:
        latin: by the first run. others: by the first character. speaks: word to values with their weights.
        patterns: made so far, by what begins them; None where no word does.
    """

    latin: dict[str, list[str]]
    others: dict[str, list[str]]
    speaks: dict[str, list[tuple[str, float]]]
    patterns: dict[str, re.Pattern[str] | None] = field(default_factory=dict)

    def matches(self, text: str) -> list[_Found]:
        """The words in a text, leftmost and longest, without overlap."""
        found: list[_Found] = []
        end = 0
        for start in _STARTS.finditer(text):
            at = start.start()
            if at < end:
                continue
            begin = start.group()
            pattern = self.patterns[begin] if begin in self.patterns else self._pattern(begin)
            if pattern and (m := pattern.match(text, at)):
                found.append(_Found(m.group(), at, m.end()))
                end = m.end()
        return found

    def _pattern(self, begin: str) -> re.Pattern[str] | None:
        """Of the words that may stand where a text has this run of letters and digits, or this other character."""
        if begin in self.others:
            words = self.others[begin]
        else:  # a word may end here with its plural, or go on behind the run
            heads = {begin, begin.removesuffix("s"), begin.removesuffix("es")}
            words = [word for head in heads for word in self.latin.get(head, ())]
        if len(self.patterns) >= MOST_PATTERNS:
            self.patterns.clear()
        self.patterns[begin] = alternation(words) if words else None
        return self.patterns[begin]


_STARTS = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")
_RUN = re.compile(r"[a-z0-9]+")


@cache
def _facet(facet: str) -> _Facet:
    speaks: dict[str, list[tuple[str, float]]] = {}
    for value, weights in table("understand")[facet].items():
        for weight, words in weights.items():
            for word in words:
                speaks.setdefault(_key(word), []).append((value, float(weight)))
    latin: dict[str, list[str]] = {}
    others: dict[str, list[str]] = {}
    for word in speaks:
        run = _RUN.match(word)
        if run:
            latin.setdefault(run.group(), []).append(word)
        else:
            others.setdefault(word[0], []).append(word)
    return _Facet(latin, others, speaks)


def _key(word: str) -> str:
    return re.sub(r"[\s-]+", " ", word.lower())


def _lookup(found: str, speaks: Mapping[str, list[tuple[str, float]]]) -> list[tuple[str, float]]:
    key = _key(found)
    for candidate in (key, key.removesuffix("s"), key.removesuffix("es")):
        if candidate in speaks:
            return speaks[candidate]
    return []


def hits(text: str, facet: str) -> list[Hit]:
    """The words of a facet in a normalised sentence, leftmost and longest, with negation and context applied.

    A word that stands twice is returned twice; `none` hits are left out, having taken their words away.
    """
    lexicon = _facet(facet)
    found: list[Hit] = []
    for m in lexicon.matches(text):
        values = _lookup(m.word, lexicon.speaks)
        if not values or any(value == "none" for value, _ in values):
            continue
        refused = negated(text, m.start)
        factor = _factor(text, m, facet)
        found += [Hit(v, m.word, m.start, m.end, w * factor, refused, factor) for v, w in values if w]
    found += _phrases(text, facet)
    return setting.placed(text, found) if facet == "domain" else found


def decoyed(text: str, facet: str) -> bool:
    """Whether a normalised sentence has a phrase that looks like a value of the facet and is none."""
    lexicon = _facet(facet)
    return any(value == "none" for m in lexicon.matches(text) for value, _ in _lookup(m.word, lexicon.speaks))


def _factor(text: str, m: _Found, facet: str) -> float:
    if facet == "modality" and setting.already_text(text, m.end):
        return 0.0
    return setting.setting(text, m.start, m.end) if facet in ("domain", "modality") else 1.0


@cache
def _patterns(facet: str) -> tuple[tuple[str, float, re.Pattern[str]], ...]:
    values = table("understand")["phrases"].get(facet, {})
    return tuple(
        (value, float(weight), re.compile(pattern))
        for value, weights in values.items()
        for weight, patterns in weights.items()
        for pattern in patterns
    )


def _phrases(text: str, facet: str) -> list[Hit]:
    """What the table's phrases find; where a value's phrase itself begins with a negation, that is its meaning."""
    found = []
    for value, weight, pattern in _patterns(facet):
        for m in pattern.finditer(text):
            factor = 0.0 if facet == "modality" and value != "text" and setting.already_text(text, m.end()) else 1.0
            if factor:
                found.append(Hit(value, m.group().strip(), m.start(), m.end(), weight, negated(text, m.start())))
    return found


def scores(found: Iterable[Hit]) -> dict[str, float]:
    """Weight by value over distinct words, each further word counting less; refused words do not count."""
    best: dict[tuple[str, str], float] = {}
    for h in found:
        if not h.negated and h.weight > 0:
            key = (h.value, _key(h.word).removesuffix("s"))
            best[key] = max(best.get(key, 0.0), h.weight)
    weights: dict[str, list[float]] = {}
    for (value, _), weight in best.items():
        weights.setdefault(value, []).append(weight)
    return {value: _together(ws) for value, ws in weights.items()}


def _together(weights: list[float]) -> float:
    """Three words of a topic say it, ten say it no louder: the n-th heaviest counts `FADING` to the power n."""
    return sum(w * FADING**n for n, w in enumerate(sorted(weights, reverse=True)))


def confidence(best: float, second: float) -> float:
    """Share of the votes, with one vote of doubt: 3 against none is 0.75, 3 against 3 is 0.43."""
    return round(best / (best + second + 1.0), 2)


@cache
def _single_words() -> dict[str, tuple[str, ...]]:
    """Words that a typo may be meant for, by first letter: those of the lexicon, whole or parts of its phrases."""
    found: dict[str, set[str]] = {}
    for facet in ("domain", "goal", "modality", "deploy"):
        for name in _facet(facet).speaks:
            for part in name.split():
                letters = TYPO_LETTERS if part == name else PART_LETTERS
                if part.isascii() and part.isalpha() and len(part) >= letters:
                    found.setdefault(part[0], set()).add(part)
    return {first: tuple(sorted(words)) for first, words in found.items()}


@cache
def _right() -> frozenset[str]:
    return frozenset(table("understand")["not_typos"]) | frozenset(table("understand")["english_common"])


@cache
def corrected(word: str) -> str | None:
    """A lexicon word that one mistyped, missing, extra or swapped letter makes of `word`, or None."""
    known = _single_words().get(word[0], ())
    if word in _right() or any(word.startswith(name) for name in known):
        return None
    near = [name for name in known if abs(len(name) - len(word)) <= 1 and _one_slip(name, word)]
    return near[0] if near else None


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

    return re.sub(r"(?<![a-z0-9])[a-z]{5,}(?![a-z0-9])", mend, text), tuple(changes)
