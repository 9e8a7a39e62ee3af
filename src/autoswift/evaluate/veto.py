"""The stage `guard`: has the result forgotten what its base could do; and what is trained instead when it has."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoswift.decide.stages import keep_plan
from autoswift.domain.artifact import StepResult
from autoswift.domain.decision import Alternative, Decision, Evidence
from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Event
from autoswift.domain.trial import Outcome, Proposal, Trial
from autoswift.engines.context import Scorer
from autoswift.engines.stages import engine_of, load_arguments, train_result
from autoswift.engines.worker import ModelWorker
from autoswift.evaluate import forgetting, replay
from autoswift.run.context import RunContext
from autoswift.run.files import digest, plain
from autoswift.run.steps import Steps
from autoswift.search.history import rebuild
from autoswift.tables import text

RATES = (1 / 3, 1 / 10)
"""Of the learning rate, at the first and the second veto. Forgetting grows about linearly with the rate (Biderman et
al. 2024, "LoRA Learns Less and Forgets Less"), so a third brings a drop at the limit well below it."""
TOKENS = (1 / 2, 1 / 4)
"""Of the tokens trained on: fewer epochs."""
SHARE = 0.25
"""Of the rows, replayed ones. 5 to 25 % of general data hold most of what was known (Ibrahim et al. 2024); the upper
end, since two dozen short rows are what there is."""
BATCH = {"cpu": 8}
"""Questions at a time; 64 on any other device. On a CPU smaller batches hold less padding."""
POLL_SECONDS = 0.5
ORIGIN = "guard"


def guard_stage(context: RunContext, plan: Plan, worker: ModelWorker, batch_size: int = 8) -> StepResult:
    """Base and result on the guard set. The base's scores are kept from an earlier round of this run."""
    base = Path(context.record.value("fetch")["path"])
    trained = context.record.value("train")
    checkpoint = context.folder / trained["checkpoint"]
    before = context.record.value("guard") or {}
    begin = time.monotonic()
    model = digest({"model": plan.model, "items": [item.prompt for item in forgetting.items()]})
    scores: dict[str, list[float]] = {}
    if before.get("of") == model:
        scores["base"] = before["scores"]["base"]
    full = plan.training.method == "full"
    places = {"base": (base, None), "tuned": (checkpoint, None) if full else (base, checkpoint)}
    for name, (folder, adapter) in places.items():
        if name not in scores:
            worker.ask("load", **load_arguments(context, plan, folder, adapter))
            asked = worker.ask("choose", **forgetting.request(), batch_size=batch_size)
            scores[name] = forgetting.scored(asked)
    verdict = plain(forgetting.judge(scores["base"], scores["tuned"], forgetting.items(), plan.seed))
    tries = [*before.get("tries", []), {"trial": trained["trial"], "kind": verdict["kind"]} | _brief(verdict)]
    language = context.task.language
    lost = f"{100 * max(0.0, -verdict['difference']['value']):.1f}"
    if verdict["kind"] != "pass":
        context.note(text(f"evaluate.guard.{verdict['kind']}", language, lost=lost), "warn")
    value = {"of": model, "scores": scores, "verdict": verdict, "trial": trained["trial"], "tries": tries}
    return StepResult(value=value, metrics={"seconds": time.monotonic() - begin})


def _brief(verdict: Mapping[str, Any]) -> dict[str, Any]:
    return {"difference": verdict["difference"], "lost_share": verdict["lost_share"]}


@dataclass(frozen=True, slots=True)
class Again:
    """What is trained after a veto: the plan's next revision, the trial's parameters, tokens."""

    plan: Plan
    parameters: dict[str, Any]
    tokens: int


