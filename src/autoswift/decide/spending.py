"""What the plan costs, and what the user's money buys of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from autoswift.decide.book import Book
from autoswift.decide.inputs import Inputs
from autoswift.domain.plan import CostEstimate
from autoswift.errors import InputError
from autoswift.hardware.money import amount, cost_estimate, energy, plain_amount, priced
from autoswift.tables import explain


def with_price(inputs: Inputs, devices: int = 1) -> Inputs:
    """The inputs with a budget whose money has become time of so many devices.

    Args:
        inputs: of the plan. devices: that one training takes.

    Raises:
        InputError: when money is limited and no price is known.
    """
    budget = inputs.task.budget
    # The user's own terms, whatever an earlier pass made of them: only a list price is looked up anew.
    asked = replace(budget, price_source="") if budget.price_source == "list" else budget
    return replace(inputs, task=replace(inputs.task, budget=priced(asked, inputs.hardware, devices)))


def too_little_money(inputs: Inputs, hours: float) -> InputError | None:
    """What is said when the money does not buy one short trial with all that belongs to it; None when it is the time.

    Args:
        inputs: from `with_price`. hours: of wall-clock that the least run takes.
    """
    budget = inputs.task.budget
    if budget.money is None or budget.paid_seconds >= budget.hours * 3600:
        return None
    language = inputs.task.language
    least = hours * budget.devices * budget.price_per_device_hour
    return InputError(
        *explain(
            "decide.too_little_money",
            money=amount(budget.money, budget.currency, language),
            price=amount(budget.price_per_device_hour, budget.currency, language),
            device=inputs.hardware.device.name,
            devices=budget.devices,
            buys=budget.paid_seconds / 3600,
            need=hours,
            least=amount(least, budget.currency, language),
            give=f"{_up(least * 1.1):g}{budget.currency}",
        )
    )


def _up(value: float) -> float:
    """Rounded up to two digits, whole cents at the least."""
    places = min(2, 1 - math.floor(math.log10(max(value, 0.01))))
    return math.ceil(value * 10.0**places) / 10.0**places


def cost_of(inputs: Inputs, stages: Mapping[str, float], book: Book) -> CostEstimate:
    """What the run costs, written down as a decision with its source.

    Args:
        inputs: from `with_price`.
        stages: name to planned seconds; what was spent before this revision comes on top.

    Raises:
        InputError: when settings that the user fixed make it cost more than may be spent.
    """
    gone = {"spent": inputs.seconds_spent} if inputs.seconds_spent > 0 else {}
    found = cost_estimate(gone | dict(stages), inputs.task.budget, inputs.hardware, book.language)
    shown = amount(found.money, found.currency, book.language)
    if found.limit is not None and found.money is not None and found.money > found.limit:
        limit = amount(found.limit, found.currency, book.language)
        raise InputError(*explain("decide.cost_above", cost=shown, limit=limit))
    key = "unknown" if found.money is None else "limited" if found.limit is not None else "free" if (
        found.money == 0
    ) else "known"  # fmt: skip
    because = book.say(
        f"cost.{key}",
        cost=shown,
        hours=f"{found.device_hours:.2f}",
        energy=energy(found.watt_hours, book.language),
        limit=amount(found.limit, found.currency, book.language),
    )
    largest = max(found.stages, key=lambda name: found.stages[name].seconds, default="")
    evidence = [
        book.fact("price_per_device_hour", found.price_per_device_hour, found.source),
        book.fact("device_hours", found.device_hours, book.say("cost.devices", devices=found.devices)),
        book.fact("watt_hours", found.watt_hours, book.say("cost.energy")),
    ]
    if largest:
        share = found.stages[largest].seconds / max(sum(one.seconds for one in found.stages.values()), 1e-9)
        words = book.say("cost.largest", stage=book.say(f"cost.stage.{largest}"), share=f"{share:.0%}")
        evidence.append(book.fact("largest_stage", largest, words))
    book.add(
        "cost",
        plain_amount(found.money, found.currency),
        because,
        evidence=evidence,
        source="user" if found.basis in ("option", "environment") else "formula",
        instead=book.say("instead.cost"),
    )
    return found
