"""The stage `learn`: what this run taught, as counts and settings, never as the user's text."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from autoswift.domain.artifact import StepResult
from autoswift.domain.plan import Plan
from autoswift.domain.profile import DataProfile, TaskProfile
from autoswift.errors import AutoSwiftError
from autoswift.knowledge.store import Fingerprint, RunEntry, record
from autoswift.run.context import RunContext


def learn_stage(context: RunContext, plan: Plan, profile: TaskProfile, data: DataProfile) -> StepResult:
    """Records the run. A broken store is a warning, never a failed run."""
    entry = entry_of(context, plan, profile, data)
    try:
        record(entry)
    except AutoSwiftError as exc:
        context.note(f"{exc.what} {exc.fix}", "warn")
    return StepResult(value={"entry": asdict(entry)})


def entry_of(context: RunContext, plan: Plan, profile: TaskProfile, data: DataProfile) -> RunEntry:
    """The run as an entry of the knowledge base."""
    device = context.record.value("hardware")["hardware"]["devices"][0]
    trained, tested = context.record.value("train"), context.record.value("evaluate")
    trials: list[dict[str, Any]] = []
    parameters: dict[int, Any] = {}
    seconds = 0.0
    for row in context.journal.trials():
        if row["event"] == "proposed":
            parameters[row["trial"]] = row["parameters"]
        if row["event"] == "ended":
            outcome = row["outcome"]
            seconds += float(outcome["device_seconds"])
            trials.append(
                {
                    "parameters": parameters.get(row["trial"], {}),
                    "tokens": outcome["tokens"],
                    "metric": outcome["metrics"].get(plan.search.metric),
                    "nll": outcome["metrics"].get("nll"),
                    "status": outcome["status"],
                    "symptom": outcome["symptom"],
                }
            )
    metric = tested["metric"]
    return RunEntry(
        run_id=context.record.id,
        created=float(context.record.state()["created"]),
        fingerprint=Fingerprint(
            goal=profile.goal,
            language=data.language,
            domain=profile.domain,
            modality=profile.modality,
            rows=data.conversations,
            tokens_mean=float(context.record.value("recount")["tokens"]["mean"]),
            model=plan.model.id,
            parameters=plan.model.parameters,
            method=plan.training.method,
            device=device["name"],
        ),
        best=dict(trained["parameters"]),
        metric=metric,
        base=tested["base"]["scores"][metric]["value"],
        tuned=tested["tuned"]["scores"][metric]["value"],
        trials=tuple(trials),
        device_seconds=round(seconds, 1),
    )
