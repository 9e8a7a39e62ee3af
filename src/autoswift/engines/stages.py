"""The stages `search` and `train`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoswift.decide.stages import less, probe_device_seconds
from autoswift.domain.artifact import Artifact, StepResult
from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Executor, SearchOutcome, TrainEngine
from autoswift.domain.trial import FINAL_TRAINING, Outcome, Proposal
from autoswift.engines.context import EngineContext, Scorer
from autoswift.errors import BudgetExhausted, StageFailed
from autoswift.run.context import RunContext
from autoswift.run.files import plain, read_json
from autoswift.run.manifest import changed, hashes_of
from autoswift.run.places import OFFLINE, train_python
from autoswift.run.plugins import load
from autoswift.search.history import TrialHistory, rebuild
from autoswift.search.objectives import choose
from autoswift.search.searcher import Search, any_length, best_of, standing
from autoswift.search.winner import front_of, weighed, winner
from autoswift.tables import explain, named, text

ScorerOf = Callable[[str], Scorer]


def last_answer(row: dict[str, Any]) -> str:
    """The reference: the last assistant message of a row."""
    return str(next(m["content"] for m in reversed(row["messages"]) if m["role"] == "assistant"))


def engine_of(context: RunContext, plan: Plan, score: Scorer, name: str = "") -> TrainEngine:
    """An engine on this run's data and model, the plan's where none is named; its class takes one `EngineContext`."""
    validation = context.folder / "data" / "validation.fit.jsonl"
    rows = [json.loads(line) for line in validation.read_text(encoding="utf-8").splitlines()]
    engine: TrainEngine = load("engines", name or plan.training.engine)(
        EngineContext(
            folder=context.folder,
            model=Path(context.record.value("fetch")["path"]),
            python=train_python(),
            train=context.folder / "data" / ("train.replay.jsonl" if plan.training.replay_share else "train.fit.jsonl"),
            validation=validation,
            references=tuple(last_answer(row) for row in rows),
            score=score,
            system=context.record.value("fetch")["system"],
        )
    )
    return engine


def executor_of(context: RunContext, plan: Plan, device: Device) -> Executor:
    """The plan's executor; its class takes a device, the run's clock and the language of what it writes."""
    executor: Executor = load("executors", plan.search.executor)(device, context.clock, context.task.language)
    return executor


def load_arguments(context: RunContext, plan: Plan, model: Path, adapter: Path | None = None) -> dict[str, Any]:
    """Arguments of the model worker's `load`: the same template, system message and precision as in training."""
    arguments: dict[str, Any] = {
        "model": str(model),
        "model_type": plan.model.model_type or None,
        "template": plan.model.template or None,
        "system": context.record.value("fetch")["system"] or None,
        "dtype": plan.training.precision,
        "threads": plan.training.threads or None,
    }
    return arguments | ({"adapter": str(adapter)} if adapter else {})


def search_stage(context: RunContext, plan: Plan, device: Device, score: Scorer) -> StepResult:
    """Runs the trials; those that the journal has are not run again.

    Raises:
        BudgetExhausted: when the budget ended before any trial gave a result.
        StageFailed: when every trial failed.
    """
    history = rebuild(context.journal.trials())
    searcher = Search(plan, history)
    executor = executor_of(context, plan, device)
    budget = less(context.task.budget, probe_device_seconds(context))
    engine = engine_of(context, plan, score, "packed" if plan.search.packed else "")
    found = executor.run(searcher, engine, plan, budget, context.journal)
    if found.best is None:
        raise _no_result(found, context)
    asked, ended = context.task.budget.trials, len(found.outcomes)
    if ended < asked and (found.reason in ("hours", "device_seconds") or plan.search.trials < asked):
        context.fall_short(text("short.trials", context.task.language, done=ended, asked=asked))
    history = rebuild(context.journal.trials())
    value = {
        "best": found.best,
        "reason": found.reason,
        "device_seconds": found.device_seconds,
        "trials": ended,
        "measured_tokens_per_second": _median_rate(history),
    }
    if choice := choose(plan, found.outcomes, {n: t.proposal.parameters for n, t in history.items()}):
        value["front"] = front_of(plan, choice)
    return StepResult(value=value, metrics={"device_seconds": found.device_seconds})


def _no_result(found: SearchOutcome, context: RunContext) -> Exception:
    failed = {n: o for n, o in found.outcomes.items() if o.status == "failed"}
    if not failed:
        return BudgetExhausted(
            *explain("search.nothing", reason=named("error.search.reason", found.reason), trials=len(found.outcomes))
        )
    number, last = max(failed.items())
    return StageFailed(
        *explain(
            "search.all_failed",
            failed=len(failed),
            trial=number,
            symptom=named("error.symptom", str(last.symptom)),
            evidence=last.reason,
            logs=context.folder / "logs",
        )
    )


