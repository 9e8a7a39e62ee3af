"""Words and where they stand: normal form, patterns, clauses, negation and the setting of a word."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from autoswift.tables import table

CLAUSE_END = re.compile(r"[,.;:!?，。；：！？、\n]|\s[-–—]\s|——")
CLAUSE = 160
"""Characters to either side that a clause is looked for: longer ones are rare, and nothing reaches across them."""
REACH_ZH, REACH_EN = 10, 40
"""Characters that a negation reaches forward within its clause: about four Chinese words, six English ones."""
LONGEST_NEGATION = 24
"""Characters of the longest negation in the table ("nothing to do with"), with room."""
SERVED = 12
"""Characters back from a place to the word that says it is served there ("deployed on our", "部署到公司的")."""
NEAR = 24
"""Characters between a place ("树莓派") and the word that makes it a place to serve ("部署到"), at most."""
EMPLOYER, SELF, ABOUT = 0.3, 0.5, 0.3
"""What is left of a word's weight when it only names who asks ("I'm a lawyer") or a topic ("about a lawyer")."""
CLIENT, CLIENT_REACH = 0.5, 6
"""Left of a word for whom something is written or made, and the characters from 给 to it."""
LISTED, LIST_MARKS = 0.5, ("、", "/")
"""Left of a word in an enumeration ("体育、科技、财经"): it may be one label of several."""
MAIN, MINOR = 2.0, 0.2
"""Of words in a clause that is called the main thing ("重点是…") or a minor one ("…可有可无")."""
PERSON = 0.6
"""Left of a person's word: who the model is for says less than what it is to know."""
QUALIFIER = 0.5
"""Left of a word that only qualifies another domain's ("医疗纠纷的法条"): two such words do not outvote the head."""
MODIFIER, MODIFIER_OF = 3, 8
"""Characters between a Chinese modifier and its head: bare (about one word), and with 的 before the head."""
FUNCTIONS = frozenset({"customer_service", "creative_writing", "translation", "summarization", "roleplay", "code"})
"""Domains that name what the model does."""
MANY = 60
"""Domain words from which a text is no sentence; the longest request of the labelled sets has 15."""
KINDS = frozenset({"classification", "extraction"})
"""Domains that name a kind of task: what is classified stays the domain, so they make no modifier of it."""
ENOUGH = 4
"""Characters that a sentence must keep when what it refuses is taken out: fewer say nothing ("不要联网")."""
_REFUSED = re.compile(r"(?<!能)(?<!是)(?<!要)(?<!会)(?<!可)[不别勿甭非]$")
"""A negation right before the word, as in "不上云"; "能不能上云" is a question."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A word of the lexicon in a sentence; `weight` already carries the context, `left` is the share that it left."""

    value: str
    word: str
    start: int
    end: int
    weight: float
    negated: bool = False
    left: float = 1.0


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


@cache
def group(section: str, name: str = "") -> re.Pattern[str]:
    """A word list of the table as one pattern, for instance `group("negation", "en")` or `group("serving")`."""
    entry: Any = table("understand")[section]
    return alternation(entry[name] if name else entry)


def clause_of(text: str, at: int) -> tuple[int, int]:
    """Start and end of the clause that holds a position, at most `CLAUSE` characters to either side."""
    low, high = max(0, at - CLAUSE), min(len(text), at + CLAUSE)
    start = max((m.end() for m in CLAUSE_END.finditer(text, low, at)), default=low)
    after = CLAUSE_END.search(text, at, high)
    return start, after.start() if after else high


def negated(text: str, start: int) -> bool:
    """Whether a negation in the same clause reaches the word that begins at `start`."""
    begin, _ = clause_of(text, start)
    before = text[max(begin, start - REACH_EN - LONGEST_NEGATION) : start]
    if _REFUSED.search(before):
        return True
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


def affirmed(text: str, found: Sequence[Hit] = ()) -> str:
    """A normalised sentence without what it refuses ("not for code, …") and what only qualifies another domain's word.

    Where little else would be left it is the whole.
    """
    kept = _without(text, _refused(text))
    if any(h.left > QUALIFIER and not h.negated for h in found):
        kept = _without(text, [*_refused(text), *((h.start, h.end) for h in found if h.left <= QUALIFIER)])
    rest = re.sub(r"^[\s,.;:，。；：、]+", "", kept).strip()
    return rest if len(rest) >= ENOUGH else text


def _without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    kept, at = "", 0
    for start, stop in sorted(spans):
        kept, at = kept + text[at : max(at, start)], max(at, stop)
    return kept + text[at:]


def _refused(text: str) -> list[tuple[int, int]]:
    """What negations refuse, to the end of their clause or the word that turns it."""
    blocked = [m.span() for m in group("negation", "not_negation").finditer(text)]
    found = []
    for name in ("zh", "en"):
        for m in group("negation", name).finditer(text):
            if any(a <= m.start() < b for a, b in blocked):
                continue
            _, stop = clause_of(text, m.end())
            again = group("negation", "stop").search(text, m.end(), stop)
            stop = again.start() if again else stop
            of = text.find("的", m.end(), stop)
            found.append((m.start(), of + 1 if name == "zh" and 0 <= of < stop - 1 else stop))
    return found


def setting(text: str, start: int, end: int) -> float:
    """What remains of a domain or modality word's weight in its clause, 0 to 1."""
    begin, stop = clause_of(text, start)
    before, after = text[begin:start], text[end:stop]
    factor = 1.0
    if _employer().match(after):
        factor = min(factor, EMPLOYER)
    if any(len(before) - m.end() <= 12 for m in group("setting", "self_before").finditer(before)):
        factor = min(factor, SELF)
    if _client(before, after):
        factor = min(factor, CLIENT)
    listed = after.lstrip()[:1] in LIST_MARKS or before.rstrip()[-1:] in LIST_MARKS
    return factor * LISTED if listed and (before or after) else factor


