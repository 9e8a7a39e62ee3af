"""Data for a task that came without any: registered sets and the hubs' own, ranked, the best few proposed with why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter

from autoswift.domain.dataset import DatasetCard, Hub, reference
from autoswift.domain.profile import TaskProfile
from autoswift.domain.protocols import DatasetHub, Embedder
from autoswift.errors import AutoSwiftError
from autoswift.tables import table, text
from autoswift.understand.rank import Commercial, Facts, Worth, commercial_use, meanings, weigh
from autoswift.understand.topics import Topics, topics_of

SEARCHES = 5
"""Words that each hub is asked for: two languages of the main topic and some of the next."""
PER_SEARCH = 20
"""Data sets a search: hubs answer the most used first, and the right one is rarely further down."""
LOOKED_AT = 12
"""Cards that are fetched whole, best first, until enough of them can be used; a request or two each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to data, ready to be shown and chosen.

    Attributes:
        kind: hub, or teacher (made by a model).
        reference: `hf://owner/name[:subset]`, `ms://…`, or `teacher://model`.
        address: its page for a person, empty for a teacher.
        commercial: whether the licence allows commercial use.
        bytes: that would be brought. rows: examples, 0 when its card does not say.
        registered: its name in ms-swift, or empty.
        score: what it is worth; parts: the summands. relevance: 0 to 1, how far it is about the task.
        because, warnings: in the reader's words.
    """

    kind: Literal["hub", "teacher"] = "hub"
    reference: str
    hub: Hub | None = None
    id: str
    revision: str = ""
    subset: str = ""
    splits: tuple[str, ...] = ("train",)
    title: str = ""
    about: str = ""
    licence: str = ""
    commercial: Commercial = "unknown"
    bytes: int = 0
    rows: int = 0
    size_words: str = ""
    files: int = 0
    downloads: int = 0
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    registered: str = ""
    address: str = ""
    score: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)
    relevance: float = 0.0
    because: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A data set that looked right and cannot be used, with why."""

    reference: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What a search for data came to.

    Attributes:
        candidates: the best, best first.
        rejected: those that were about the task and cannot be used.
        considered: data sets ranked. asked: hub to data sets it named. failed: hub to why it named none.
        searched: the words that hubs were asked for; the sentence itself never leaves this machine.
        by: how meaning was compared.
    """

    candidates: tuple[Candidate, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    considered: int = 0
    asked: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    searched: tuple[str, ...] = ()
    by: Literal["embedding", "words"] = "words"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A data set that ms-swift has registered: a row of the table `datasets`."""

    name: str
    ms: str = ""
    hf: str = ""
    subsets: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("train",)
    tags: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    domain: str = "general"
    goal: str = "chat"
    modality: str = "text"
    about: str = ""
    huge: bool = False

    def ids(self) -> dict[Hub, str]:
        """Its id on each hub that has it."""
        pairs: tuple[tuple[Hub, str], ...] = (("modelscope", self.ms), ("huggingface", self.hf))
        return {hub: dataset_id for hub, dataset_id in pairs if dataset_id}


@cache
def registry() -> tuple[Registered, ...]:
    """All of them, in the table's order."""
    rows: list[dict[str, Any]] = table("datasets")
    return tuple(TypeAdapter(tuple[Registered, ...]).validate_python(rows))


def registered(name: str) -> Registered | None:
    """The registered set with that name or id on either hub, in any case."""
    wanted = name.strip().lower()
    for row in registry():
        if wanted in {row.name.lower(), row.ms.lower(), row.hf.lower()} - {""}:
            return row
    return None


def propose(
    profile: TaskProfile,
    hub: DatasetHub,
    *,
    embedder: Embedder | None = None,
    limit: int = 3,
    language: str = "en",
) -> list[Candidate]:
    """The best data sets for a task, best first; empty when none is about it."""
    return list(search(profile, hub, embedder=embedder, limit=limit, language=language).candidates)


def search(
    profile: TaskProfile,
    hub: DatasetHub,
    *,
    embedder: Embedder | None = None,
    limit: int = 3,
    language: str = "en",
) -> Proposal:
    """Ranks the registry and what the hubs offer, then looks at the best until enough of them can be used.

    Args:
        profile: the task.
        hub: the hubs.
        embedder: compares meanings; without one shared words do.
        limit: data sets proposed.
        language: of the reasons.
    """
    topics = topics_of(profile)
    words = topics.searches()[:SEARCHES]
    answering = hub.answering()
    found = hub.search(words, PER_SEARCH) if answering and words else None
    facts = [
        one
        for one in _all_facts(found.cards if found else (), answering, profile)
        if not (one.registered and one.modality not in ("text", profile.modality))  # known to be no use
    ]
    worths = {
        one.card.reference: weigh(profile, topics, one, meaning, language)
        for one, meaning in zip(facts, meanings(profile, topics, facts, embedder), strict=True)
    }
    relevant = [one for one in facts if worths[one.card.reference].relevance >= table("sourcing")["relevant"]]
    relevant.sort(key=lambda one: (-worths[one.card.reference].score, one.card.reference))
    look = _Look(profile, hub, topics, language)
    usable, rejected = look.over(relevant, worths, limit)
    return Proposal(
        candidates=tuple(usable[:limit]),
        rejected=tuple(rejected),
        considered=len(facts),
        asked=found.asked if found else {},
        failed=found.failed if found else {},
        searched=tuple(words) if found else (),
        by="embedding" if embedder is not None else "words",
    )


