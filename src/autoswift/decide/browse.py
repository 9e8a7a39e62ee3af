"""The catalogue as a list to look through: filtered, with what fits on a card."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from autoswift.catalog import benchmarks
from autoswift.catalog.models import ModelFacts, catalog
from autoswift.decide.need import Need, Reason, Word
from autoswift.decide.recommend import fits_on
from autoswift.decide.weigh import refusals
from autoswift.errors import InputError
from autoswift.hardware.devices import all_devices, lookup
from autoswift.run.files import plain
from autoswift.tables import explain, table


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What to list; an empty filter lists everything.

    Attributes:
        task: a goal, domain, kind, modality or language in one word, as a person says it.
        gpu: a card's name: each row says whether it fits, and with `fitting` only those that do are listed.
        licence: a licence's name, or commercial, or open.
        size: `7B`, `<=8B`, `>=30B` or `3B-8B`.
        usable: leave out what no run can use (own code, pickles, quantized, other tasks' kinds).
    """

    task: str = ""
    gpu: str = ""
    fitting: bool = False
    licence: str = ""
    language: str = ""
    modality: str = ""
    size: str = ""
    domain: str = ""
    usable: bool = False
    curated: bool = False


def models(filters: Filters = Filters(), language: str = "en") -> list[dict[str, Any]]:
    """Rows of the catalogue as JSON values, curated ones first.

    Args:
        filters: what to list.
        language: of the texts in `why_not` and `note`.

    Returns:
        The model's facts, `usable` and `why_not`, `ability` (MMLU, measured or estimated), and with a card `fit`.

    Raises:
        InputError: when the card or the size is not understood.
    """
    low, high = _range(filters.size)
    device = None
    if filters.gpu:
        card = lookup(filters.gpu)
        if card is None:
            names = ", ".join(sorted(one.id for one in all_devices()))
            raise InputError(*explain("models.no_gpu", name=filters.gpu, names=names))
        device = card.device()
    rows = []
    for facts in catalog():
        if not (low <= facts.parameters <= high and _fits(facts, filters)):
            continue
        why_not = _why_not(facts)
        if filters.usable and why_not:
            continue
        row = plain(facts) | {
            "usable": why_not is None,
            "why_not": why_not.words(language) if why_not else "",
            "note": facts.note(language),
            "ability": _ability(facts),
        }
        if device is not None:
            row["fit"] = {"gpu": device.name, **fits_on(facts, device)}
            if filters.fitting and not row["fit"]["fits"]:
                continue
        rows.append(row)
    return rows


def _fits(facts: ModelFacts, filters: Filters) -> bool:
    if filters.curated and not facts.curated:
        return False
    if filters.task and not _is_for(facts, filters.task.lower()):
        return False
    if filters.language and filters.language.lower() not in facts.languages:
        return False
    if filters.modality and not (
        facts.takes(filters.modality) and (filters.modality != "text" or facts.modality == "text")
    ):
        return False
    if filters.domain and filters.domain not in facts.domains:
        return False
    return not filters.licence or _licensed(facts, filters.licence.lower())


def _is_for(facts: ModelFacts, word: str) -> bool:
    """Whether a model is meant for a goal, domain, modality, language or kind of that name."""
    kinds: dict[str, list[str]] = table("recommend")["kinds"]
    if word in kinds and word not in facts.domains:
        return facts.kind in kinds[word]
    words = {facts.kind, facts.modality, *facts.modalities, *facts.domains, *facts.languages}
    return word in {one.lower() for one in words}


def _licensed(facts: ModelFacts, wanted: str) -> bool:
    if wanted == "commercial":
        return facts.commercial
    accepted = table("recommend")["licences"].get(wanted)
    return facts.licence in accepted if accepted else wanted in facts.licence.lower()


def _why_not(facts: ModelFacts) -> Reason | None:
    """Why no task could start from it; a demand of one task alone is none."""
    goals = [goal for goal, kinds in table("recommend")["kinds"].items() if facts.kind in kinds]
    if not goals:
        return Reason.of("out_any", kind=Word("decide.recommend.kind", facts.kind))
    need = Need(goal=goals[0], modality=facts.modality, named=True)
    return next(refusals(facts, need), None)


def _ability(facts: ModelFacts) -> dict[str, Any]:
    if not facts.parameters:
        return {}
    tests = {"embedding": "mteb", "reranking": "mteb"}
    found = benchmarks.ability(facts, tests.get(facts.kind, "mmlu"))
    return {"test": found.test, "points": round(found.points, 1), "measured": found.measured, "source": found.source}


def _range(said: str) -> tuple[float, float]:
    """The bounds of a size; `7B` means the class: up to 10 % more or less."""
    text = said.strip().lower().replace(" ", "")
    if not text:
        return 0.0, float("inf")
    m = re.fullmatch(r"(<=|>=|<|>)?(\d+(?:\.\d+)?)(b|m)?(?:-(\d+(?:\.\d+)?)(b|m)?)?", text)
    if not m or (m.group(1) and m.group(4)):
        raise InputError(*explain("models.bad_size", size=said))
    scale = {"b": 1e9, "m": 1e6, None: 1e9}
    low = float(m.group(2)) * scale[m.group(3) or m.group(5)]
    if m.group(4):
        return low * 0.9, float(m.group(4)) * scale[m.group(5)] * 1.1
    if m.group(1) in ("<=", "<"):
        return 0.0, low * 1.1
    if m.group(1) in (">=", ">"):
        return low * 0.9, float("inf")
    return low * 0.9, low * 1.1
