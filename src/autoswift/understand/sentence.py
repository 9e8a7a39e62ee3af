"""One sentence becomes a task profile; every fact with its words, its confidence and the method that said so.

The user's options come first, then the rules with the lexicon, weighed together with the nearest labelled examples,
then, where one is configured, a language model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from autoswift.domain.profile import TaskProfile
from autoswift.domain.protocols import Embedder
from autoswift.errors import InputError
from autoswift.tables import text as say
from autoswift.understand import hints, lexicon, llm, nearest, rules, setting
from autoswift.understand.embedding import embedder as bundled
from autoswift.understand.language import reading_language, spoken
from autoswift.understand.rules import DEFAULTS, domain_scores
from autoswift.understand.setting import KINDS
from autoswift.understand.vocabulary import FACTS, required

__all__ = ["Tools", "domain_scores", "sentence_report", "understand", "understand_batch"]

DEFAULT_CONFIDENCE = {"domain": 0.4, "goal": 0.4, "modality": 0.7, "deploy": 0.7}
"""Of a value that the sentence does not say. A domain is more often right than any other single one, no more; people
who have pictures or want it served somewhere particular mostly say so."""
EXAMPLES = {"domain": 4.0, "goal": 4.0, "modality": 4.0}
"""Weight of the nearest examples when they all agree, where a word that names a value weighs 3. From 2 to 6 the
learning set gives the same within a point."""
FAR, NEAR = 0.25, 0.5
"""Cosine to the nearest example at which the examples say nothing, and from which they have their full weight."""
PRIOR = {"modality": 1.5, "goal": 0.5, "domain": 0.8}
"""Weight of the usual value from the start: examples alone must be clear to say otherwise."""
USUAL = 0.5
"""Of the examples' votes for the usual value where words name another: nearly all examples are about text, most about
conversation, so that some of those are always near."""
MADE = ("creative_writing", "roleplay")
"""Domains that a model is for only where it writes."""
NAMED = {"domain": 3.0, "goal": rules.PARTICULAR, "modality": rules.PARTICULAR}
"""Weight of the words from which they name a value."""
SUBJECT = 0.45
"""Confidence from which the examples alone name the subject of what is classified or extracted."""
AT_LEAST = {"domain": 0.5, "goal": 1.0, "modality": 2.0, "deploy": 1.0}
"""Weight below which a fact is not said. Half a hint (0.5) of a domain only names who asks, but is all there is."""
MODEL_SURE, MODEL_UNSURE = 0.9, 0.6
"""Confidence of a model's answer that rests on words of the sentence, and of one that does not."""
TOGETHER = 64
"""Rows of a batch that are embedded at once."""
LONGEST = 4_000
"""Characters of a "sentence" that are read: a pasted document is no sentence, and its start says what is wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What reads a sentence beside the rules; each may be missing."""

    embedder: Embedder | None = None
    model: llm.Model | None = None


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact as read: its value, 0 to 1 how sure, the words it rests on, and who said so."""

    value: str
    confidence: float
    words: str
    method: str


def tools() -> Tools:
    """The bundled encoder and the configured model."""
    return Tools(embedder=bundled(), model=llm.configured())


def understand(
    sentence: str,
    *,
    language: str | None = None,
    options: Mapping[str, Any] | None = None,
    using: Tools | None = None,
) -> TaskProfile:
    """What a sentence asks for.

    Args:
        sentence: Chinese, English or both; a typo in a word of the lexicon is forgiven.
        language: of the sentence, when known; otherwise it is detected.
        options: what the user fixed: `domain`, `goal`, `modality`, `deploy`, `language`. They win; other names are
            left alone.
        using: the encoder and the model; by default the bundled one and the configured one.

    Raises:
        InputError: when the sentence is empty, or an option is no value of its fact.
    """
    _refuse_empty(sentence, language)
    fixed = {k: required(k, v) for k, v in (options or {}).items() if k in (*FACTS, "language") and v is not None}
    using = using or tools()
    read = _Sentence.of(sentence)
    near = _near([read.plain], using.embedder)[0]
    return _understood(read, near, using.model, language, fixed)


def _refuse_empty(sentence: str, language: str | None = None) -> None:
    if not sentence.strip():
        reader = reading_language(language or "en")
        texts = [say(f"understand.empty_{part}", reader) for part in ("what", "why", "fix")]
        raise InputError(*texts)


@dataclass(frozen=True, slots=True)
class _Sentence:
    """A sentence, in its normal form, and the typos mended there."""

    text: str
    plain: str
    mended: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> _Sentence:
        return cls(text, *lexicon.correct_typos(lexicon.normalise(text[:LONGEST])))


def _near(plain: list[str], embedder: Embedder | None) -> list[nearest.Neighbours | None]:
    if embedder is None:
        return [None] * len(plain)
    return [*nearest.neighbours([setting.affirmed(one, lexicon.hits(one, "domain")) for one in plain], embedder)]


def _understood(
    read: _Sentence,
    near: nearest.Neighbours | None,
    model: llm.Model | None,
    language: str | None,
    fixed: Mapping[str, str],
) -> TaskProfile:
    facts = _read(read.plain, near)
    facts["language"] = _language(read.text, language)
    answer = model.read(read.text) if model else llm.Answer()
    disputed = _ask(facts, answer)
    facts |= {fact: Fact(value, 1.0, value, "option") for fact, value in fixed.items()}
    profile = _profile(read, facts)
    if read.mended:
        profile.evidence["typos"] = ", ".join(read.mended)
    notes = _assumptions(profile, {k: v for k, v in disputed.items() if k not in fixed})
    if answer.failure:
        reader = reading_language(profile.language)
        profile.evidence["model"] = say("understand.model_silent", reader, why=answer.failure)
    return replace(profile, assumptions=notes)


def _language(sentence: str, given: str | None) -> Fact:
    return Fact(given, 1.0, "", "option") if given else Fact(spoken(sentence), 0.95, "", "rules")


def _profile(read: _Sentence, facts: Mapping[str, Fact]) -> TaskProfile:
    machines = hints.hardware(lexicon.tidy(read.text[:LONGEST]))
    demands, why = hints.constraints(read.plain, machines)
    evidence = why | ({"hardware": ", ".join(machines)} if machines else {})
    sure = dict.fromkeys(why, 0.85) | ({"hardware": 0.9} if machines else {})
    return TaskProfile(
        text=read.text,
        **{fact: found.value for fact, found in facts.items()},  # type: ignore[arg-type]
        hardware=machines,
        constraints=demands,
        evidence=evidence | {fact: found.words for fact, found in facts.items() if found.words},
        confidence=sure | {fact: found.confidence for fact, found in facts.items()},
        methods=dict.fromkeys(evidence, "rules") | {fact: found.method for fact, found in facts.items()},
    )


def _read(plain: str, near: nearest.Neighbours | None) -> dict[str, Fact]:
    """Each fact by the rules, weighed together with the nearest examples."""
    facts = {fact: _weighed(fact, votes, near) for fact, votes in rules.votes(plain).items()}
    return facts | _coupled(facts)


def _coupled(facts: Mapping[str, Fact]) -> dict[str, Fact]:
    """What one fact says about another."""
    domain, goal = facts["domain"], facts["goal"]
    # A likeness alone names no subject: "baby cries: hungry or tired?" is near to heart sounds, and not medical.
    vague = domain.method == "default" or (domain.method == "examples" and domain.confidence < SUBJECT)
    made = domain.value in MADE and goal.method.startswith("rules")  # lyrics that are classified are not written
    if (vague or made) and goal.value in KINDS:
        return {"domain": replace(goal, confidence=round(goal.confidence * 0.9, 2))}
    if vague and goal.value != "chat":  # a technique is named, and no subject
        return {"domain": Fact("general", DEFAULT_CONFIDENCE["domain"], "", "default")}
    if domain.value == "math" and goal.method == "default":
        return {"goal": Fact("reasoning", domain.confidence, domain.words, domain.method)}
    return {}


def _weighed(fact: str, votes: rules.Votes, near: nearest.Neighbours | None) -> Fact:
    shares = near.shares.get(fact, {}) if near else {}
    total = _total(fact, votes.weights, shares, near.cosine if near else 0.0)
    ranked = sorted(total.items(), key=lambda kv: (-kv[1], kv[0]))
    if not ranked or ranked[0][1] < AT_LEAST[fact]:
        return Fact(DEFAULTS[fact], DEFAULT_CONFIDENCE[fact], "", "default")
    value, best = ranked[0]
    sure = lexicon.confidence(best, ranked[1][1] if len(ranked) > 1 else 0.0)
    words = votes.words(value)
    if words:
        return Fact(value, sure, words, "rules+examples" if shares.get(value, 0) >= 0.5 else "rules")
    if value == DEFAULTS[fact]:  # examples that say nothing either: the sentence does not say it
        return Fact(value, DEFAULT_CONFIDENCE[fact], "", "default")
    return Fact(value, sure, f"≈ {near.like[fact][value]}" if near else "", "examples")


def _total(fact: str, weights: Mapping[str, float], shares: Mapping[str, float], cosine: float) -> dict[str, float]:
    """The rules' weights and the examples' shares in one sum."""
    total = dict(weights)
    if not shares:
        return total
    strength = EXAMPLES[fact] * min(1.0, max(0.0, (cosine - FAR) / (NEAR - FAR)))
    usual = DEFAULTS[fact]
    # What words name is not talked away by examples that look like what most sentences want.
    named = any(w >= NAMED[fact] for v, w in weights.items() if v != usual)
    for value, share in shares.items():
        weak = named and (value == usual or value not in weights or value in KINDS)
        total[value] = total.get(value, 0.0) + strength * share * (USUAL if weak else 1.0)
    if not named:
        total[usual] = total.get(usual, 0.0) + PRIOR[fact]
    return total


def _ask(facts: dict[str, Fact], answer: llm.Answer) -> dict[str, tuple[str, str]]:
    """Puts the model's answers in; returns where it outvoted words of the sentence: fact to (its value, ours)."""
    disputed: dict[str, tuple[str, str]] = {}
    for fact, (value, words) in answer.facts.items():
        ours, holds = facts[fact], llm.backed(fact, value, words)
        if fact == "language":  # the script says it; a model that sees one sentence knows no better
            continue
        if value == ours.value:
            method = ours.method if ours.method == "default" else f"{ours.method}+model"
            facts[fact] = replace(ours, confidence=max(ours.confidence, MODEL_SURE), method=method)
            continue
        sure = MODEL_SURE if holds else MODEL_UNSURE
        if not holds and ours.confidence >= MODEL_UNSURE:
            continue
        if ours.words:
            disputed[fact] = value, ours.value
        facts[fact] = Fact(value, sure, words, "model")
    return disputed