def _all_facts(cards: Sequence[DatasetCard], answering: Sequence[Hub], profile: TaskProfile) -> list[Facts]:
    """The hubs' cards and the registry's rows that can be had, each data set once."""
    by_id = {(hub, dataset_id.lower()): row for row in registry() for hub, dataset_id in row.ids().items()}
    facts, seen = [], set()
    for card in cards:
        row = by_id.get((card.hub, card.id.lower()))
        seen |= {row.name} if row else set()
        facts.append(_facts(card, row))
    # Chinese sets are at home on ModelScope, the others on Hugging Face; each may be missing on the other.
    order: list[Hub] = ["modelscope", "huggingface"]
    order = order if profile.language in ("zh", "mixed") else order[::-1]
    for row in registry():
        place = next((hub for hub in order if hub in answering and hub in row.ids()), None)
        if row.name not in seen and place is not None:
            card = DatasetCard(hub=place, id=row.ids()[place], tags=row.tags, languages=row.languages)
            facts.append(_facts(card, row))
    return facts


def _facts(card: DatasetCard, row: Registered | None) -> Facts:
    if row is None:
        return Facts(card)
    card = card if card.languages else replace(card, languages=row.languages)
    return Facts(card, row.name, row.goal, row.modality, row.domain, row.about)


class _Look:
    """Looks at whole cards: files, sizes, licence."""

    def __init__(self, profile: TaskProfile, hub: DatasetHub, topics: Topics, language: str) -> None:
        self.profile, self.hub, self.topics, self.language = profile, hub, topics, language

    def over(
        self, facts: Sequence[Facts], worths: Mapping[str, Worth], enough: int
    ) -> tuple[list[Candidate], list[Rejected]]:
        """Those that can be used, best first by what their whole cards say, and those that cannot."""
        usable: list[Candidate] = []
        rejected: list[Rejected] = []
        seen: set[str] = set()
        for one in facts[:LOOKED_AT]:
            if len(usable) >= enough and worths[one.card.reference].score < min(c.score for c in usable):
                break
            made = self.at(one, worths[one.card.reference])
            if isinstance(made, Candidate):
                usable = _once([*usable, made], self.profile)
            elif one.card.id.lower() not in seen:
                rejected.append(made)
            seen.add(one.card.id.lower())
        return sorted(usable, key=lambda c: (-c.score, c.reference)), rejected

    def at(self, facts: Facts, before: Worth) -> Candidate | Rejected:
        """A candidate, or why it is none."""
        name = facts.card.reference
        if before.refused:
            return Rejected(reference=name, why=before.refused)
        row = registered(facts.registered) if facts.registered else None
        try:
            card = self.hub.card(facts.card.hub, facts.card.id)
            if card.gated:
                return Rejected(reference=name, why=text("sourcing.gated", self.language))
            splits = row.splits if row else ("train",)
            largest = int(table("sourcing")["largest_gb"] * 1e9)
            selection = self.hub.select(card, "", splits, largest)
        except AutoSwiftError as exc:
            return Rejected(reference=name, why=exc.what)
        full = replace(facts, card=_merged(card, facts.card))
        meaning = before.parts.get("meaning", 0.0) / table("sourcing")["weights"]["meaning"]
        worth = weigh(self.profile, self.topics, full, meaning, self.language)
        if worth.refused:
            return Rejected(reference=name, why=worth.refused)
        warnings = worth.warnings
        if left := sum(1 for why in selection.left_out.values() if why == "too_large"):
            warnings = (*warnings, text("sourcing.part_only", self.language, files=left))
        return candidate(
            full.card, worth, size=selection.size, files=len(selection.files), subset=selection.subset, splits=splits,
            registered_as=facts.registered, warnings=warnings,
        )  # fmt: skip


def _once(candidates: Sequence[Candidate], profile: TaskProfile) -> list[Candidate]:
    """Without the copy of a data set on the other hub: of equals the one whose card says more, then the one at home."""
    home: Hub = "modelscope" if profile.language in ("zh", "mixed") else "huggingface"
    best: dict[str, Candidate] = {}
    for one in sorted(candidates, key=lambda c: (-c.score, c.rows == 0, c.hub != home, c.reference)):
        best.setdefault(one.registered or one.id.lower(), one)
    return list(best.values())


def _merged(card: DatasetCard, earlier: DatasetCard) -> DatasetCard:
    """The whole card, with what only the search or the registry said."""
    kept = {
        name: getattr(earlier, name)
        for name in ("title", "description", "licence", "languages", "tags", "rows", "size_words", "downloads")
        if not getattr(card, name) and getattr(earlier, name)
    }
    return replace(card, **kept)


def candidate(  # noqa: PLR0913 - the facts of one candidate
    card: DatasetCard,
    worth: Worth,
    *,
    size: int,
    files: int,
    subset: str = "",
    splits: tuple[str, ...] = ("train",),
    registered_as: str = "",
    warnings: tuple[str, ...] = (),
) -> Candidate:
    """A card as something to choose."""
    return Candidate(
        reference=reference(card.hub, card.id, subset),
        hub=card.hub,
        id=card.id,
        revision=card.revision,
        subset=subset,
        splits=splits,
        title=card.title,
        about=card.description[:300],
        licence=card.licence,
        commercial=commercial_use(card.licence),
        bytes=size,
        rows=card.rows,
        size_words=card.size_words,
        files=files,
        downloads=card.downloads,
        languages=card.languages,
        tags=card.tags[:12],
        registered=registered_as,
        address=page_of(card.hub, card.id),
        score=worth.score,
        parts=worth.parts,
        relevance=worth.relevance,
        because=worth.because,
        warnings=warnings or worth.warnings,
    )


def page_of(hub: Hub, dataset_id: str) -> str:
    """The data set's page, for a person to read."""
    host = "https://huggingface.co" if hub == "huggingface" else "https://modelscope.cn"
    return f"{host}/datasets/{dataset_id}"
