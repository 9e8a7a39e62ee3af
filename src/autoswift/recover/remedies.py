"""The answers to a symptom: each a change of settings that never touches the effective batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from autoswift.domain.decision import Decision, Evidence
from autoswift.domain.protocols import Remedy, Symptom
from autoswift.recover.diagnose import row
from autoswift.tables import text

MAX_ATTEMPTS = 3
"""Attempts of one configuration. Two halvings free three quarters of the activations; more says the plan is wrong."""

MAX_REPEATS = 2
"""Repeats after a transient fault: a second one in a row points to a lasting cause."""

Changes = dict[str, Any] | None


def halve_micro_batch(settings: Mapping[str, Any]) -> Changes:
    """Micro-batch ÷ 2, accumulation × 2: activations halve, the effective batch stays."""
    micro, accumulation = settings["per_device_train_batch_size"], settings["gradient_accumulation_steps"]
    if micro % 2:
        if micro == 1:
            return None
        return {"per_device_train_batch_size": 1, "gradient_accumulation_steps": micro * accumulation}
    return {"per_device_train_batch_size": micro // 2, "gradient_accumulation_steps": accumulation * 2}


def checkpoint_activations(settings: Mapping[str, Any]) -> Changes:
    """Recompute activations in the backward pass: a third more compute, most of their memory back."""
    return None if settings["gradient_checkpointing"] else {"gradient_checkpointing": True}


def repeat(settings: Mapping[str, Any]) -> Changes:
    """The same again: the cause was not in the configuration."""
    del settings
    return {}


REMEDIES: dict[str, Callable[[Mapping[str, Any]], Changes]] = {
    "halve_micro_batch": halve_micro_batch,
    "checkpoint_activations": checkpoint_activations,
    "repeat": repeat,
}


def remedy(symptom: Symptom, settings: Mapping[str, Any], attempt: int, language: str) -> Remedy | None:
    """The first remedy of the table that still changes something, or None when there is none left.

    Args:
        symptom: what went wrong.
        settings: in force for the failed attempt (the plan's, the trial's and earlier remedies').
        attempt: the number of the failed attempt, from 1.
        language: of the decision's texts.
    """
    one = row(symptom.name)
    bound = MAX_REPEATS if one["transient"] else MAX_ATTEMPTS
    if attempt >= bound:
        return None
    for name in one["remedies"]:
        changes = REMEDIES[name](settings)
        if changes is None:
            continue
        shown = ", ".join(f"{k}={v}" for k, v in changes.items()) or text("recover.repeat", language)
        decision = Decision(
            name=f"recovery.{symptom.name}",
            value=changes or "repeat",
            because=text(
                f"recover.because.{name}", language, symptom=text(f"recover.symptom.{symptom.name}", language)
            ),
            evidence=(Evidence(text=symptom.evidence, fact="symptom", value=symptom.name), Evidence(text=shown)),
            source="measurement",
        )
        return Remedy(symptom=symptom, changes=changes, decision=decision)
    return None
