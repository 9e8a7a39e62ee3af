"""The questions that a teacher is asked, from the table `teacher`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoswift.domain.profile import TaskProfile
from autoswift.domain.protocols import Question
from autoswift.tables import table
from autoswift.understand.teacher.replies import JUDGE_SCHEMA, LABELS_SCHEMA, LIST_SCHEMA
from autoswift.understand.topics import topics_of

SHOWN = 3
"""Example requests in a question: more of them and small models copy instead of inventing."""
OWN = 1
"""Of these, how many come from what the teacher itself made before: the pool moves away from the seeds."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A question for several requests, and the class that they are for."""

    question: Question
    label: str = ""


def requests(
    profile: TaskProfile, language: str, draw: random.Random, pool: Sequence[str], labels: Sequence[str], count: int
) -> Batch:
    """A question for `count` new requests (or texts of one class), drawn anew each time.

    Args:
        profile: the task. language: of the examples.
        draw: the source of chance. pool: requests kept so far. labels: classes, when classifying.
        count: requests wanted.
    """
    rules = table("teacher")
    values: dict[str, Any] = {
        "task": profile.text,
        "persona": draw.choice(rules["personas"][language]),
        "angle": draw.choice(rules["angles"][language]),
        "count": count,
    }
    if labels:
        label = draw.choice(list(labels))
        text = _prompt(language, "texts", labels="、".join(labels) if language == "zh" else ", ".join(labels),
                       label=label, **values)  # fmt: skip
        return Batch(_question("instruct", _system(language, "instruct_system"), text, LIST_SCHEMA), label)
    seeds = seeds_of(profile, language)
    own = draw.sample(list(pool), min(OWN, len(pool)))
    shown = [*draw.sample(seeds, SHOWN - len(own)), *own]
    text = _prompt(language, "instruct", seeds="\n".join(f"- {one}" for one in shown), **values)
    return Batch(_question("instruct", _system(language, "instruct_system"), text, LIST_SCHEMA))


def seeds_of(profile: TaskProfile, language: str) -> list[str]:
    """Example requests: of the topic that the sentence names, of the domain, or of everyday life."""
    seeds = table("teacher")["seeds"]
    names = [*topics_of(profile).main, profile.domain, "general"]
    return list(next(seeds[name] for name in names if name in seeds)[language])


def own_requests(profile: TaskProfile, language: str, draw: random.Random, count: int) -> list[str]:
    """Requests put together from seeds, personas and occasions, for a teacher that cannot write lists of them."""
    rules = table("teacher")
    seeds = seeds_of(profile, language)
    personas, occasions = rules["personas"][language], rules["occasions"][language]
    every = [(s, p, o) for s in seeds for p in personas for o in occasions]
    chosen = draw.sample(every, min(count, len(every)))
    return [_prompt(language, "own", seed=s, persona=p, occasion=o) for s, p, o in chosen]


def answer(profile: TaskProfile, language: str, asked: str, labels: Sequence[str]) -> Question:
    """The request itself, or which class a text is of."""
    if labels:
        text = _prompt(language, "label", labels=", ".join(labels), instruction=asked)
        return _question("answer", "", text, None)
    return _question("answer", _prompt(language, "answer_system", task=profile.text), asked, None)


def judge(profile: TaskProfile, language: str, asked: str, said: str) -> Question:
    """How good an answer is."""
    text = _prompt(language, "judge", task=profile.text, instruction=asked, answer=said)
    return _question("judge", _system(language, "judge_system"), text, JUDGE_SCHEMA)


def labels(profile: TaskProfile, language: str) -> Question:
    """Which classes a task has."""
    return _question("instruct", "", _prompt(language, "labels", task=profile.text), LABELS_SCHEMA)


def _system(language: str, name: str) -> str:
    return str(table("teacher")["prompts"][language][name])


def _prompt(language: str, name: str, **values: Any) -> str:
    return str(table("teacher")["prompts"][language][name]).format(**values)


def _question(kind: str, system: str, text: str, schema: dict[str, Any] | None) -> Question:
    rules = table("teacher")["limits"]
    head = ({"role": "system", "content": system},) if system else ()
    return Question(
        kind=kind,
        messages=(*head, {"role": "user", "content": text}),
        schema=schema,
        max_tokens=rules["max_tokens"][kind],
        temperature=rules["temperature"][kind],
    )