def _median_rate(history: dict[int, TrialHistory]) -> float:
    rates = sorted(
        float(t.outcome.metrics.get("tokens_per_second") or 0)
        for t in history.values()
        if t.outcome is not None and t.outcome.metrics.get("tokens_per_second")
    )
    return rates[len(rates) // 2] if rates else 0.0


def train_stage(context: RunContext, plan: Plan, device: Device, score: Scorer) -> StepResult:
    """Trains the winner's settings on the final tokens, or promotes the trial that was trained in full.

    The trial's checkpoint is kept instead when the final training turns out worse on validation, or fails.
    """
    history = rebuild(context.journal.trials())
    trials = {n: standing(t.ended, plan) for n, t in history.items() if n != FINAL_TRAINING and t.done and t.ended}
    choice = choose(plan, trials, {n: t.proposal.parameters for n, t in history.items()})
    best = best_of(trials, plan.search.metric, any_length(plan)) if choice is None else choice.number
    if best is None:
        raise StageFailed(*explain("search.none_finished"))
    parameters = history[best].proposal.parameters
    language = context.task.language
    decision = winner(plan, best, trials, language) if choice is None else weighed(plan, choice, language)
    context.journal.event("decision", decision=decision)
    torn = changed(context.folder / str(trials[best].artifact))
    if torn:
        context.note(text("train.torn", context.task.language, trial=best, evidence=torn), "warn")
    if plan.search.promote and not torn:
        return train_result(context, best, trials[best], parameters, promoted=True)
    least = trials[best].device_seconds / 2
    if context.clock.left - plan.search.reserve_seconds < least and not torn:
        context.fall_short(text("short.final", context.task.language, trial=best))
        return train_result(context, best, trials[best], parameters, promoted=True)
    executor = executor_of(context, plan, device)
    proposal = Proposal(number=FINAL_TRAINING, parameters=parameters, origin=f"trial {best}")
    final = executor.train(proposal, plan.search.final_tokens, engine_of(context, plan, score), plan, context.journal)
    if best_of({FINAL_TRAINING: final, best: trials[best]}, plan.search.metric) == FINAL_TRAINING:
        return train_result(context, FINAL_TRAINING, final, parameters, promoted=False)
    key = "train.final_failed" if final.status == "failed" else "train.final_worse"
    context.note(text(key, context.task.language, trial=best, metric=plan.search.metric), "warn")
    return train_result(context, best, trials[best], parameters, promoted=True)


def train_result(
    context: RunContext, number: int, outcome: Outcome, parameters: dict[str, Any], *, promoted: bool
) -> StepResult:
    """What the stage `train` leaves: a trial's checkpoint and how it was made.

    Raises:
        StageFailed: when it has no checkpoint, or one that is no longer what was saved.
    """
    if outcome.artifact is None:
        raise StageFailed(*explain("search.no_checkpoint", trial=number, evidence=outcome.reason))
    torn = changed(context.folder / outcome.artifact)
    if torn:
        raise StageFailed(*explain("search.torn", trial=number, evidence=torn))
    command = context.folder / Path(outcome.artifact).parent.parent / "command.json"
    value = {
        "trial": number,
        "promoted": promoted,
        "checkpoint": outcome.artifact,
        "metrics": plain(outcome.metrics),
        "parameters": parameters,
        "validation": {"tuned": plain(outcome.metrics)},
        "commands": [_command(read_json(command), context.folder)],
    }
    proof = hashes_of(context.folder / outcome.artifact)
    artifact = Artifact(path=outcome.artifact, kind="adapter", hashes=proof, made_by=f"trial {number}")
    return StepResult(value=value, artifacts=(artifact,), metrics={"device_seconds": outcome.device_seconds})


def _command(written: dict[str, Any], folder: Path) -> Any:
    """A command as its words, or {argv, env} where it needs an environment of its own."""
    argv = _relative(written["argv"], folder)
    # The variables that keep swift from asking hubs stand before every command; these come with their own.
    return {"argv": argv, "env": OFFLINE | written["env"]} if written.get("env") else argv


def _relative(argv: list[str], folder: Path) -> list[str]:
    """Paths inside the run folder as relative ones: the commands are run from there."""
    prefix = str(folder) + os.sep
    return [part.removeprefix(prefix) for part in argv]