def after_veto(
    plan: Plan, trained: Mapping[str, Any], verdict: Mapping[str, Any], round_: int, language: str
) -> Again | None:
    """The next, gentler training: a lower rate, fewer tokens, and replayed rows; nothing that the user fixed.

    Args:
        plan: in force. trained: the value of the stage `train`. verdict: of the guard. round_: vetoes before, from 0.

    Returns:
        None when there is nothing left to change, or both rounds are used up.
    """
    if round_ >= len(RATES):
        return None
    factor = RATES[round_] if round_ == 0 else RATES[round_] / RATES[round_ - 1]
    shorter = TOKENS[round_] if round_ == 0 else TOKENS[round_] / TOKENS[round_ - 1]
    parameters = dict(trained["parameters"])
    rate = float(parameters.get("learning_rate", plan.training.learning_rate))
    tokens = int(trained.get("metrics", {}).get("tokens") or plan.search.final_tokens)
    changes: dict[str, tuple[Any, Any]] = {}
    if "learning_rate" not in plan.fixed:
        parameters["learning_rate"] = rate * factor
        changes["learning_rate"] = (rate, rate * factor)
    if not {"final_tokens", "trial_tokens", "epochs"} & plan.fixed:
        changes["final_tokens"] = (tokens, max(1, round(tokens * shorter)))
    if not plan.training.replay_share and "replay_share" not in plan.fixed:
        changes["replay_share"] = (0.0, SHARE)
    if not changes:
        return None
    tokens = int(changes.get("final_tokens", (0, tokens))[1])
    share = float(changes.get("replay_share", (0, plan.training.replay_share))[1])
    decision = _decision(trained, verdict, changes, language)
    revised = replace(
        plan,
        revision=plan.revision + 1,
        cause=decision.because,
        training=replace(plan.training, learning_rate=float(parameters["learning_rate"]) if "learning_rate" in changes
                         else plan.training.learning_rate, replay_share=share),
        search=replace(plan.search, final_tokens=tokens),
        decisions=(*(d for d in plan.decisions if d.name != decision.name), decision),
    )  # fmt: skip
    return Again(revised, parameters, tokens)


def _decision(
    trained: Mapping[str, Any], verdict: Mapping[str, Any], changes: Mapping[str, tuple[Any, Any]], language: str
) -> Decision:
    lost = f"{100 * max(0.0, -verdict['difference']['value']):.1f}"
    limit = f"{100 * verdict['limit']:.1f}"
    words = ", ".join(f"{name} {_short(old)} → {_short(new)}" for name, (old, new) in changes.items())
    return Decision(
        name="guard_veto",
        value=words,
        because=text("evaluate.guard.again", language, trial=trained["trial"], lost=lost, limit=limit),
        evidence=(Evidence(text=text("evaluate.guard.veto", language, lost=lost), fact="guard.lost", value=lost),),
        alternatives=(Alternative(value=trained["trial"], why_not=text("evaluate.guard.veto", language, lost=lost)),),
        source="measurement",
    )


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def retrain(context: RunContext, again: Again, device: Device, score: Scorer, round_: int) -> StepResult | None:
    """One training outside the search, as one more trial of the record; None when it gave no checkpoint.

    One that ended before (the run was interrupted after it) is not trained again.
    """
    history = rebuild(context.journal.trials())
    origin = f"{ORIGIN}-{round_ + 1}"
    old = next((n for n, t in history.items() if t.proposal.origin == origin), None)
    number = old if old is not None else max([*history, 0]) + 1
    if old is not None and history[old].done and history[old].outcome is not None:
        outcome = history[old].outcome
    else:
        if old is None:
            proposal = Proposal(number=number, parameters=again.parameters, origin=origin, tokens=again.tokens)
            context.journal.trial(
                "proposed", number, parameters=proposal.parameters, origin=origin, tokens=proposal.tokens
            )
        attempt = (history[old].attempts if old is not None else 0) + 1
        outcome = _train(context, again, device, score, Trial(
            number=number,
            attempt=attempt,
            parameters=again.parameters,
            tokens=again.tokens,
            deadline=time.time() + max(1.0, context.clock.left - again.plan.search.reserve_seconds),
            evaluate_rows=again.plan.evaluation.validation_rows,
            evaluate_seconds=again.plan.search.answer_seconds,
        ))  # fmt: skip
    if outcome is None or outcome.artifact is None or outcome.status != "finished":
        return None
    return train_result(context, number, outcome, again.parameters, promoted=True)


