"""A remedy that holds for all later trials, as the next revision of the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from autoswift.domain.decision import Decision
from autoswift.domain.plan import Plan, TrainingSettings
from autoswift.domain.protocols import Remedy
from autoswift.tables import text

_TRAINING = frozenset(one.name for one in fields(TrainingSettings))


def revised(plan: Plan, remedy: Remedy, language: str) -> Plan:
    """The plan with a remedy's standing changes, the effective batch size as it was.

    Args:
        plan: in force. remedy: with `standing` changes. language: of the cause.
    """
    cause = text("plan.cause.recovery", language, because=remedy.decision.because)
    decisions = [_told(one, remedy) for one in plan.decisions if one.name != remedy.decision.name]
    new = changed(plan, remedy.standing)
    return replace(new, revision=plan.revision + 1, cause=cause, decisions=(*decisions, remedy.decision))


def changed(plan: Plan, standing: Mapping[str, Any]) -> Plan:
    """The plan's settings with standing changes."""
    made = {name: value for name, value in standing.items() if name in _TRAINING}
    limit = standing.get("micro_batch_limit")
    if limit is not None:
        share = plan.training.per_device_train_batch_size * plan.training.gradient_accumulation_steps
        micro = max(d for d in range(1, min(share, int(limit)) + 1) if share % d == 0)
        made |= {"per_device_train_batch_size": micro, "gradient_accumulation_steps": share // micro}
    answers = int(standing.get("generation_batch_size") or plan.evaluation.generation_batch_size)
    evaluation = replace(plan.evaluation, generation_batch_size=min(answers, plan.evaluation.generation_batch_size))
    return replace(plan, training=replace(plan.training, **made), evaluation=evaluation)


def adds(plan: Plan, standing: Mapping[str, Any]) -> bool:
    """Whether the plan does not say all of it yet."""
    new = changed(plan, standing)
    return (new.training, new.evaluation) != (plan.training, plan.evaluation)


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Two standing changes as one; of limits the lower one holds."""
    both = dict(old) | dict(new)
    for name in ("micro_batch_limit", "generation_batch_size", "max_length"):
        if name in old and name in new:
            both[name] = min(old[name], new[name])
    return both


def _told(one: Decision, remedy: Remedy) -> Decision:
    """A decision of the plan, with the remedy's word where that changed its value."""
    value = remedy.changes.get(one.name)
    if value is None or one.source == "user" or value == one.value:
        return one
    told = remedy.decision
    return replace(
        one, value=value, because=told.because, evidence=told.evidence, source="measurement", levers=(),
        reverse_when=None,
    )  # fmt: skip
