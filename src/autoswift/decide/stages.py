"""The stages `hardware`, `plan`, `fetch` and `recount`: the machine, the plan, the model, and the plan made anew.

What fetches a model and looks at it is imported where it is done: a plan alone needs none of it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from autoswift.catalog.availability import Availability, availability
from autoswift.catalog.models import ModelFacts, catalog, find
from autoswift.decide.counterfactual import explained
from autoswift.decide.experience import recall, stored
from autoswift.decide.inputs import Inputs
from autoswift.decide.planner import make_plan
from autoswift.domain.artifact import StepResult
from autoswift.domain.budget import Budget
from autoswift.domain.decision import Decision
from autoswift.domain.plan import Plan
from autoswift.domain.profile import DataProfile, HardwareProfile, TaskProfile
from autoswift.domain.task import Task
from autoswift.errors import DiskFull, EnvironmentMissing, ModelError, StageFailed
from autoswift.hardware.margins import Margin, margins, read
from autoswift.hardware.probe import probe
from autoswift.hardware.profile import device_profile, save_profile
from autoswift.run.context import RunContext
from autoswift.run.files import dumps, plain, write_atomic
from autoswift.run.plugins import Group, load, names
from autoswift.tables import explain, text


def plug_ins(plan: Plan) -> list[tuple[Group, str]]:
    """The engines that the plan names, by group."""
    named: list[tuple[Group, str]] = [("engines", plan.training.engine), ("executors", plan.search.executor)]
    return named + ([("serve_engines", plan.serving.engine)] if plan.serving.engine != "none" else [])


def check_plug_ins(plan: Plan) -> None:
    """Nothing is imported here; an engine that is not installed is refused before anything begins.

    Raises:
        InputError: with the names that are registered.
        EnvironmentMissing: when the executor needs Ray, which is not there.
    """
    for group, name in plug_ins(plan):
        if ":" not in name and name not in names(group):
            load(group, name)
    if plan.search.executor == "ray" and find_spec("ray") is None:
        raise EnvironmentMissing(*explain("ray.not_installed"))


def hardware_stage(context: RunContext) -> StepResult:
    """The devices, and where models can be had from."""
    found = probe(context.folder)
    save_profile(device_profile(found, packages=found.packages), context.folder)
    measured, damaged = measured_margins(found)
    if damaged:
        context.note(text("plan.memory.damaged", context.task.language, lines=damaged), "warn")
    return StepResult(value={"hardware": found, "availability": availability(), "margins": measured})


def measured_margins(hardware: HardwareProfile) -> tuple[tuple[Margin, ...], int]:
    """What earlier trainings on this device say of predicted memory, and how many lines could not be read."""
    seen, damaged = read()
    return margins(seen, hardware.device), damaged


def inputs_for(
    task: Task, profile: TaskProfile, data: DataProfile, hardware: HardwareProfile, here: Availability
) -> Inputs:
    """The planner's inputs. A model that the user named is looked up first.

    Raises:
        ModelError: when it is not known, or its folder cannot be used.
    """
    folder: ModelFacts | None = None
    models = catalog()
    if task.model:
        from autoswift.catalog.folder import inspect_folder

        path = Path(task.model).expanduser()
        if path.is_dir() or task.model.startswith(("/", ".", "~")):
            folder = inspect_folder(path.resolve())
        else:
            models = (_named(task.model),)
            here = _with_cached(models[0], here)
    return Inputs(
        task=task, profile=profile, data=data, hardware=hardware, availability=here, models=models, folder=folder
    )


def _named(name: str) -> ModelFacts:
    """A model by its name: of the catalogue, or any other of a hub that the policy lets pass.

    Raises:
        ModelError: when it is not known, cannot be used, or is not allowed.
    """
    from autoswift.catalog.policy import enforce
    from autoswift.catalog.remote import candidate, is_reference

    try:
        return find(name)
    except ModelError:
        if not is_reference(name):
            raise
    found = candidate(name)
    enforce(found.verdict)
    return found.facts


def _with_cached(facts: ModelFacts, here: Availability) -> Availability:
    """A hub's model that is on this machine already needs no hub."""
    from autoswift.catalog.remote import is_cached

    return replace(
        here,
        huggingface=here.huggingface or bool(facts.hf and is_cached("huggingface", facts.hf)),
        modelscope=here.modelscope or bool(facts.ms and is_cached("modelscope", facts.ms)),
    )