def _train(context: RunContext, again: Again, device: Device, score: Scorer, trial: Trial) -> Outcome:
    """Runs a trial on a session of its own, and writes it down as the executor would."""
    plan, journal = again.plan, context.journal
    name = "swift" if plan.training.engine == "packed" else ""
    session = engine_of(context, plan, score, name).open(plan, device)
    begin, steps, metrics = time.monotonic(), 0, dict[str, float | None]()
    journal.trial("started", trial.number, attempt=trial.attempt, tokens=trial.tokens, overrides={})
    try:
        session.submit(trial)
        last: Event | None = None
        while last is None:
            for event in session.events(POLL_SECONDS):
                steps = max(steps, event.step)
                metrics |= event.metrics
                if event.kind in ("progress", "evaluated"):
                    journal.trial(
                        event.kind, trial.number, attempt=trial.attempt, step=event.step, metrics=event.metrics
                    )
                if event.kind in ("finished", "failed"):
                    last = event
    finally:
        session.close()
    good = last.kind == "finished"
    outcome = Outcome(
        status="finished" if good else "failed",
        metrics=metrics,
        symptom=None if good else last.symptom,
        reason=str(last.evidence.get("reason" if good else "text", "")),
        device_seconds=round((time.monotonic() - begin) * max(1, plan.training.devices), 3),
        steps=steps,
        tokens=int(metrics.get("tokens") or 0),
        artifact=last.artifact.path if good and last.artifact else None,
    )
    journal.trial("ended", trial.number, attempt=trial.attempt, outcome=outcome, final=True)
    return outcome


def guarded(
    context: RunContext, steps: Steps, plan: Plan, how: tuple[Device, Scorer, int], worker: ModelWorker
) -> Plan:
    """Guards the result, and trains more gently while it is vetoed and there is time; the plan then in force.

    Args:
        how: the device that trains, the task's metric, the batch size of the questions.

    Nothing better in the end: the run falls short (exit code 3), and `vetoed` holds for its evaluation.
    """
    device, score, batch = how
    language = context.task.language

    def ask(of: Plan) -> dict[str, Any]:
        made = steps.run("guard", steps.after("train"), lambda: guard_stage(context, of, worker, batch))
        return dict(made.value)

    value = ask(plan)
    round_ = len(value["tries"]) - 1
    while value["verdict"]["kind"] == "veto":
        trained = context.record.value("train")
        again = after_veto(plan, trained, value["verdict"], round_, language)
        if again is None or not _time_for(context, plan, trained):
            context.fall_short(text("short.guard", language))
            break
        keep_plan(context, again.plan, plan)
        plan = again.plan
        if plan.training.replay_share:
            _mix(context, plan, worker, batch)
        worker.close()  # its memory belongs to the training
        made = retrain(context, again, device, score, round_)
        round_ += 1
        if made is None:
            context.fall_short(text("short.guard", language))
            break
        _settle(context, made)
        value = ask(plan)
    return plan


def _mix(context: RunContext, plan: Plan, worker: ModelWorker, batch: int) -> None:
    worker.ask("load", **load_arguments(context, plan, Path(context.record.value("fetch")["path"])))
    replay.write_mixed(context.folder, replay.replay_rows(worker, batch), plan.training.replay_share, plan.seed)


def _time_for(context: RunContext, plan: Plan, trained: Mapping[str, Any]) -> bool:
    """Whether half of what the vetoed training took is left beside the reserve."""
    history = rebuild(context.journal.trials())
    past = history.get(int(trained["trial"]))
    seconds = past.outcome.device_seconds / max(1, plan.training.devices) if past and past.outcome else 0.0
    return context.clock.left - plan.search.reserve_seconds > seconds / 2


def _settle(context: RunContext, made: StepResult) -> None:
    """The new training is the result of the stage `train`: all that comes later reads it there."""
    old = context.record.step("train")
    if old is not None:
        context.record.save_step("train", old | {"result": made})


def batch_of(device: Device) -> int:
    """Questions at a time on a device."""
    return BATCH.get(device.kind, 64)
