"""What to ask a person whose sentence leaves something open, and the profile that their answers make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from autoswift.domain.profile import TaskProfile
from autoswift.tables import has_text
from autoswift.tables import text as say
from autoswift.understand.language import reading_language
from autoswift.understand.vocabulary import required, vocabulary

UNSURE = 0.5
"""Confidence below which a fact is asked about although the sentence speaks of it: the runner-up is as near."""
AT_MOST = 3
"""Questions of one sentence: who is asked more gives up, and each has an answer that is assumed otherwise."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer: the profile's word, and what a person reads."""

    value: str
    label: str


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that the sentence leaves open.

    Attributes:
        fact: of the profile.
        text: the question, in the reader's language.
        choices: all answers; the first is what is assumed without one.
    """

    fact: str
    text: str
    choices: tuple[Choice, ...]

    @property
    def default(self) -> str:
        """The value that is assumed without an answer."""
        return self.choices[0].value


def questions(profile: TaskProfile, *, language: str | None = None) -> list[Question]:
    """What to ask about a profile, the most important first; empty where the sentence says enough.

    Args:
        profile: as `understand` or `weigh` made it.
        language: zh or en, of the questions; by default the sentence's.
    """
    reader = reading_language(language or profile.language)
    open_facts = [fact for fact in ("goal", "domain", "modality", "deploy") if _open(profile, fact)]
    said_nothing = {"goal", "domain"} <= set(open_facts)
    if not said_nothing:  # the sentence says what it is about: text and no deployment are then safe to assume
        open_facts = [f for f in open_facts if f in ("goal", "domain") or profile.methods.get(f) != "default"]
    return [_question(fact, getattr(profile, fact), reader) for fact in open_facts[:AT_MOST]]


def _open(profile: TaskProfile, fact: str) -> bool:
    if profile.methods.get(fact) in ("option", "data"):
        return False
    if fact not in profile.evidence:
        # "medical questions": conversation goes without saying once the domain is said.
        return fact != "goal" or "domain" not in profile.evidence
    return profile.confidence.get(fact, 1.0) < UNSURE


def _question(fact: str, current: str, reader: str) -> Question:
    values = sorted(vocabulary(fact), key=lambda v: v != current)
    return Question(
        fact, say(f"understand.ask_{fact}", reader), tuple(Choice(v, _label(fact, v, reader)) for v in values)
    )


def _label(fact: str, value: str, reader: str) -> str:
    key = f"understand.choice_{fact}_{value}"
    for name in (key, f"report.word.{fact}.{value}"):
        if has_text(name, reader):
            return say(name, reader)
    return value.replace("_", " ")


def answered(profile: TaskProfile, answers: Mapping[str, str]) -> TaskProfile:
    """The profile with a person's answers, each certain from then on.

    Raises:
        InputError: when an answer is no value of its fact.
    """
    values = {fact: required(fact, said) for fact, said in answers.items()}
    for fact, value in values.items():
        profile = replace(
            profile,
            **{fact: value},  # type: ignore[arg-type]
            evidence={k: v for k, v in profile.evidence.items() if k != fact} | {fact: value},
            confidence=profile.confidence | {fact: 1.0},
            methods=profile.methods | {fact: "option"},
        )
    reader = reading_language(profile.language)
    gone = {say(f"understand.assumed_{fact}", reader) for fact in values if fact != "language"}
    kept = tuple(a for a in profile.assumptions if a not in gone)
    return replace(profile, assumptions=kept)