def stored_inputs(context: RunContext, profile: TaskProfile, data: DataProfile) -> Inputs:
    """The planner's inputs from what the finished stages left."""
    value = context.record.value("hardware")
    hardware = TypeAdapter(HardwareProfile).validate_python(value["hardware"])
    here = TypeAdapter(Availability).validate_python(value["availability"])
    sourced = context.record.value("understand").get("sourced") or {}
    decided = TypeAdapter(tuple[Decision, ...]).validate_python(sourced.get("decisions") or ())
    found = inputs_for(context.task, profile, data, hardware, here)
    probed = context.record.value("probe")
    if probed is not None:  # what the probes decided holds, and what they took is gone
        chosen = TypeAdapter(tuple[Decision, ...]).validate_python(probed["decisions"])
        decided = (*decided, *chosen)
        found = less_device_time(replace(found, task=replace(found.task, probe=0)), probe_device_seconds(context))
    known = TypeAdapter(tuple[Margin, ...]).validate_python(value.get("margins") or ())
    return replace(found, decided=decided, margins=known, experience=stored(context.record.value("plan")))


def probe_device_seconds(context: RunContext) -> float:
    """Device-seconds that went into trying models and memory before the search."""
    steps = (context.record.step(name) for name in ("probe", "memory"))
    return sum(float(one["result"]["metrics"].get("device_seconds") or 0.0) for one in steps if one)


def less_device_time(inputs: Inputs, seconds: float) -> Inputs:
    """The inputs with so many device-seconds less to spend, where these are limited."""
    return replace(inputs, task=replace(inputs.task, budget=less(inputs.task.budget, seconds)))


def less(budget: Budget, seconds: float) -> Budget:
    """The budget with so many device-seconds less, where these are limited; a second is left to say that they ended."""
    limit = budget.device_seconds
    return budget if limit is None or seconds <= 0 else replace(budget, device_seconds=max(limit - seconds, 1.0))


def explained_plan(inputs: Inputs, **revision: Any) -> Plan:
    """The plan of the inputs, each decision with what would turn it around.

    Args:
        revision: as `make_plan` takes it.
    """

    def planner(supposed: Inputs) -> Plan:
        return make_plan(supposed, **revision)

    return explained(planner(inputs), inputs, planner)


def plan_stage(context: RunContext, inputs: Inputs) -> StepResult:
    """Revision 1. What is remembered is read here, once, and kept: a resume plans with the same.

    Raises:
        DiskFull: when the run would not fit where it writes.
    """
    inputs = replace(inputs, experience=recall(inputs))
    for note in inputs.experience.notes:
        context.note(note, "warn")
    plan = explained_plan(inputs, cause=text("plan.cause.first", context.task.language))
    check_plug_ins(plan)
    _check_disk(plan, inputs.hardware)
    keep_plan(context, plan, None)
    return StepResult(value={"revision": plan.revision, "experience": plain(inputs.experience)})


def fetch_stage(context: RunContext, plan: Plan) -> StepResult:
    """Stages the base model's safe files under `model/base`, hashes checked."""
    from autoswift.catalog.fetch import stage
    from autoswift.catalog.tokens import default_system

    def told(words: str, done: int, total: int) -> None:
        context.journal.progress(stage="fetch", done=done, total=total, unit="bytes", text=words)

    staged = stage(plan.model, context.folder / "model" / "base", told, language=context.task.language)
    for note in staged.notes:
        context.note(note)
    context.journal.event("trust", **staged.verdict.record())
    value = staged.record() | {
        "parameters": plan.model.parameters,
        "counted_parameters": staged.parameters,
        "model_type": plan.model.model_type,
        "template": plan.model.template,
        "system": default_system(staged.path),
    }
    return StepResult(value=value)


