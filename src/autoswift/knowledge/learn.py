"""The stage `learn`: what this run taught, as counts and settings, never as the user's text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter

from autoswift.domain.artifact import StepResult
from autoswift.domain.plan import Plan
from autoswift.domain.profile import DataProfile, Device, TaskProfile
from autoswift.domain.trial import FINAL_TRAINING
from autoswift.errors import AutoSwiftError
from autoswift.knowledge.entry import CURVE_POINTS, MOST_TRIALS, CurvePoint, RunEntry, TrialRow, Verdict
from autoswift.knowledge.fingerprint import fingerprint
from autoswift.knowledge.store import record
from autoswift.run.context import RunContext
from autoswift.run.files import plain

SEARCHED = ("learning_rate", "effective_batch_size", "lora_rank")
"""Settings whose value by the rules stands beside each trial."""
WORD = re.compile(r"[A-Za-z0-9_.+-]{1,40}")


def learn_stage(context: RunContext, plan: Plan, profile: TaskProfile, data: DataProfile) -> StepResult:
    """Records the run. A broken store is a warning, never a failed run."""
    entry = entry_of(context, plan, profile, data)
    try:
        record(entry)
    except AutoSwiftError as exc:
        context.note(f"{exc.what} {exc.fix}", "warn")
    return StepResult(value={"entry": plain(entry)})


def entry_of(context: RunContext, plan: Plan, profile: TaskProfile, data: DataProfile) -> RunEntry:
    """The run as an entry of the knowledge base."""
    value = context.record.value
    device = TypeAdapter(Device).validate_python(value("hardware")["hardware"]["devices"][0])
    memory = (value("plan") or {}).get("experience") or {}
    sentence = (str(memory.get("encoder", "")), str(memory.get("embedding", "")))
    mark = fingerprint(profile, data, device, plan.model, plan.training.method, sentence)
    trials, seconds = trials_of(context.journal.trials(), plan)
    tested = value("evaluate")
    metric = tested["metric"]
    difference = tested["difference"][metric]
    state = context.record.state()
    return RunEntry(
        run_id=context.record.id,
        created=float(state["created"]),
        updated=float(tested.get("test_opened") or state["created"]),
        fingerprint=replace(
            mark, tokens_mean=round(float(value("recount")["tokens"]["mean"]), 1), devices=plan.training.devices
        ),
        best=settings(value("train")["parameters"]),
        metric=metric,
        base=tested["base"]["scores"][metric]["value"],
        tuned=tested["tuned"]["scores"][metric]["value"],
        low=difference.get("low"),
        high=difference.get("high"),
        verdict=verdict_of(difference.get("low"), difference.get("high")),
        trials=trials[-MOST_TRIALS:],
        device_seconds=round(seconds, 1),
    )


def verdict_of(low: float | None, high: float | None) -> Verdict:
    """The evaluation's word, by the interval of tuned - base."""
    if low is None or high is None:
        return ""
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def prior_of(plan: Plan) -> dict[str, Any]:
    """What the rules would have begun with; where the user fixed a setting, the rules' own word is its alternative."""
    training = plan.training
    found: dict[str, Any] = {}
    for name in sorted({*SEARCHED, *plan.search.space}):
        value = plan.search.space.get(name, {}).get("prior", getattr(training, name, None))
        for decision in plan.decisions:
            if decision.name == name and decision.source == "user" and decision.alternatives:
                value = decision.alternatives[0].value
        if value is not None:
            found[name] = value
    return settings(found)


def trials_of(rows: Iterable[Mapping[str, Any]], plan: Plan) -> tuple[tuple[TrialRow, ...], float]:
    """The search's trials from the lines of the journal, and the device-seconds of all trainings."""
    prior, metric = prior_of(plan), plan.search.metric
    parameters: dict[int, dict[str, Any]] = {}
    curves: dict[int, list[CurvePoint]] = {}
    spent: dict[int, float] = {}
    ended: dict[int, Mapping[str, Any]] = {}
    for row in rows:
        number, event = int(row["trial"]), row["event"]
        if event == "proposed":
            parameters[number] = dict(row["parameters"])
        elif event == "started":
            curves[number] = []
        elif event in ("progress", "evaluated"):
            curves.setdefault(number, []).append(_point(row, metric))
        elif event == "ended":
            ended[number] = row["outcome"]
            spent[number] = spent.get(number, 0.0) + float(row["outcome"]["device_seconds"])
    found = []
    for number, outcome in sorted(ended.items()):
        if number == FINAL_TRAINING or number not in parameters:
            continue
        metrics = outcome["metrics"]
        found.append(
            TrialRow(
                parameters=settings(parameters[number]),
                prior=prior,
                tokens=int(outcome["tokens"]),
                score=_finite(metrics.get(metric)),
                stderr=_finite(metrics.get(f"{metric}_stderr")),
                nll=_finite(metrics.get("nll")),
                status=outcome["status"],
                symptom=outcome["symptom"] or "",
                device_seconds=round(spent[number], 1),
                curve=thinned(curves.get(number, [])),
            )
        )
    return tuple(found), sum(spent.values())


def thinned(points: Sequence[CurvePoint], most: int = CURVE_POINTS) -> tuple[CurvePoint, ...]:
    """At most so many points of a curve: denser where it is steep, at its beginning; the last one always."""
    if len(points) <= most:
        return tuple(points)
    # Half of the places by the logarithm of the position, half evenly.
    half = most // 2
    places = {round(len(points) ** (i / half)) - 1 for i in range(half)}
    places |= {round((len(points) - 1) * i / (most - half - 1)) for i in range(most - half)}
    return tuple(points[i] for i in sorted(places))


def settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that are numbers or single words; a path or a sentence has no place in an entry."""

    def has_place(value: Any) -> bool:
        if isinstance(value, str):
            return WORD.fullmatch(value) is not None
        return isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))

    return {name: value for name, value in parameters.items() if has_place(value)}


def _point(row: Mapping[str, Any], metric: str) -> CurvePoint:
    metrics = row["metrics"]
    return int(row["step"]), _finite(metrics.get("loss")), _finite(metrics.get("nll")), _finite(metrics.get(metric))


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
