"""The last rung: the plan made anew with a smaller model, of the same family where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autoswift.decide.inputs import Inputs
from autoswift.decide.model import recommended, to_choice
from autoswift.decide.planner import make_plan
from autoswift.domain.decision import Alternative, Decision, Evidence
from autoswift.domain.plan import ModelChoice, Plan
from autoswift.errors import AutoSwiftError, InputError
from autoswift.hardware.margins import Margin
from autoswift.hardware.shape import shape_of
from autoswift.tables import text

SMALLER = 0.8
"""Share of the weights that counts as smaller: models of one size class differ by less."""


def in_force(plans: Sequence[Plan], first: Plan) -> Plan:
    """What a run goes on from: the first revision with the newest revision's model.

    Args:
        plans: all revisions, in order. first: the plan when its model was settled.
    """
    newest = plans[-1].model.id
    if newest == first.model.id:
        return first
    return next((plan for plan in plans if plan.revision > first.revision and plan.model.id == newest), first)


def smaller_models(inputs: Inputs, model: ModelChoice) -> list[ModelChoice]:
    """Models in place of one that does not fit: of its family first, then as the recommendation ranks them.

    Args:
        inputs: of the plan. model: that does not fit.
    """
    family = _family(model.id)
    below = [one.facts for one in recommended(inputs).ranked if 0 < one.facts.parameters < SMALLER * model.parameters]
    below.sort(key=lambda facts: _family(facts.id) != family)  # stable: the ranking holds within each part
    return [to_choice(facts, inputs) for facts in below]


def smaller_plan(inputs: Inputs, plan: Plan, error: AutoSwiftError, *, factor: float = 1.0, trials: int = 0) -> Plan:
    """The next revision, with the first smaller model that fits.

    Args:
        inputs: of the plan. plan: in force. error: that ended the search.
        factor: measured over predicted memory, as the failed trials showed it.
        trials: that have failed: they do not count against the new model.

    Raises:
        AutoSwiftError: `error`, when the user named the model or none fits.
    """
    if inputs.task.model:
        raise error
    language = inputs.task.language
    for model in smaller_models(inputs, plan.model):
        family = shape_of(model).family
        margin = Margin(family=family, method="", factor=max(factor, 1.0), count=1, low=factor, high=factor)
        known = replace(inputs, margins=(margin, *inputs.margins)) if factor > 1 else inputs
        values = {"old": plan.model.id, "new": model.id}
        try:
            made = make_plan(
                known, revision=plan.revision + 1, cause=text("plan.cause.smaller", language, **values), model=model
            )
        except InputError:
            continue
        told = Decision(
            name="model",
            value=model.id,
            because=text("recover.because.smaller_model", language, **values),
            evidence=(Evidence(text=error.why or error.what),),
            alternatives=(Alternative(value=plan.model.id, why_not=error.what),),
            source="measurement",
        )
        decisions = tuple(told if one.name == "model" else one for one in made.decisions)
        return replace(made, decisions=decisions, search=replace(made.search, trials=made.search.trials + trials))
    raise error


def _family(name: str) -> str:
    """The first word of a model's name: qwen2.5 and qwen3 are each a family of their own."""
    return name.lower().rpartition("/")[2].partition("-")[0]
