"""What was spent, as a person reads it: a line for the terminal, tiles and rows for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autoswift.domain.budget import Budget
from autoswift.hardware.money import amount, energy
from autoswift.report import words
from autoswift.report.spent import OTHER, Part, Spent
from autoswift.tables import text

SMALL = 0.02
"""Of the whole time: stages below it share a row of the page. The record has each of them."""


def line(spent: Spent, language: str) -> str:
    """Time, money and energy; what failed attempts cost where there were any."""
    parts = [words.duration(spent.seconds, language)]
    if spent.money is not None:
        parts.append(_about(spent.money, spent.currency, language))
    if spent.watt_hours is not None:
        parts.append(_energy(spent.watt_hours, spent.energy, language))
    if spent.failed.get("attempts"):
        lost = [words.duration(spent.failed["seconds"], language)]
        if spent.money is not None:
            lost.append(amount(spent.failed["money"], spent.currency, language))
        parts.append(text("report.costs.lost", language, lost=" · ".join(lost)))
    return " · ".join(parts)


def shown(spent: Spent, budget: Budget, language: str) -> dict[str, Any]:
    """Tiles {value, label} and rows for the report; a row of a trial stands under its stage.

    Args:
        spent: of the run. budget: as the user gave it. language: zh or en.
    """

    def say(key: str, **values: object) -> str:
        return text(f"report.{key}", language, **values)

    tiles = []
    if spent.money is not None:
        limit = budget.money
        label = say("costs.money_of", limit=amount(limit, spent.currency, language)) if limit else say("costs.money")
        tiles.append({"value": amount(spent.money, spent.currency, language), "label": label})
    tiles.append({"value": _hours(spent.device_hours, language), "label": say("costs.device", devices=spent.devices)})
    if spent.watt_hours is not None:
        tiles.append({"value": energy(spent.watt_hours, language), "label": say(f"costs.energy.{spent.energy}")})
    if spent.failed.get("attempts"):
        count = int(spent.failed["attempts"] or 0)
        value = spent.failed["money"]
        said = amount(value, spent.currency, language) if spent.money is not None else ""
        lost = words.duration(spent.failed["seconds"], language)
        tiles.append({"value": said or lost, "label": say("costs.failed", attempts=count, time=lost)})
    rows: list[dict[str, Any]] = []
    large = [one for one in spent.stages if one.failed_seconds > 0 or one.seconds >= SMALL * spent.seconds]
    for stage in large:
        rows.append(_stage(stage, spent, language))
        mine = [one for one in spent.trials if _belongs(one, stage)]
        if len(mine) > 1 or stage.name == "search":
            rows += [_attempt(one, spent, language) for one in mine]
    small = [one for one in spent.stages if one not in large]
    if small:
        rows.append(_together(small, spent, language))
    total = Part(
        name="total",
        seconds=spent.seconds,
        device_hours=spent.device_hours,
        money=spent.money,
        watt_hours=spent.watt_hours,
        failed_seconds=float(spent.failed.get("seconds") or 0.0),
    )
    return {
        "tiles": tiles,
        "rows": rows,
        "total": _cells(total, spent, language) | {"label": say("costs.total")},
        "has_money": spent.money is not None,
        "has_energy": spent.watt_hours is not None,
        "note": say("costs.note", source=spent.source) if spent.source else "",
        "energy_note": say(f"costs.energy_note.{spent.energy}") if spent.watt_hours is not None else "",
    }


def _together(parts: Sequence[Part], spent: Spent, language: str) -> dict[str, Any]:
    """The stages that hardly took any time, in one row."""
    whole = Part(
        name="small",
        seconds=sum(one.seconds for one in parts),
        device_hours=sum(one.device_hours for one in parts),
        money=None if spent.money is None else sum(one.money or 0.0 for one in parts),
        watt_hours=None if spent.watt_hours is None else sum(one.watt_hours or 0.0 for one in parts),
    )
    between = text("report.costs.between", language)
    names = between.join(_name(one, language) for one in parts)
    label = text("report.costs.small", language)
    return _cells(whole, spent, language) | {"label": label, "kind": "stage", "note": names, "planned": words.NOTHING}


def _name(part: Part, language: str) -> str:
    return text("report.costs.other", language) if part.name == OTHER else words.named("stage", part.name, language)


def _belongs(attempt: Part, stage: Part) -> bool:
    return stage.name == ("train" if attempt.trial == 0 else "search")


def _stage(part: Part, spent: Spent, language: str) -> dict[str, Any]:
    planned = spent.planned.get(part.name)
    row = _cells(part, spent, language) | {"label": _name(part, language), "kind": "stage"}
    return row | {"planned": amount(planned, spent.currency, language) if planned is not None else words.NOTHING}


def _attempt(part: Part, spent: Spent, language: str) -> dict[str, Any]:
    final = part.trial == 0
    label = text("report.costs.final" if final else "report.costs.trial", language, trial=part.trial)
    if part.attempt > 1 or part.status == "failed":
        label = text("report.costs.attempt", language, label=label, attempt=part.attempt)
    why = words.named("symptom", part.symptom, language) if part.symptom else ""
    status = words.named("status", part.status, language)
    failed = part.status == "failed"
    return _cells(part, spent, language) | {
        "label": label,
        "kind": "failed" if failed else "trial",
        "note": f"{status}: {why}" if failed and why else status if failed else "",
        "planned": "",
    }


def _cells(part: Part, spent: Spent, language: str) -> dict[str, Any]:
    share = part.seconds / spent.seconds if spent.seconds > 0 else 0.0
    return {
        "seconds": words.duration(part.seconds, language),
        "share": words.percent(share, language),
        "money": amount(part.money, spent.currency, language) if part.money is not None else words.NOTHING,
        "energy": energy(part.watt_hours, language) if part.watt_hours is not None else words.NOTHING,
        "lost": words.duration(part.failed_seconds, language) if part.failed_seconds > 0 else words.NOTHING,
        "measured": part.measured,
    }


def _about(value: float, currency: str, language: str) -> str:
    return text("report.costs.about", language, amount=amount(value, currency, language))


def _energy(value: float, basis: str, language: str) -> str:
    return text(f"report.costs.energy_mark.{basis}", language, energy=energy(value, language))


def _hours(hours: float, language: str) -> str:
    return words.duration(hours * 3600, language)