def _assumptions(profile: TaskProfile, disputed: Mapping[str, tuple[str, str]]) -> tuple[str, ...]:
    """What was assumed, in the sentence's language."""
    reader = reading_language(profile.language)
    said = {fact for fact in FACTS if fact in profile.evidence or profile.methods.get(fact) == "model"}
    missing = [fact for fact in ("domain", "goal") if fact not in said]
    if not {"domain", "modality"} & said:
        missing.append("modality")
    if len(missing) > 1 and "deploy" not in said:
        missing.append("deploy")
    unsure = [
        say(f"understand.unsure_{fact}", reader, value=getattr(profile, fact), words=profile.evidence[fact])
        for fact in ("domain", "goal", "modality", "deploy")
        if fact in profile.evidence and profile.confidence[fact] < 0.5  # the runner-up has nearly as many votes
    ]
    against = [
        say("understand.model_differs", reader, fact=say(f"understand.fact_{fact}", reader), value=value, ours=ours)
        for fact, (value, ours) in sorted(disputed.items())
    ]
    return tuple([say(f"understand.assumed_{fact}", reader) for fact in missing] + unsure + against)


def sentence_report(profile: TaskProfile) -> dict[str, Any]:
    """The shape of `autoswift understand --json`."""
    return {
        "text": profile.text,
        "language": profile.language,
        "domain": profile.domain,
        "modality": profile.modality,
        "goal": profile.goal,
        "deploy": profile.deploy,
        "hardware": list(profile.hardware),
        "constraints": dict(profile.constraints),
        "assumptions": list(profile.assumptions),
        "evidence": dict(profile.evidence),
        "confidence": dict(profile.confidence),
        "methods": dict(profile.methods),
    }