def recount_stage(context: RunContext, inputs: Inputs, plan: Plan, model: Path) -> StepResult:
    """Counts with the model's own tokenizer; makes the plan anew when that changes anything.

    Rows that are longer than the plan's `max_length` leave the training file here, counted, because swift would
    drop them without a word.
    """
    from autoswift.catalog.tokens import TokenCounter

    counter = TokenCounter(model)
    folder = context.folder / "data"
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    stats = counter.stats([row["messages"] for row in rows])
    counted = replace(inputs, tokens=stats, seconds_spent=_spent(context, plan))
    cause = text("plan.cause.recount", context.task.language, model=plan.model.id)
    new = explained_plan(counted, revision=plan.revision + 1, cause=cause, model=plan.model)
    changed = _changed(plan, new)
    keep_plan(context, new, plan)
    kept = [row for row in rows if counter.count(row["messages"]) <= new.training.max_length]
    if not kept:
        raise StageFailed(*explain("decide.rows_too_long", limit=new.training.max_length))
    if len(kept) < len(rows):
        dropped = len(rows) - len(kept)
        context.note(text("plan.too_long", context.task.language, rows=dropped, limit=new.training.max_length), "warn")
    write_atomic(folder / "train.fit.jsonl", "".join(dumps({"messages": row["messages"]}) + "\n" for row in kept))
    limit = new.evaluation.validation_rows
    lines = (folder / "validation.jsonl").read_text(encoding="utf-8").splitlines()[:limit]
    write_atomic(folder / "validation.fit.jsonl", "".join(line + "\n" for line in lines))
    value = {
        "tokens": stats.rows,
        "answer_tokens": stats.answers,
        "changed": changed,
        "removed_too_long": len(rows) - len(kept),
        "revision": new.revision,
    }
    return StepResult(value=value)


def _spent(context: RunContext, plan: Plan) -> float:
    """Seconds gone before the search: as planned unless it took much longer, so that equal runs make equal plans.

    A twentieth of the wall-clock is what the token safety of the rules covers easily.
    """
    stages, real = plan.estimate.stage_seconds, context.clock.spent
    planned = stages["fetch"] + stages.get("probe", 0.0)
    return round(real, 1) if real > planned + context.task.budget.seconds / 20 else planned


def remeasured(context: RunContext, plan: Plan, rate: float) -> Plan:
    """A further revision when the measured speed is far from the planned one, else the plan as it is.

    Only what is still ahead may change: the final training's tokens. 25 % is the spread between rows and runs
    that the token safety of the rules already covers.
    """
    planned = plan.estimate.tokens_per_second
    if rate <= 0 or plan.search.promote or 0.75 <= rate / planned <= 1.25:
        return plan
    left = context.clock.left - plan.search.reserve_seconds
    affordable = int(max(left, 0.0) * rate * 0.85)
    tokens = max(1, min(plan.search.final_tokens, affordable))
    if tokens == plan.search.final_tokens:
        return plan
    language = context.task.language
    decision = replace(
        plan.decision("final_tokens"),
        value=tokens,
        because=text("plan.measured", language, rate=f"{rate:.0f}", planned=f"{planned:.0f}"),
        source="measurement",
        levers=(),
        reverse_when=None,
    )
    decisions = tuple(decision if d.name == "final_tokens" else d for d in plan.decisions)
    new = replace(
        plan,
        revision=plan.revision + 1,
        cause=text("plan.cause.measured", language),
        search=replace(plan.search, final_tokens=tokens),
        estimate=replace(plan.estimate, tokens_per_second=round(rate, 1)),
        decisions=decisions,
    )
    keep_plan(context, new, plan)
    return new


def _changed(old: Plan, new: Plan) -> list[str]:
    before = {d.name: d.value for d in old.decisions}
    return [d.name for d in new.decisions if before.get(d.name) != d.value]


def keep_plan(context: RunContext, plan: Plan, old: Plan | None) -> None:
    """Writes the revision and tells of the decisions that are new."""
    # A crash between the plan file and the step's result leaves a revision behind; the same inputs make the same
    # plan, a clock that has moved on may not: then the left-over is replaced, since nothing was done by it yet.
    path = context.folder / "plan" / f"{plan.revision}.json"
    if path.exists():
        path.unlink()
    context.record.save_plan(plan)
    changed = _changed(old, plan) if old else [d.name for d in plan.decisions]
    context.journal.event("plan", revision=plan.revision, cause=plan.cause, changed=changed)
    for decision in plan.decisions:
        if decision.name in changed:
            context.journal.event("decision", decision=decision)


def _check_disk(plan: Plan, hardware: HardwareProfile) -> None:
    """Room for the checkpoints, the merged model and the quantized one."""
    weights = plan.model.parameters * (4 if plan.training.precision == "float32" else 2)
    # Merged once, quantized at most as large again, one checkpoint each for trial and final: an adapter is below
    # a tenth of the model, a full checkpoint is the model itself.
    each = weights if plan.training.method == "full" else weights // 10
    need = 2 * weights + (plan.search.trials + 1) * each + 2**27
    if need > hardware.disk_free_bytes:
        raise DiskFull(*explain("decide.disk", need=need / 2**30, free=hardware.disk_free_bytes / 2**30))


def describe(plan: Plan) -> dict[str, Any]:
    """The plan as its JSON value."""
    return dict(json.loads(dumps(plan)))
