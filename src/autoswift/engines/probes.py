"""The stage `probe`: the best few candidates are fetched and trained a few steps on the same sample; one is taken.

Each candidate is a step of its own, so that a run that was killed repeats none that is finished.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoswift.catalog.tokens import TokenCounter, default_system
from autoswift.decide.inputs import Inputs
from autoswift.decide.model import to_choice
from autoswift.decide.planner import make_plan
from autoswift.decide.probes import decided_by, probe_plan
from autoswift.decide.probing import ProbeResult, ProbeTrial
from autoswift.decide.replan import begin
from autoswift.decide.stages import explained_plan, keep_plan, less_device_time, stored_inputs
from autoswift.domain.artifact import StepResult
from autoswift.domain.plan import ModelChoice, Plan
from autoswift.domain.profile import Device
from autoswift.domain.trial import Trial
from autoswift.engines.short import Short, engine_for, run_short, write_rows
from autoswift.engines.stages import last_answer
from autoswift.engines.worker import ModelWorker
from autoswift.errors import AutoSwiftError, DiskFull, StageFailed
from autoswift.run.context import RunContext
from autoswift.run.files import digest
from autoswift.run.places import train_python
from autoswift.run.steps import Steps, step
from autoswift.tables import explain, text
from autoswift.understand.stage import profiles_of

OVERTIME = 3.0
"""A candidate's training is ended at so many times the planned seconds: the speed model's worst cell was off by 2."""
LEAST_SECONDS = 120.0
LEAST_STEPS = 4
"""Fewer steps show noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What every candidate is trained and measured on.

    Attributes:
        train, validation: rows. steps: of training, each of `batch` rows.
    """

    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    steps: int
    batch: int


def probe_stage(context: RunContext, inputs: Inputs, plan: Plan) -> StepResult:
    """Tries the candidates, and makes a revision with the one that gains most in a second.

    Args:
        inputs: of the plan. plan: the first revision.
    """
    begin(context, plan)
    todo = probe_plan(inputs)
    sample = sample_of(context, plan, todo.trials[0].tokens, todo.rows)
    results: list[ProbeResult] = []
    failed: list[tuple[str, str]] = []
    choices: dict[str, ModelChoice] = {}
    seconds = device_seconds = 0.0
    for number, one in enumerate(todo.trials, 1):
        choice = to_choice(one.candidate.facts, inputs)
        choices[choice.id] = choice
        probe = _Probe(context, inputs, choice, sample, one)
        asked = {"model": choice, "sample": digest([sample.train, sample.validation]), "steps": sample.steps}
        done = step(context.record, context.journal, f"probe-{number}", asked | {"batch": sample.batch}, probe.run)
        seconds += done.seconds
        device_seconds += float(done.metrics.get("device_seconds") or 0.0)
        if done.value["failed"]:
            failed.append((choice.id, str(done.value["failed"])))
        else:
            results.append(ProbeResult(**{k: done.value[k] for k in ("id", "before", "after", "seconds")}))
    value: dict[str, Any] = {"revision": plan.revision, "decisions": [], "seconds": round(seconds, 1)}
    metrics = {"device_seconds": round(device_seconds, 3)}
    language = context.task.language
    if not results:
        told = "; ".join(f"{name}: {why}" for name, why in failed)
        context.note(text("plan.probe.none", language, reasons=told), "warn")
        return StepResult(value=value, metrics=metrics)
    winner, decisions = decided_by(results, failed, language)
    known = less_device_time(replace(inputs, decided=(*inputs.decided, *decisions)), device_seconds)
    known = replace(known, task=replace(known.task, probe=0), seconds_spent=round(seconds, 1))
    cause = text("plan.cause.probe", language, count=len(results))
    new = explained_plan(known, revision=plan.revision + 1, cause=cause, model=choices[winner])
    stages = dict(sorted((new.estimate.stage_seconds | {"probe": round(seconds, 1)}).items()))
    new = replace(new, estimate=replace(new.estimate, stage_seconds=stages))
    keep_plan(context, new, plan)
    return StepResult(value=value | {"revision": new.revision, "decisions": decisions}, metrics=metrics)


def sample_of(context: RunContext, plan: Plan, tokens: int, rows: int) -> Sample:
    """The same rows in the same order for all, none longer than most: a candidate must not lose rows to its length.

    Args:
        plan: with batch and lengths. tokens: to train on, about. rows: of the validation split.
    """
    folder = context.folder / "data"
    train, validation = (_read(folder / f"{name}.jsonl") for name in ("train", "validation"))
    sizes = sorted(_size(row) for row in train)
    usual = sizes[min(len(sizes) - 1, int(0.95 * len(sizes)))]
    # A probe is no longer than a trial would be: it is to be the cheaper way to find out.
    wanted = min(tokens, plan.search.trial_tokens) / max(plan.search.tokens_per_row, 1.0)
    batch = plan.training.effective_batch_size
    steps = max(LEAST_STEPS, math.ceil(wanted / batch))
    chosen = [row for row in train if _size(row) <= usual][: steps * batch]
    return Sample(train=chosen, validation=validation[:rows], steps=steps, batch=batch)


class _Probe:
    """One candidate's trial."""

    def __init__(
        self, context: RunContext, inputs: Inputs, choice: ModelChoice, sample: Sample, planned: ProbeTrial
    ) -> None:
        self.context, self.inputs, self.choice, self.sample, self.planned = context, inputs, choice, sample, planned
        self.folder = context.folder / "probes" / "".join(c if c.isalnum() or c in "-." else "-" for c in choice.id)

    def run(self) -> StepResult:
        """Its result; what keeps it from one is its reason for losing, not the run's end."""
        value: dict[str, Any] = {"id": self.choice.id, "before": None, "after": None, "seconds": 0.0, "failed": ""}
        held = time.monotonic()
        begun = 0.0
        try:
            base = self._fetched()
            plan = self._plan(base)
            begun = time.monotonic()
            value |= self._measured(plan, base)
        except DiskFull:
            raise
        except AutoSwiftError as exc:
            value["failed"] = " ".join(part for part in (exc.what, exc.why) if part)
        finally:
            shutil.rmtree(self.folder / "base", ignore_errors=True)
            shutil.rmtree(self.folder / "trials", ignore_errors=True)
        used = time.monotonic() - begun if begun else 0.0
        value["fetch_seconds"] = round(time.monotonic() - held - used, 1)
        return StepResult(value=value, metrics={"device_seconds": round(used, 3)})

    def _fetched(self) -> Path:
        from autoswift.catalog.fetch import stage

        def told(words: str, done: int, total: int) -> None:
            self.context.journal.progress(stage="probe", done=done, total=total, unit="bytes", text=words)

        staged = stage(self.choice, self.folder / "base", told, language=self.context.task.language)
        self.context.journal.event("trust", **staged.verdict.record())
        return staged.path

    def _plan(self, base: Path) -> Plan:
        """Its own first settings, by its own tokenizer."""
        stats = TokenCounter(base).stats([row["messages"] for row in self.sample.train])
        task = replace(self.inputs.task, probe=0)
        return make_plan(replace(self.inputs, tokens=stats, task=task), model=self.choice)

    def _measured(self, plan: Plan, base: Path) -> dict[str, Any]:
        system = default_system(base)
        with ModelWorker(train_python(), self.context.folder, plan.training.threads) as worker:
            before = self._loss(worker, plan, base, system, None)
        short = self._trained(plan, base, system)
        if short.symptom or not short.artifact:
            reason = short.reason.strip().splitlines()[-1:] or [short.symptom]
            raise StageFailed(*explain("probe.training", model=self.choice.id, evidence=reason[0]))
        with ModelWorker(train_python(), self.context.folder, plan.training.threads) as worker:
            after = self._loss(worker, plan, base, system, self.folder / short.artifact)
        # The first step pays for the start; an engine that tells no seconds a step is taken by the whole.
        return {"before": before, "after": after, "seconds": round(short.step_seconds or short.seconds, 3)}

    def _trained(self, plan: Plan, base: Path, system: str) -> Short:
        rows = write_rows(self.folder / "train.jsonl", self.sample.train)
        engine = engine_for(
            plan,
            folder=self.folder,
            model=base,
            python=train_python(),
            train=rows,
            validation=rows,
            system=system,
        )
        device: Device = self.inputs.hardware.device
        trial = Trial(
            number=1,
            attempt=1,
            parameters={
                "learning_rate": plan.training.learning_rate,
                "effective_batch_size": self.sample.batch,
                "lora_rank": plan.training.lora_rank,
            },
            tokens=self.planned.tokens,
            overrides={"max_steps": self.sample.steps},
            deadline=time.time() + max(LEAST_SECONDS, OVERTIME * self.planned.seconds),
        )
        return run_short(engine, plan, device, trial)

    def _loss(self, worker: ModelWorker, plan: Plan, base: Path, system: str, adapter: Path | None) -> float:
        """Nats a character of the validation answers."""
        full = adapter is not None and plan.training.method == "full"
        asked: dict[str, Any] = {
            "model": str(adapter if full else base),
            "model_type": self.choice.model_type or None,
            "template": self.choice.template or None,
            "system": system or None,
            "dtype": plan.training.precision,
            "threads": plan.training.threads or None,
        }
        if adapter is not None and not full:
            asked["adapter"] = str(adapter)
        worker.ask("load", **asked)
        rows = [{"messages": row["messages"]} for row in self.sample.validation]
        batch = plan.evaluation.generation_batch_size
        scored: Sequence[dict[str, Any]] = worker.ask("score", rows=rows, batch_size=batch)["rows"]
        characters = sum(len(last_answer(row)) + 1 for row in rows)  # the end of an answer counts as one
        return round(sum(float(one["nll_sum"]) for one in scored) / characters, 6)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _size(row: dict[str, Any]) -> int:
    return sum(len(str(message["content"])) for message in row["messages"])


def probed(context: RunContext, steps: Steps, first: Plan) -> Plan:
    """The plan after the best candidates were tried, where that was asked for and pays."""
    inputs = stored_inputs(context, *profiles_of(context.record))
    if context.record.step("probe") is None and not probe_plan(inputs).trials:
        return first
    if context.record.step("probe") is None:
        steps.run("probe", steps.after("plan"), lambda: probe_stage(context, inputs, first))
    return steps.plan_of("probe")
