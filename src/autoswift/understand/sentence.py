"""One sentence becomes a task profile, by rules and a lexicon; every fact with its words and its confidence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from autoswift.domain.profile import TaskProfile
from autoswift.errors import InputError
from autoswift.tables import text as say
from autoswift.understand import hints, lexicon
from autoswift.understand.language import detect, reading_language
from autoswift.understand.lexicon import Hit

FUNCTIONS = {"customer_service", "creative_writing", "translation", "summarization", "roleplay", "code"}
"""Domains that name what the model does. They outweigh a topic ("translate medical papers") because no other fact
records them, while classifying and extracting are recorded as the goal."""
FUNCTION_BONUS = 1.4
"""One named function (3) must outvote one named topic with a typical word beside it (3 + 1)."""
DEFAULT_CONFIDENCE = 0.4
"""Of a value that the sentence does not say: more often right than any other single one, no more."""
NOT_ASKED = 0.7
"""Of `deploy: none`: people who want it served somewhere particular mostly say so."""
LONGEST = 20_000
"""Characters of a "sentence" that are read: a pasted document is no sentence, and its start says what is wanted."""


def understand(sentence: str, *, language: str | None = None) -> TaskProfile:
    """What a sentence asks for.

    Args:
        sentence: Chinese, English or both; a typo in a word of the lexicon is forgiven.
        language: of the sentence, when known; otherwise it is detected.

    Raises:
        InputError: when the sentence is empty.
    """
    if not sentence.strip():
        raise InputError(
            say("understand.empty_what", reading_language(language or "en")),
            say("understand.empty_why", reading_language(language or "en")),
            say("understand.empty_fix", reading_language(language or "en")),
        )
    spoken = language or detect(sentence)
    plain, mended = lexicon.correct_typos(lexicon.normalise(sentence[:LONGEST]))
    machines = hints.hardware(lexicon.tidy(sentence[:LONGEST]))
    demands, evidence = hints.constraints(plain, machines)
    profile = TaskProfile(
        text=sentence,
        language=spoken,
        hardware=machines,
        constraints=demands,
        evidence=evidence | ({"hardware": ", ".join(machines)} if machines else {}),
        confidence={"language": 0.95 if language is None else 1.0} | {k: 0.85 for k in evidence},
    )
    if machines:
        profile.confidence["hardware"] = 0.9
    if mended:
        profile.evidence["typos"] = ", ".join(mended)
    for fact, decide in (("modality", _modality), ("domain", _domain), ("goal", _goal), ("deploy", _deploy)):
        profile = _with(profile, fact, decide(plain))
    return replace(profile, assumptions=_assumptions(profile))


def _with(profile: TaskProfile, fact: str, found: tuple[str, float, str]) -> TaskProfile:
    value, sure, words = found
    changes: dict[str, Any] = {fact: value, "confidence": profile.confidence | {fact: sure}}
    if words:
        changes["evidence"] = profile.evidence | {fact: words}
    return replace(profile, **changes)


def _words(found: Iterable[Hit], value: str) -> str:
    """The distinct words that speak for a value, in the order of the sentence."""
    return ", ".join(dict.fromkeys(h.word for h in found if h.value == value and not h.negated))


def _ranked(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(scores.items(), key=lambda kv: (-kv[1], kv[0]))


def _pick(found: list[Hit], scores: Mapping[str, float], at_least: float) -> tuple[str, float, str] | None:
    """The value with most weight, its confidence and words; None below `at_least`."""
    ranked = _ranked(scores)
    if not ranked or ranked[0][1] < at_least:
        return None
    value, best = ranked[0]
    second = ranked[1][1] if len(ranked) > 1 else 0.0
    return value, lexicon.confidence(best, second), _words(found, value)


def domain_scores(found: Iterable[Hit]) -> dict[str, float]:
    """Weight by domain, functions raised over topics."""
    return {d: w * (FUNCTION_BONUS if d in FUNCTIONS and w >= 2 else 1) for d, w in lexicon.scores(found).items()}


def _domain(plain: str) -> tuple[str, float, str]:
    found = lexicon.hits(plain, "domain")
    # Half a hint (0.5) is a word that only names who asks, and it is all the sentence has.
    return _pick(found, domain_scores(found), 0.5) or ("general", DEFAULT_CONFIDENCE, "")


def _goal(plain: str) -> tuple[str, float, str]:
    found = lexicon.hits(plain, "goal")
    scores = lexicon.scores(found)
    particular = {g: w for g, w in scores.items() if g != "chat" and w >= 2}
    if particular:  # "a support bot that classifies tickets": the particular goal says more than the general one
        picked = _pick(found, particular, 2)
    else:
        picked = _pick(found, {g: w for g, w in scores.items() if g == "chat"}, 1)
    return picked or ("chat", DEFAULT_CONFIDENCE, "")


def _modality(plain: str) -> tuple[str, float, str]:
    found = lexicon.hits(plain, "modality")
    return _pick(found, lexicon.scores(found), 2) or ("text", NOT_ASKED, "")


def _deploy(plain: str) -> tuple[str, float, str]:
    """Only a place to serve counts; a card or a cloud to train on does not."""
    found = [
        h
        for h in lexicon.hits(plain, "deploy")
        if (h.weight >= 3 and not _trained_there(plain, h))
        or hints.runs_on(plain, h.start, h.end)
        or _edge_only(plain, h)
    ]
    weights = {value: max(w, 2.0) for value, w in lexicon.scores(found).items()}
    if "k8s" in weights:  # "on Kubernetes in the cloud": the cluster is what the files are made for
        weights["k8s"] += weights.pop("cloud", 0.0)
    return _pick(found, weights, 1) or ("none", NOT_ASKED, "")


def _trained_there(plain: str, h: Hit) -> bool:
    """Whether the nearest verb says that the place is for training."""
    train, serve = (hints.gap(plain, h.start, h.end, lexicon.group(name)) for name in ("training", "serving"))
    return h.value != "edge" and train is not None and train <= 4 and (serve is None or train < serve)


def _edge_only(plain: str, h: Hit) -> bool:
    return h.value == "edge" and h.word.startswith(("树莓派", "raspberry", "jetson"))


def _assumptions(profile: TaskProfile) -> tuple[str, ...]:
    """What was assumed, in the sentence's language."""
    reader = reading_language(profile.language)
    said = profile.evidence
    missing = [fact for fact in ("domain", "goal") if fact not in said]
    if not {"domain", "modality"} & said.keys():
        missing.append("modality")
    if len(missing) > 1 and "deploy" not in said:
        missing.append("deploy")
    unsure = [
        say(f"understand.unsure_{fact}", reader, value=getattr(profile, fact), words=said[fact])
        for fact in ("domain", "goal", "modality", "deploy")
        if fact in said and profile.confidence[fact] < 0.5  # the runner-up has nearly as many votes
    ]
    return tuple([say(f"understand.assumed_{fact}", reader) for fact in missing] + unsure)


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
    }


def understand_batch(lines: Iterable[str | bytes | Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """For each row with `text` (a JSON line or an object) its report, in order; a bad row answers with its error.

    Blank lines are skipped. Fields of a row other than `text` are ignored, except `language`.
    """
    import json

    for number, line in enumerate(lines, 1):
        if isinstance(line, str | bytes) and not line.strip():
            continue
        try:
            row = line if isinstance(line, Mapping) else json.loads(line)
            text = row["text"] if isinstance(row, Mapping) else row
            if not isinstance(text, str):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            yield InputError(
                say("understand.batch_what", "en", line=number), "", say("understand.batch_fix", "en")
            ).as_json()
            continue
        try:
            yield sentence_report(understand(text))
        except InputError as exc:
            yield exc.as_json() | {"text": text}
