"""What earlier runs taught, as an input of the plan; and the decision where the search begins."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from autoswift.decide.book import Book
from autoswift.decide.inputs import Inputs
from autoswift.decide.outputs import METRIC_BY_GOAL
from autoswift.domain.plan import ModelChoice, StartPoint
from autoswift.errors import AutoSwiftError
from autoswift.knowledge.entry import Fingerprint, RunEntry
from autoswift.knowledge.evidence import Experience, Remembered, thinned
from autoswift.knowledge.fingerprint import fingerprint
from autoswift.knowledge.likeness import BOUND, packed, sentence_likeness, similarity
from autoswift.knowledge.portfolio import MOST_POINTS, Advice, Source, advise
from autoswift.knowledge.store import NEWEST, read
from autoswift.run.files import dumps
from autoswift.tables import has_text, text

MOST = 24
"""Runs that a plan is given: three times what it weighs, since the model, which likeness also looks at, is not chosen
yet when they are picked."""
SHOWN = 3
"""Runs that the decision names."""


def recall(inputs: Inputs, *, embed: bool = True) -> Experience:
    """What the knowledge base has on tasks of this goal and modality. Nothing that is wrong with it stops a plan.

    Args:
        embed: the sentence is embedded even where nothing is remembered, so that the run's own entry has it.
    """
    task, profile = inputs.task, inputs.profile
    if not task.knowledge:
        name, vector = _embedding(task.sentence) if embed else ("", "")
        return Experience(encoder=name, embedding=vector, ignored=True)
    notes: list[str] = []
    entries: tuple[RunEntry, ...] = ()
    try:
        memory = read(profile.goal, profile.modality, NEWEST)
        entries = memory.entries
        if memory.damaged:
            runs = ", ".join(memory.damaged[:SHOWN])
            notes.append(text("knowledge.damaged", task.language, count=len(memory.damaged), runs=runs))
    except AutoSwiftError as exc:
        notes.append(f"{exc.what} {exc.fix}")
    name, vector = _embedding(task.sentence) if embed or entries else ("", "")
    mark = fingerprint(profile, inputs.data, inputs.hardware.device, sentence=(name, vector))
    left_out: dict[str, int] = {}
    found: list[tuple[float, Remembered]] = []
    for entry in entries:
        reason = _no_source(entry, METRIC_BY_GOAL.get(profile.goal, ""))
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
        else:
            found.append(_remembered(mark, entry))
    found.sort(key=lambda pair: (-round(pair[0], 9), pair[1].run_id))
    kept = sorted((one for _, one in found[:MOST]), key=lambda one: one.run_id)
    return Experience(
        remembered=tuple(kept),
        left_out=dict(sorted(left_out.items())),
        notes=tuple(notes),
        encoder=name,
        embedding=vector,
    )


def stored(value: Any) -> Experience:
    """The experience that a finished `plan` stage left; empty for a run of before there was any."""
    kept = (value or {}).get("experience")
    # By way of JSON: its kinds are strict, and JSON has no tuples.
    return TypeAdapter(Experience).validate_json(dumps(kept)) if kept else Experience()


def _no_source(entry: RunEntry, metric: str) -> str:
    """Why an entry may not advise anyone; empty when it may."""
    if entry.verdict in ("worse", "vetoed"):
        return entry.verdict
    return "metric" if entry.metric != metric else ""


def _remembered(mark: Fingerprint, entry: RunEntry) -> tuple[float, Remembered]:
    alike = sentence_likeness(mark, entry.fingerprint)
    made = Remembered(
        run_id=entry.run_id,
        fingerprint=replace(entry.fingerprint, embedding="", encoder=""),
        sentence=None if alike is None else round(alike, 4),
        trials=tuple(replace(row, curve=()) for row in thinned(entry.trials)),
    )
    return similarity(mark, made.fingerprint, made.sentence), made


def _embedding(sentence: str) -> tuple[str, str]:
    """The encoder's name and the packed embedding; both empty where the encoder is not installed."""
    from autoswift.understand.embedding import embedder

    encoder = embedder()
    if encoder is None:
        return "", ""
    return str(encoder.name), packed(encoder.embed([sentence])[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Where the search begins: its first configurations, and the space with what memory says of the rate."""

    points: tuple[StartPoint, ...]
    space: dict[str, dict[str, Any]]


def begin(
    inputs: Inputs, model: ModelChoice, method: str, space: dict[str, dict[str, Any]], trials: int, book: Book
) -> Begin:
    """Decides which configurations are tried first.

    Without memory there are none, and the space is as it came.
    """
    memory = inputs.experience
    advice = Advice()
    if memory.remembered:
        mark = fingerprint(inputs.profile, inputs.data, inputs.hardware.device, model, method)
        # More trials than memory may have bring nothing new.
        key = (mark, dumps(space), min(trials, MOST_POINTS + 1), inputs.task.language)
        advice = _advice(_Held(memory.remembered), *key)
    told = sum(point.origin == "knowledge" for point in advice.points)
    book.add(
        "start_points",
        told,
        "" if book.silent else _because(memory, advice, told, book),
        evidence=[] if book.silent else [*(_fact(one, book) for one in advice.sources[:SHOWN]), *memory.notes],
        alternatives=[] if book.silent else _left_out(memory, advice, book),
        levers=("profile.domain", "data.splits.train") if told else (),
        source="knowledge" if advice.points else "rule",
        instead=book.say("instead.start_points"),
    )
    if "learning_rate" in space and advice.rate[2] > 0:
        space = space | {"learning_rate": space["learning_rate"] | {"knowledge": list(advice.rate)}}
    return Begin(points=advice.points, space=space)


class _Held:
    """A value that is equal to itself alone: what a plan remembers is large, and one object through all its probes."""

    __slots__ = ("value",)

    def __init__(self, value: tuple[Remembered, ...]) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


@lru_cache(maxsize=256)  # explaining a plan makes it some two hundred times, mostly with the same space
def _advice(held: _Held, mark: Fingerprint, space: str, trials: int, language: str) -> Advice:
    searched = json.loads(space)
    prior = {name: one["prior"] for name, one in searched.items() if "prior" in one}
    return advise(mark, searched, prior, held.value, trials=trials, language=language)


def _because(memory: Experience, advice: Advice, told: int, book: Book) -> str:
    if memory.ignored:
        return book.say("start_points.ignored")
    if not advice.sources:
        return book.say("start_points.none")
    about = {"runs": len(advice.sources), "tasks": _tasks(advice.sources, book)}
    about["similarity"] = f"{advice.sources[0].similarity:.2f}"
    if not advice.points:
        return book.say("start_points.noise", **about)
    if not told:
        return book.say("start_points.agree", **about)
    best = next(point for point in advice.points if point.origin == "knowledge")
    key = "start_points.first" if advice.points[0] is best else "start_points.second"
    return book.say(key, **about, settings=_settings(best, advice, book), weight=f"{best.weight:.2f}")


def _settings(best: StartPoint, advice: Advice, book: Book) -> str:
    """A configuration by what it has otherwise than the plan's own."""
    own = next(point for point in advice.points if point.origin == "prior")
    parts = []
    for name, value in best.parameters.items():
        there = own.parameters[name]
        if value != there:
            numeric = isinstance(value, int | float) and isinstance(there, int | float) and there > 0
            key = (
                f"start_points.{name}" if has_text(f"decide.start_points.{name}", book.language) else "start_points.of"
            )
            parts.append(book.say(key, name=name, ratio=f"{value / there:.2g}" if numeric else value))
    return text("knowledge.and", book.language).join(parts)


def _tasks(sources: Sequence[Source], book: Book) -> str:
    """Domain and language of the most alike."""
    mark = sources[0].fingerprint
    keys = (("domain", mark.domain), ("language", mark.language))
    words = [_word(f"report.word.{kind}.{word}", word, book.language) for kind, word in keys]
    return text("knowledge.comma", book.language).join(words)


def _fact(one: Source, book: Book) -> Any:
    return book.fact(
        "similar_run",
        one.run_id,
        book.say(
            "start_points.run",
            run=one.run_id,
            model=one.fingerprint.model or "?",
            similarity=f"{one.similarity:.2f}",
            worth=f"{one.worth:.2f}",
        ),
    )


def _left_out(memory: Experience, advice: Advice, book: Book) -> list[tuple[Any, str]]:
    counts = dict(memory.left_out) | {"dissimilar": advice.dissimilar[0], "mute": advice.mute}
    nearest = f"{advice.dissimilar[1]:.2f}"
    return [
        (
            book.say("start_points.runs", count=count),
            book.say(f"start_points.not.{reason}", bound=BOUND, nearest=nearest),
        )
        for reason, count in counts.items()
        if count
    ]


def _word(key: str, plain: str, language: str) -> str:
    """A word of a fixed list as a person says it."""
    return text(key, language) if has_text(key, language) else plain