def understand_batch(
    lines: Iterable[str | bytes | Mapping[str, Any]], *, using: Tools | None = None
) -> Iterator[dict[str, Any]]:
    """For each row with `text` (a JSON line or an object) its report, in order; a bad row answers with its error.

    Blank lines are skipped. Other fields of a row are ignored.
    """
    using = using or tools()
    together: list[_Sentence | dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if isinstance(line, str | bytes) and not line.strip():
            continue
        together.append(_row(line, number))
        if len(together) >= TOGETHER:
            yield from _reports(together, using)
            together = []
    yield from _reports(together, using)


def _row(line: str | bytes | Mapping[str, Any], number: int) -> _Sentence | dict[str, Any]:
    """A row's sentence, or the report of what is wrong with the row."""
    try:
        row = line if isinstance(line, Mapping) else json.loads(line)
        text = row["text"] if isinstance(row, Mapping) else row
        if not isinstance(text, str):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        return InputError(
            say("understand.batch_what", "en", line=number), "", say("understand.batch_fix", "en")
        ).as_json()
    try:
        _refuse_empty(text)
    except InputError as exc:
        return exc.as_json() | {"text": text}
    return _Sentence.of(text)


def _reports(rows: list[_Sentence | dict[str, Any]], using: Tools) -> Iterator[dict[str, Any]]:
    near = iter(_near([row.plain for row in rows if isinstance(row, _Sentence)], using.embedder))
    for row in rows:
        yield (
            sentence_report(_understood(row, next(near), using.model, None, {})) if isinstance(row, _Sentence) else row
        )