def _client(before: str, after: str) -> bool:
    """Whether the word names whom a text is made for: "给医院写推文"."""
    name = group("setting", "client_before").search(before[-CLIENT_REACH:])
    return bool(name and re.match(rf"[^的,，]{{0,4}}?(?:{group('setting', 'client_after').pattern})", after))


@cache
def _employer() -> re.Pattern[str]:
    return re.compile(rf"\s*(?:[^\s的]{{0,4}}?)(?:{group('setting', 'employer_after').pattern})")


def is_subject(text: str, start: int, end: int) -> bool:
    """Whether a place is only what the questions are about: "questions on Kubernetes", "树莓派论坛"."""
    begin, stop = clause_of(text, start)
    if group("serving").search(text, max(begin, start - SERVED), start):
        return False
    after = text[end : min(stop, end + NEAR)].lstrip(" 的")
    noun = re.match(rf"(?:[a-z]+\s){{0,3}}(?:{group('setting', 'subject_after').pattern})", after)
    before = text[max(begin, start - NEAR) : start]
    return bool(noun or re.search(rf"(?:{group('setting', 'about_before').pattern})\s?[^\s]{{0,4}}\s?$", before))


def already_text(text: str, end: int) -> bool:
    """Whether a picture or recording named before `end` has become text before the model sees it."""
    if group("setting", "text_after").match(text[end : end + NEAR].lstrip()):
        return True
    return bool(group("setting", "already_text").search(text[end : end + NEAR]))


def placed(text: str, found: Sequence[Hit]) -> list[Hit]:
    """Domain hits weighed by each other: the head of a phrase outweighs what only qualifies it.

    Chinese puts the head last ("医疗纠纷的律师"), English first ("a lawyer for medical disputes").
    """
    heads = [h for h in found if not h.negated and h.value not in KINDS]
    if len(found) > MANY:  # a pasted document: its words are counted, not parsed
        return list(found)
    factors = [_place(text, h, heads) for h in found]
    return [replace(h, weight=h.weight * f, left=h.left * f) for h, f in zip(found, factors, strict=True)]


def _place(text: str, hit: Hit, heads: Sequence[Hit]) -> float:
    factor = PERSON if _is_person(hit) else 1.0
    others = [h for h in heads if h.value != hit.value and abs(h.start - hit.start) <= CLAUSE]
    if others and _is_topic(text, hit.start):
        factor = min(factor, ABOUT)
    # In Chinese a function after a verb may be the head ("翻译软件的客服"); in English it is the object.
    topic = hit.value not in FUNCTIONS or hit.word.isascii()
    if topic and any(_is_object(text, h, hit) for h in others):
        return factor * QUALIFIER
    if not hit.word.isascii():
        if group("setting", "verbs").fullmatch(hit.word):
            return factor
        if any(h.start >= hit.end and _modifies(text[hit.end : h.start]) for h in others):
            return factor * QUALIFIER
        return factor
    if any(h.end <= hit.start and h.word.isascii() and _qualifies(text[h.end : hit.start], h) for h in others):
        return factor * QUALIFIER
    return factor


def _is_object(text: str, verb: Hit, hit: Hit) -> bool:
    """Whether a topic's word is what a named function works on: "翻译法院判决", "summarize court rulings"."""
    if verb.end > hit.start or not group("setting", "verbs").fullmatch(verb.word):
        return False
    return not CLAUSE_END.search(text[verb.end : hit.start])


def _is_person(hit: Hit) -> bool:
    return bool(group("setting", "people").fullmatch(hit.word))


def _is_topic(text: str, start: int) -> bool:
    """Whether the word is what a work is about ("a poem about a lawyer")."""
    begin, _ = clause_of(text, start)
    before = text[begin:start]
    return any(len(before) - m.end() <= 24 for m in group("setting", "about_before").finditer(before))


def _modifies(gap: str) -> bool:
    """Whether what stands between two Chinese words makes the first a modifier of the second."""
    if CLAUSE_END.search(gap):
        return False
    gap = re.sub(r"(?:ai|智能)\s?$", "", gap.strip())  # "古诗词的AI老师"
    return len(gap) <= MODIFIER or (len(gap) <= MODIFIER_OF and gap.endswith("的"))


def _qualifies(gap: str, head: Hit) -> bool:
    """Whether what stands between two English words makes the second a qualification of the first, the head."""
    if re.search(r"[.;:!?，。；：]|, (?:and|but)", gap) or group("setting", "task_verbs").search(gap):
        return False
    # A person before it may only be whom the model serves: "questions from doctors on the legal side".
    return bool(group("setting", "relative" if _is_person(head) else "qualifies").search(gap))


def emphasis(text: str) -> list[tuple[int, int, float]]:
    """Clauses that a sentence calls the main thing or a minor one, and what their words weigh: (start, end, factor)."""
    found = []
    for name, factor in (("main", MAIN), ("minor", MINOR)):
        for m in group("setting", name).finditer(text):
            found.append((*clause_of(text, m.start()), factor))
    return found


def near(text: str, start: int, end: int, words: re.Pattern[str]) -> bool:
    """Whether one of the words stands in the same clause within `NEAR` characters of a span."""
    begin, stop = clause_of(text, start)
    window = text[max(begin, start - NEAR) : min(stop, end + NEAR)]
    return bool(words.search(window))
