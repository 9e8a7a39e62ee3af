"""What a data set is worth for a task: a sum of parts, each with its reason in words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from autoswift.domain.dataset import DatasetCard
from autoswift.domain.profile import TaskProfile
from autoswift.domain.protocols import Embedder
from autoswift.tables import has_text, table, text
from autoswift.understand.topics import Topics, has_word

Commercial = Literal["yes", "no", "unknown"]
STRICT = ("commercial", "open", "apache-2.0", "mit")
"""Licence constraints under which data that forbids commercial use is out of the question."""
APART = {"preference", "continued_pretraining", "reranking", "embedding"}
"""Goals whose rows are of a shape of their own: pairs of preferences do not teach to answer, nor the reverse."""
_HAN = re.compile(r"[\u4e00-\u9fff]")
_LATIN = re.compile(r"[a-z][a-z0-9]{2,}")


@dataclass(frozen=True, slots=True)
class Worth:
    """What a data set is worth.

    Attributes:
        parts: name to share of the sum. because: the reasons, in the reader's language.
        relevance: 0 to 1, how far it is about the task at all. refused: why it cannot be used, or empty.
    """

    parts: Mapping[str, float] = field(default_factory=dict)
    because: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    relevance: float = 0.0
    refused: str = ""

    @property
    def score(self) -> float:
        """The sum."""
        return round(sum(self.parts.values()), 4)


@dataclass(frozen=True, slots=True)
class Facts:
    """A card with what is known from elsewhere (the registry of ms-swift).

    Attributes:
        registered: its name there, or empty.
        goal, modality, domain: from the registry, empty when it is not in it.
    """

    card: DatasetCard
    registered: str = ""
    goal: str = ""
    modality: str = ""
    domain: str = ""
    about: str = ""

    def names(self) -> str:
        """Name, title and tags, in lower case."""
        card = self.card
        return " ".join([card.id.partition("/")[2] or card.id, card.title, *card.tags, self.about]).lower()

    def words(self) -> str:
        """What is compared with the task by meaning."""
        return f"{self.names()} {self.card.description[:300]}".strip()


def commercial_use(licence: str) -> Commercial:
    """Whether a licence, as a card names it, allows commercial use; of several the strictest counts."""
    rules = table("sourcing")["commercial"]
    found: list[Commercial] = []
    for one in re.split(r"[,;]", licence.lower()):
        name = one.strip().replace("_", "-").removeprefix("license:")
        hits = [(len(p), verdict) for verdict in ("yes", "no") for p in rules[verdict] if name.startswith(p)]
        verdict = max(hits, default=(0, "unknown"))[1]
        found.append("yes" if verdict == "yes" else "no" if verdict == "no" else "unknown")
    return "no" if "no" in found else "unknown" if "unknown" in found else "yes"


def meanings(profile: TaskProfile, topics: Topics, facts: Sequence[Facts], embedder: Embedder | None) -> list[float]:
    """How near each card's meaning is to the task, 0 to 1: by the embedding, or by shared words without one."""
    task = f"{profile.text} {topics.words()}"
    if embedder is None or not facts:
        wanted = _tokens(task)
        return [_overlap(wanted, _tokens(one.words())) for one in facts]
    import numpy as np

    vectors = np.asarray(embedder.embed([task, *(one.words() for one in facts)]), dtype=np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    low, high = table("sourcing")["cosine"]
    near = np.clip((vectors[1:] @ vectors[0] - low) / (high - low), 0.0, 1.0)
    return [round(float(value), 4) for value in near]


def _tokens(words: str) -> set[str]:
    """Latin words, the plural's s taken off, and pairs of Chinese characters."""
    low = words.lower()
    han = re.findall(r"[\u4e00-\u9fff]+", low)
    return {w.removesuffix("s") for w in _LATIN.findall(low)} | {h[i : i + 2] for h in han for i in range(len(h) - 1)}


def _overlap(wanted: set[str], found: set[str]) -> float:
    """Shared words; four are as good as all, since cards are short."""
    return round(min(1.0, len(wanted & found) / max(1, min(4, len(wanted)))), 4)


def weigh(profile: TaskProfile, topics: Topics, facts: Facts, meaning: float, language: str) -> Worth:
    """What one data set is worth for a task.

    Args:
        profile: the task. topics: of its sentence.
        facts: the data set.
        meaning: nearness of the two, 0 to 1.
        language: of the reasons.
    """
    rules = table("sourcing")
    weights = rules["weights"]
    card = facts.card
    topic, words = topics.worth(facts.names(), card.description.lower())
    book = _Book(language)
    if topic:
        book.add("topic", weights["topic"] * topic, "topic", words=", ".join(words[:4]))
    book.add("meaning", weights["meaning"] * meaning, "meaning", percent=round(meaning * 100))
    _language(profile, facts, weights["language"], book)
    if card.downloads:
        # A million downloads is what the best known have: the logarithm makes that 1.
        book.add("downloads", weights["downloads"] * min(1.0, math.log10(1 + card.downloads) / 6))
    if facts.registered:
        book.add("registered", weights["registered"], "registered", name=facts.registered)
    refused = _purpose(profile, facts, weights, book) or _licence(profile, card, weights, book)
    _size(card, rules, book)
    return Worth(book.parts, tuple(book.because), tuple(book.warnings), max(topic, meaning), refused)


class _Book:
    """The parts and reasons as they are found."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.parts: dict[str, float] = {}
        self.because: list[str] = []
        self.warnings: list[str] = []

    def add(self, part: str, value: float, reason: str = "", **values: Any) -> None:
        self.parts[part] = round(value, 4)
        if reason:
            (self.warnings if value < 0 else self.because).append(self.words(reason, **values))

    def words(self, reason: str, **values: Any) -> str:
        return text(f"sourcing.because.{reason}", self.language, **values)


def language_name(code: str, language: str) -> str:
    """A language in the reader's words, or its code."""
    key = f"sourcing.language.{code}"
    return text(key, language) if has_text(key, language) else code


def _language(profile: TaskProfile, facts: Facts, weight: float, book: _Book) -> None:
    wanted = profile.constraints.get("answer_language") or ("zh" if profile.language == "mixed" else profile.language)
    has = {code.partition("-")[0] for code in facts.card.languages}
    has = {{"cmn": "zh", "chinese": "zh", "eng": "en", "english": "en"}.get(code, code) for code in has}
    name = language_name(wanted, book.language)
    if wanted in has:
        # One language among a hundred is a small part of the rows.
        book.add("language", weight * (1.0 if len(has) <= 3 else 0.5), "language", language=name)
    elif has & {"multilingual", "multi"}:
        book.add("language", weight * 0.4)
    elif has:
        others = ", ".join(sorted(language_name(code, book.language) for code in has)[:3])
        book.add("language", -weight, "other_language", language=name, others=others)
    elif (wanted == "zh") == bool(_HAN.search(facts.words()) or " chinese" in f" {facts.names()}"):
        book.add("language", weight * 0.6, "language_guessed", language=name)  # by the script of its card
    else:
        book.add("language", 0.0)


def _purpose(profile: TaskProfile, facts: Facts, weights: Mapping[str, float], book: _Book) -> str:
    """Why a set that is made for another goal or another input is no use here, or nothing."""
    rules = table("sourcing")
    names = facts.names()
    inputs = facts.modality or next(
        (kind for kind, words in rules["other_modality"].items() if has_word(words, names)), "text"
    )
    if inputs not in ("text", profile.modality):
        return book.words(f"modality_{inputs}")
    if inputs != profile.modality:
        book.add("text_only", weights["text_only"], "modality_text")
    made_for = [facts.goal] if facts.goal else [g for g, words in rules["made_for"].items() if has_word(words, names)]
    # A reasoning set answers too, and a labelled text is an answer: only these are of another shape.
    wrong = [g for g in made_for if g != profile.goal and (g in APART or profile.goal in APART)]
    if wrong:
        return book.words("other_goal", goal=_goal(wrong[0], book.language))
    if profile.goal != "chat" and profile.goal in made_for:
        book.add("goal", 0.1, "goal", goal=_goal(profile.goal, book.language))
    return ""


def _goal(goal: str, language: str) -> str:
    key = f"sourcing.goal.{goal}"
    return text(key, language) if has_text(key, language) else goal


def _licence(profile: TaskProfile, card: DatasetCard, weights: Mapping[str, float], book: _Book) -> str:
    """Adds what the licence is worth; returns why the data set is out of the question, or nothing."""
    use = commercial_use(card.licence)
    name = card.licence or text("sourcing.no_licence", book.language)
    strict = profile.constraints.get("licence") in STRICT
    if use == "no":
        book.add("licence", weights["not_commercial"], "not_commercial", licence=name)
        return book.words("not_commercial", licence=name) if strict else ""
    if use == "unknown":
        # Under a demand for commercial use an unknown licence is a risk that the user must see.
        book.add("licence", weights["unknown_licence"] * (4 if strict else 1), "unknown_licence", licence=name)
        return ""
    book.add("licence", 0.0, "commercial", licence=name)
    plain = card.licence.lower()
    if any(plain.startswith(one) for one in table("sourcing")["share_alike"]):
        book.warnings.append(book.words("share_alike", licence=name))
    return ""


def _size(card: DatasetCard, rules: Mapping[str, Any], book: _Book) -> None:
    if 0 < card.rows < rules["few_rows"]:
        book.add("size", rules["weights"]["too_few"], "too_few", rows=card.rows)
    elif card.rows:
        book.add("size", 0.0, "rows", rows=f"{card.rows:,}")
    elif card.size_words:
        book.add("size", 0.0, "size_words", size=card.size_words)
