"""What trainings took of the memory, remembered beside what was predicted, for the next plan's margin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autoswift.decide.replan import longest_row, predicted
from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.trial import FINAL_TRAINING, Trial
from autoswift.errors import AutoSwiftError
from autoswift.hardware.margins import Seen, comparable, device_key, remember
from autoswift.hardware.shape import shape_of
from autoswift.run.context import RunContext
from autoswift.search.configuration import settings_in_force
from autoswift.tables import text

OWN = ("method", "precision", "lora_rank", "per_device_train_batch_size", "gradient_accumulation_steps",
       "gradient_checkpointing", "optimizer", "max_length", "use_liger_kernel", "attention")  # fmt: skip
"""Settings of a trial that its memory depends on."""


def remember_peaks(context: RunContext, plan: Plan, device: Device) -> int:
    """Remembers the peak of each attempt that the journal has; what cannot be kept is a note.

    Returns:
        How many are new.
    """
    longest, total = longest_row(context, plan), float(context.record.value("recount")["tokens"]["total"])
    seen: list[Seen] = []
    for (number, attempt), row in _attempts(context.journal.trials()).items():
        if row["memory"] > 0 and not (plan.search.packed and number != FINAL_TRAINING):  # a worker's holds several
            trial = Trial(number=number, attempt=attempt, parameters=row["parameters"], tokens=0,
                          overrides=row["overrides"])  # fmt: skip
            in_force = settings_in_force(plan, trial)
            training = replace(plan.training, **{name: in_force[name] for name in OWN if name in in_force})
            # A trial that trained on as many tokens as there are has seen the longest row.
            one = seen_of(context, replace(plan, training=training), device, (row["memory"], longest))
            seen.append(replace(one, trial=number, attempt=attempt, whole=row["tokens"] >= total))
    return _kept(context, seen)


def remember_peak(context: RunContext, plan: Plan, device: Device, what: tuple[int, int, int, int, bool]) -> int:
    """Remembers one training's peak.

    Args:
        what: bytes, tokens of the longest row, number, attempt, and whether the longest row was among the trained ones.
    """
    measured, length, number, attempt, whole = what
    one = seen_of(context, plan, device, (measured, length))
    return _kept(context, [replace(one, trial=number, attempt=attempt, whole=whole)])


def seen_of(context: RunContext, plan: Plan, device: Device, what: tuple[int, int]) -> Seen:
    """A peak beside its prediction.

    Args:
        what: bytes, and tokens of the longest row.
    """
    measured, length = what
    return Seen(
        device=device_key(device),
        family=shape_of(plan.model).family,
        method=plan.training.method,
        measured=measured,
        predicted=comparable(predicted(plan, device, length), device.kind),
        run=context.record.id,
    )


def _kept(context: RunContext, seen: list[Seen]) -> int:
    try:
        return remember(seen)
    except (AutoSwiftError, OSError) as exc:
        context.note(text("plan.memory.not_kept", context.task.language, evidence=exc), "warn")
        return 0


def _attempts(rows: list[dict[str, Any]]) -> dict[tuple[int, int], dict[str, Any]]:
    """(trial, attempt) to its parameters, what was changed, its highest peak and the tokens that it trained on."""
    parameters: dict[int, Mapping[str, Any]] = {}
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for row in rows:
        number = int(row["trial"])
        if row["event"] == "proposed":
            parameters[number] = row["parameters"]
            continue
        key = (number, int(row.get("attempt") or 1))
        one = found.setdefault(
            key, {"parameters": parameters.get(number, {}), "overrides": {}, "memory": 0, "tokens": 0.0}
        )
        if row["event"] == "started":
            one["overrides"] = row.get("overrides") or {}
        if row["event"] == "progress":
            metrics = row.get("metrics") or {}
            one["memory"] = max(one["memory"], int(metrics.get("memory_bytes") or 0))
            one["tokens"] = max(one["tokens"], float(metrics.get("tokens") or 0))
    return found
