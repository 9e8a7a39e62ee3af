"""The last rung: another model in the plan, said plainly; what the plan lets recovery do follows from the machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoswift.decide.planner import make_plan
from autoswift.errors import ModelTooLarge
from autoswift.recover.smaller import in_force, smaller_models, smaller_plan
from unit.test_decide import ONLINE, RTX, inputs

TOO_LARGE = ModelTooLarge("it does not fit", "Tried to allocate 2.00 GiB", "")


def test_a_smaller_model_of_the_same_family_comes_first() -> None:
    known = inputs(RTX, ONLINE)
    plan = make_plan(known)
    found = smaller_models(known, plan.model)
    assert found
    assert all(0 < one.parameters < plan.model.parameters for one in found)
    families = [one.id.partition("-")[0] == plan.model.id.partition("-")[0] for one in found]
    assert families == sorted(families, reverse=True)
    new = smaller_plan(known, plan, TOO_LARGE, trials=1)
    assert new.revision == plan.revision + 1
    assert new.model.parameters < plan.model.parameters
    told = new.decision("model")
    assert told.value == new.model.id
    assert plan.model.id in told.because
    assert new.model.id in told.because
    assert (told.alternatives[0].value, told.source) == (plan.model.id, "measurement")
    assert new.search.trials == make_plan(known, model=new.model).search.trials + 1


def test_the_users_own_model_is_never_replaced() -> None:
    known = inputs(RTX, ONLINE, model="qwen2.5-1.5b-instruct")
    plan = make_plan(known)
    assert not plan.recovery.other_model
    with pytest.raises(ModelTooLarge):
        smaller_plan(known, plan, TOO_LARGE)


def test_consent_reaches_the_plan() -> None:
    assert not make_plan(inputs()).recovery.allow_truncate
    plan = make_plan(inputs(RTX, ONLINE, allow_truncate=True))
    assert plan.recovery.allow_truncate
    assert plan.recovery.bfloat16
    assert plan.recovery.other_model


def test_a_resumed_run_goes_on_with_the_model_that_took_its_place() -> None:
    known = inputs(RTX, ONLINE)
    plan = make_plan(known)
    later = replace(plan, revision=2)
    assert in_force([plan, later], plan) == plan
    smaller = smaller_plan(known, later, TOO_LARGE)
    revised = replace(smaller, revision=smaller.revision + 1)
    assert in_force([plan, later, smaller, revised], plan) == smaller
