"""What does not depend on the machine: who is out of the question, and the score of the others in parts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoswift.catalog import benchmarks
from autoswift.catalog.models import ModelFacts
from autoswift.decide.need import Both, Need, Reason, Word
from autoswift.tables import table


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a score, in points of the ability's test."""

    name: str
    points: float
    reason: Reason


@dataclass(frozen=True, slots=True)
class Weighed:
    """A model with what the task alone says about it.

    Attributes:
        out: why it is out of the question, or None.
        parts: of its score; empty when it is out.
        known: what was worked out for a machine, by a key of it: the caller's to fill.
    """

    facts: ModelFacts
    out: Reason | None
    parts: tuple[Part, ...] = ()
    score: float = 0.0
    known: dict[Any, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Field:
    """All models for one task: those that can be had, best first, and those that are out.

    Attributes:
        known: what follows for any machine: the caller's to fill.
    """

    models: Sequence[ModelFacts]
    possible: tuple[Weighed, ...]
    out: tuple[Weighed, ...]
    known: dict[str, Any] = field(default_factory=dict, compare=False)


_LOCKED = ("transformers", "torch", "accelerate", "bitsandbytes")
"""Packages of the training environment: what a model asks of these is met, or it is out."""
_remembered: dict[tuple[Need, int], Field] = {}
_KEPT = 32
"""Tasks remembered: a plan asks for the same one many times, on supposed machines."""


def weighed(need: Need, models: Sequence[ModelFacts]) -> Field:
    """All models with their scores.

    Args:
        need: what the task asks.
        models: the catalogue. Its identity is part of what is remembered.
    """
    key = (need, id(models))
    if key not in _remembered or _remembered[key].models is not models:
        while len(_remembered) >= _KEPT:
            _remembered.pop(next(iter(_remembered)))
        rows = [_weigh(facts, need) for facts in models]
        rows.sort(key=lambda one: (-one.score, *order(one.facts)))
        possible = tuple(one for one in rows if one.out is None)
        _remembered[key] = Field(models, possible, tuple(one for one in rows if one.out is not None))
    return _remembered[key]


def order(facts: ModelFacts) -> tuple[bool, float, str]:
    """Between equal scores: what was checked by hand, then the younger, then by name."""
    return not facts.curated, -benchmarks.year_of(facts), facts.id


def _weigh(facts: ModelFacts, need: Need) -> Weighed:
    out = next(refusals(facts, need), None)
    if out is not None:
        return Weighed(facts, out)
    parts = tuple(_parts(facts, need))
    return Weighed(facts, None, parts, round(sum(part.points for part in parts), 4))


def refusals(facts: ModelFacts, need: Need) -> Iterator[Reason]:
    """Why a model is out of the question whatever the machine, the most telling first."""
    yield from _purpose(facts, need)
    yield from _weights(facts)
    huggingface, modelscope, packaged = need.sources
    if not ((facts.hf and huggingface) or (facts.ms and modelscope) or (facts.packaged and packaged) or facts.path):
        yield Reason.of("out_unreachable")
    if facts.gated and not need.named:
        yield Reason.of("out_gated")
    yield from _licence(facts, need)
    # A "7B" has up to 7.7 billion weights: the user means the class.
    if need.parameters and facts.parameters > need.parameters * 1.1:
        yield Reason.of("out_parameters", size=_billions(facts.parameters), most=_billions(need.parameters))
    if need.edge and facts.parameters > float(table("recommend")["edge"]["largest"]):
        yield Reason.of("out_edge_size", size=_billions(facts.parameters))


def _purpose(facts: ModelFacts, need: Need) -> Iterator[Reason]:
    """What it is made for, and what it takes."""
    if facts.kind not in table("recommend")["kinds"].get(need.goal, ("chat",)):
        kind, goal = Word("decide.recommend.kind", facts.kind), Word("report.word.goal", need.goal)
        yield Reason.of("out_kind", kind=kind, goal=goal)
    if not facts.takes(need.modality):
        yield Reason.of("out_modality", modality=Word("report.word.modality", need.modality))
    if need.modality == "text" and facts.modality != "text":
        yield Reason.of("out_text_only")


def _weights(facts: ModelFacts) -> Iterator[Reason]:
    """Whether its weights can be trained on here at all."""
    if facts.blocked:
        yield Reason.of(f"out_{facts.blocked}")
    if facts.quantized:
        yield Reason.of("out_quantized", quantized=facts.quantized.upper())
    if facts.unmet:
        yield Reason.of("out_unmet", demand=", ".join(facts.unmet))
    if not facts.model_type:
        yield Reason.of("out_engine")
    if not facts.parameters:
        yield Reason.of("out_size")


def _licence(facts: ModelFacts, need: Need) -> Iterator[Reason]:
    if not need.licence:
        return
    accepted = table("recommend")["licences"].get(need.licence)
    fits = facts.licence in accepted if accepted is not None else facts.commercial
    if not facts.licence:
        yield Reason.of("out_licence_unknown")
    elif not fits:
        wanted = Word("decide.recommend.licence", need.licence)
        yield Reason.of("out_licence", licence=facts.licence, wanted=wanted)


def _parts(facts: ModelFacts, need: Need) -> Iterator[Part]:
    points = table("recommend")["points"]
    yield from _ability(facts, need)
    yield from _language(facts, need)
    if facts.kind == "reasoning" and need.goal != "reasoning" and need.domain != "math" and not _made_for(facts, need):
        yield Part("thinks", points["thinks"], Reason.of("thinks"))
    if facts.experts:
        yield Part("experts", points["experts"], Reason.of("experts"))
    if not facts.licence:
        yield Part("licence", points["licence_unknown"], Reason.of("licence_unknown"))
    elif not facts.commercial:
        yield Part("licence", points["licence_research"], Reason.of("licence_research", licence=facts.licence))
    if not facts.engines and not facts.curated:
        yield Part("engines", points["unserved"], Reason.of("unserved"))
    extra = [one for one in facts.requires if not one.startswith(_LOCKED)]
    if extra:
        yield Part("packages", points["packages"], Reason.of("packages", packages=", ".join(extra)))
    yield from _rules(facts, need)
    year = benchmarks.year_of(facts)
    yield Part("year", points["year"] * year, Reason.of("year", released=facts.released or "?"))
    cost = _cost(need)
    doublings = math.log2(max(facts.parameters, float(table("recommend")["cost"]["smallest"])) / 1e9)
    yield Part("cost", -cost * doublings, Reason.of("cost", size=_billions(facts.parameters), cost=cost))


def _rules(facts: ModelFacts, need: Need) -> Iterator[Part]:
    """The table's own rules: points for models whose name matches, where the task is as the rule says."""
    for row in table("recommend")["rules"]:
        if all(getattr(need, name) in words for name, words in row["when"].items()) and re.search(
            row["match"], facts.id
        ):
            yield Part("rule", float(row["points"]), Reason.of(row["reason"]))


def _cost(need: Need) -> float:
    rules = table("recommend")
    cost = rules["cost"]
    if need.goal in rules["label_goals"]:
        base = cost["labels"]
    else:
        base = cost["narrow"] if need.domain in rules["narrow_domains"] else cost["open"]
    return float(base) + (float(cost["latency"]) if need.quick else 0.0)


def _ability(facts: ModelFacts, need: Need) -> Iterator[Part]:
    """What the model can, on the test that counts for the task; what its training for the domain is worth."""
    test = _test(need)
    special = test in ("mteb", "cmteb", "mmmu")
    found = benchmarks.ability(facts, test) if special else benchmarks.equivalent(facts, test)
    value = found.points - float(table("recommend")["points"]["estimated_spread"]) * found.spread
    code = "ability_measured" if found.measured else "ability_estimated"
    yield Part(
        "ability",
        value,
        Reason.of(code, test=test.upper(), points=f"{value:.1f}", source=found.source, spread=f"{found.spread:.1f}"),
    )
    if _made_for(facts, need) and (special or not found.measured or test == "mmlu"):
        worth = benchmarks.gain(need.domain) / (1.0 if special else benchmarks.slope(test))
        yield Part("domain", worth, _worth(need.domain, worth))
    elif _made_for_another(facts, need):
        made_for = Word("report.word.domain", facts.domains[0])
        yield Part("domain", table("recommend")["points"]["other_domain"], Reason.of("other_domain", domain=made_for))
    if facts.kind == "reasoning" and (need.goal == "reasoning" or need.domain == "math"):
        worth = benchmarks.gain("reasoning") / benchmarks.slope("math")
        yield Part("reasons", worth, _worth("reasoning", worth))


def _worth(domain: str, points: float) -> Reason:
    row = benchmarks.pair(domain)
    return Reason.of(
        "domain",
        domain=Word("report.word.domain", domain) if domain != "reasoning" else Word("report.word.goal", "reasoning"),
        points=f"{points:.1f}",
        test=Both(str(row.get("test", "?")), str(row.get("test_zh", row.get("test", "?")))),
        **{key: row.get(key, "?") for key in ("specialist", "base", "before", "after", "source")},
    )


def _test(need: Need) -> str:
    tests: dict[str, Any] = table("recommend")["tests"]
    for word in (need.goal, need.modality, need.domain):
        if word in tests and word != "other":
            found = tests[word]
            if isinstance(found, dict):
                return str(found.get(need.languages[0], found["other"]))
            return str(found)
    return str(tests["other"])


def _made_for(facts: ModelFacts, need: Need) -> bool:
    return need.domain in facts.domains and "general" not in facts.domains


def _made_for_another(facts: ModelFacts, need: Need) -> bool:
    return bool(facts.domains) and "general" not in facts.domains and need.domain not in facts.domains


def _language(facts: ModelFacts, need: Need) -> Iterator[Part]:
    points = table("recommend")["points"]
    if not facts.languages:
        yield Part("language", points["language_unknown"], Reason.of("language_unknown"))
        return
    missing = [one for one in need.languages if one not in facts.languages]
    if missing:
        worth = points["language_missing"] * len(missing) / len(need.languages)
        yield Part("language", worth, Reason.of("language_missing", language=Word("report.word.language", missing[0])))


def _billions(count: float) -> str:
    return f"{count / 1e9:.2g}" if count < 1e10 else f"{count / 1e9:.0f}"
