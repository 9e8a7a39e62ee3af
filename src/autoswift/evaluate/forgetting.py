"""The guard: what a model could do before it was tuned, and whether it still can.

A small general set in Chinese and English: facts, arithmetic, reading, common sense, instructions, JSON. Each question
has one right answer and some wrong ones; the model is scored by which it finds likeliest, so that even a small model
shows what it knows, and nothing has to be generated.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import fmean
from typing import Any, Literal

from autoswift.domain.artifact import Score
from autoswift.evaluate.behaviour import script
from autoswift.evaluate.intervals import chance, mean_interval

LANGUAGES = ("en", "zh")
LEAST_LOSS = 0.05
"""A drop of fewer points than this (of 1) is never a veto, however sure it is: one question in twenty."""
LIMIT = 1 / 3
"""Share of the ability above chance whose loss is a veto: a model that has lost a third of what it knew is another
model. What it knew is its score less that of guessing."""
CONFIDENCE = 0.95
RESAMPLES = 2_000
CHANCE = 0.05
"""Of a warning: the drop's interval excludes 0, and equal models would differ so much less often than this."""

Guard = Literal["pass", "warn", "veto"]


@dataclass(frozen=True, slots=True)
class Item:
    """One question: its language, the ability that it asks for, the right answer first among the options."""

    language: str
    ability: str
    prompt: str
    options: tuple[str, ...]

    @property
    def guess(self) -> float:
        """What guessing scores."""
        return 1 / len(self.options)


@cache
def items() -> tuple[Item, ...]:
    """The guard set, English first."""
    found = []
    for language in LANGUAGES:
        for line in _lines(f"{language}.tsv"):
            ability, prompt, *options = line.split("\t")
            found.append(Item(language, ability, prompt, tuple(options)))
    return tuple(found)


@cache
def rules() -> tuple[tuple[str, str, str], ...]:
    """Instructions whose answers are checked by a rule: language, prompt, rule."""
    found = []
    for line in _lines("rules.tsv"):
        language, prompt, rule = line.split("\t")
        found.append((language, prompt, rule))
    return tuple(found)


def _lines(name: str) -> list[str]:
    text = files("autoswift.evaluate").joinpath("guard", name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip()]


def request() -> dict[str, Any]:
    """The arguments of the worker's `choose` for the whole set."""
    return {
        "rows": [{"messages": [{"role": "user", "content": item.prompt}]} for item in items()],
        "options": [list(item.options) for item in items()],
    }


def scored(reply: Mapping[str, Any]) -> list[float]:
    """1 where the right answer, with its end token, is the likeliest, else 0; what is no number is the worst.

    By the sum over its tokens: on SmolLM2-135M it tells most (49 of 100 against 46 by token and 42 by byte), and a
    model whose weights are spoiled falls to 28, which is what guessing gives.

    Args:
        reply: of the worker's `choose` to `request()`.
    """
    values = []
    for row in reply["rows"]:
        right, *others = (math.inf if nll is None else float(nll) for nll in row["nll_sums"])
        values.append(float(math.isfinite(right) and all(right < other for other in others)))
    return values


def follows(rule: str, answer: str) -> bool:
    """Whether an answer keeps a rule of `rules()`.

    Raises:
        ValueError: for an unknown rule.
    """
    name, _, value = rule.partition(":")
    plain = answer.strip()
    if name == "most_words":
        return 0 < len(plain.split()) <= int(value)
    if name == "most_characters":
        return 0 < len(plain) <= int(value)
    if name == "number":
        return re.findall(r"\d+", plain) == [value]
    if name == "holds":
        return value in plain
    if name == "commas":
        return len(re.findall(r"[,，、]", plain)) == int(value)
    if name == "script":
        return script(plain) == value
    if name == "json_keys":
        try:
            made = json.loads(re.sub(r"^```\w*\s*|\s*```$", "", plain))
        except ValueError:
            return False
        return isinstance(made, dict) and set(value.split(",")) <= set(made)
    raise ValueError(f"no such rule: {rule}")


def judge(base: Sequence[float], tuned: Sequence[float], asked: Sequence[Item], seed: int = 0) -> dict[str, Any]:
    """Whether what the base knew is still there.

    The rule (docs/*/evaluation.md): `warn` when the drop's interval excludes 0 and chance does as much in fewer than
    5 % of comparisons; `veto` when, besides, at least a third of the ability above guessing is gone, and 5 points.

    Returns:
        kind, base and tuned (score, 0 to 1), guess, difference (with interval), chance, lost_share (of what was above
        guessing; None where the base knew nothing), limit (points of a veto), abilities [{name, language, rows, base,
        tuned}].
    """
    drops = [after - before for before, after in zip(base, tuned, strict=True)]
    difference = mean_interval(drops, resamples=RESAMPLES, confidence=CONFIDENCE, seed=seed)
    p = chance(drops, seed)
    guess = fmean(item.guess for item in asked)
    known = fmean(base) - guess
    limit = max(LEAST_LOSS, known * LIMIT)
    sure = difference.high is not None and difference.high < 0 and p < CHANCE
    kind: Guard = "pass"
    if sure:
        kind = "veto" if -difference.value >= limit else "warn"
    return {
        "kind": kind,
        "rows": len(asked),
        "base": fmean(base),
        "tuned": fmean(tuned),
        "guess": guess,
        "difference": difference,
        "chance": p,
        "lost_share": max(0.0, -difference.value) / known if known > 0 else None,
        "limit": limit,
        "confidence": CONFIDENCE,
        "abilities": _abilities(base, tuned, asked),
    }


def _abilities(base: Sequence[float], tuned: Sequence[float], asked: Sequence[Item]) -> list[dict[str, Any]]:
    rows = []
    for name in dict.fromkeys(item.ability for item in asked):
        for language in LANGUAGES:
            chosen = [i for i, item in enumerate(asked) if (item.ability, item.language) == (name, language)]
            if chosen:
                before, after = ([side[i] for i in chosen] for side in (base, tuned))
                rows.append(
                    {
                        "name": name,
                        "language": language,
                        "rows": len(chosen),
                        "base": fmean(before),
                        "tuned": fmean(after),
                    }
                )
    return rows


def summary(values: Sequence[float], seed: int = 0) -> Score:
    """One model's score on the set, with its interval."""
    return mean_interval(values, resamples=RESAMPLES, confidence=CONFIDENCE, seed=seed)
