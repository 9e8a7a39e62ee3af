"""The way through, as a table of contents. Each stage is a step; running a run again does only what is missing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from autoswift.catalog.datasets import DatasetHubs
from autoswift.decide.replan import keep_revision
from autoswift.decide.stages import (
    fetch_stage,
    hardware_stage,
    plan_stage,
    recount_stage,
    remeasured,
    stored_inputs,
)
from autoswift.domain.artifact import StepResult
from autoswift.domain.plan import Plan
from autoswift.engines.memory_stages import fitted
from autoswift.engines.peaks import remember_peaks
from autoswift.engines.probes import probed
from autoswift.engines.stages import search_stage, train_stage
from autoswift.engines.worker import ModelWorker
from autoswift.errors import ModelTooLarge
from autoswift.evaluate.metrics import score_answers
from autoswift.evaluate.stage import evaluate_stage, proven_worse
from autoswift.export.gguf import export_stage
from autoswift.export.merge import merge_stage
from autoswift.knowledge.learn import learn_stage
from autoswift.recover.smaller import in_force, smaller_plan
from autoswift.report.stage import headline, report_stage
from autoswift.run.context import RunContext
from autoswift.run.places import train_python
from autoswift.run.steps import Steps
from autoswift.serve.stage import deploy_stage, is_live, loadtest_stage
from autoswift.tables import text
from autoswift.understand.sourced import Choose
from autoswift.understand.stage import content_of, profiles_of, understand_stage
from autoswift.understand.teacher.endpoint import teacher_from

Confirm = Callable[[Plan], bool]
Answer = TypeVar("Answer")


class Pipeline:
    """One owner's way through one run.

    Args:
        context: the run.
        confirm: is shown the plan before anything costly begins; False ends the run there. None goes on.
        choose: is shown the data sets found when the user brought none; None takes the best.
    """

    def __init__(self, context: RunContext, confirm: Confirm | None = None, choose: Choose | None = None) -> None:
        self.context, self.confirm, self.choose = context, confirm, choose
        self.record, self.task = context.record, context.task
        self.steps = Steps(context.record, context.journal)

    def plan(self) -> Plan:
        """understand → inspect hardware → plan.

        Raises:
            InputError: when the request cannot be carried out.
        """
        task = self.task
        if self.record.step("understand") is None:  # afterwards the run has its own copy, whatever becomes of the file
            named = ("sentence", "columns", "seed", "facts", "redact")
            asked = {name: getattr(task, name) for name in named}
            asked |= {name: content_of(getattr(task, name)) for name in ("data", "test", "validation")}
            self.steps.run("understand", asked, self._understand)
        else:
            self.context.journal.event("stage", stage="understand", state="reused")
        self.steps.run("hardware", {"machine": os.uname().nodename}, lambda: hardware_stage(self.context))
        inputs = stored_inputs(self.context, *profiles_of(self.record))
        self.steps.run(
            "plan",
            self.steps.after("understand", "hardware") | {"task": task},
            lambda: plan_stage(self.context, inputs),
        )
        first = self.record.plans()[0]
        if first.estimate.cost is not None:  # money is a limit of time once its price and the devices are known
            self.context.clock.within(first.estimate.cost.bound(self.task.budget))
        return first

    def _understand(self) -> StepResult:
        choose = self.choose
        asked: Choose | None = (lambda found: self._asked(lambda: choose(found))) if choose else None
        return understand_stage(self.context, DatasetHubs(), teacher_from(), asked)

    def run(self) -> dict[str, Any]:
        """Everything, from the sentence to the report.

        Returns:
            The run's result: metric, base, tuned, difference, address, report, partial_reasons.
        """
        first = self.plan()
        begun = self.record.step("fetch") or self.record.step("probe-1")
        if begun is None and not self._confirmed(first):
            return {"declined": True}
        plan = self._search(first)
        with ModelWorker(train_python(), self.context.folder, plan.training.threads) as worker:
            self._prove(plan, worker)
            served = self._serve(plan, worker)
        self.steps.run(
            "learn", self.steps.after("evaluate"), lambda: learn_stage(self.context, plan, *profiles_of(self.record))
        )
        result = headline(self.context, served=served)
        self.record.update(result=result)
        report_stage(self.context)
        return result

    def _confirmed(self, plan: Plan) -> bool:
        confirm = self.confirm
        return True if confirm is None else self._asked(lambda: confirm(plan))

    def _asked(self, question: Callable[[], Answer]) -> Answer:
        """The user's answer; the time it took is not the run's."""
        begin = time.time()
        answer = question()
        waited = time.time() - begin
        self.context.clock.exclude(waited)
        self.context.journal.event("waited", seconds=waited)
        return answer

    def _search(self, first: Plan) -> Plan:
        """probe models, then the way to a trained one; with a smaller one when the chosen has no way left to fit."""
        plan = in_force(self.record.plans(), probed(self.context, self.steps, first))
        while True:
            try:
                return self._trained(plan)
            except ModelTooLarge as exc:
                inputs = stored_inputs(self.context, *profiles_of(self.record))
                newest = self.record.plans()[-1]
                spent = len({line["trial"] for line in self.context.journal.trials()})
                plan = keep_revision(self.context, smaller_plan(inputs, newest, exc, trials=spent), newest)

    def _trained(self, first: Plan) -> Plan:
        """fetch & verify → recount → trace and probe the memory → search → train."""
        context = self.context
        inputs = stored_inputs(context, *profiles_of(self.record))
        device = inputs.hardware.device
        fetched = self.steps.run("fetch", {"model": first.model}, lambda: fetch_stage(context, first))
        model = Path(fetched.value["path"])
        self.steps.run(
            "recount",
            self.steps.after("plan", "fetch"),
            lambda: recount_stage(context, inputs, first, model),
        )
        plan = fitted(context, self.steps, inputs, self.steps.plan_of("recount"), model)
        score = lambda answers, references: score_answers(plan.search.metric, answers, references)  # noqa: E731
        found = self.steps.run(
            "search", self.steps.after("recount"), lambda: search_stage(context, plan, device, score)
        )
        remember_peaks(context, plan, device)
        # Recovery may have revised the plan in the search, and does so in the final training.
        plan = remeasured(context, self.record.plans()[-1], float(found.value["measured_tokens_per_second"]))
        self.steps.run("train", self.steps.after("search"), lambda: train_stage(context, plan, device, score))
        remember_peaks(context, plan, device)
        return self.record.plans()[-1]

    def _prove(self, plan: Plan, worker: ModelWorker) -> None:
        """merge → evaluate."""
        self.steps.run("merge", self.steps.after("train"), lambda: merge_stage(self.context, plan, worker))
        merged = self.context.folder / "model" / "merged"
        self.steps.run(
            "evaluate",
            self.steps.after("merge") | {"evaluation": plan.evaluation},
            lambda: evaluate_stage(self.context, plan, merged, worker),
        )

    def _serve(self, plan: Plan, worker: ModelWorker) -> bool:
        """quantize/export → deploy → load-test; nothing when the user wants none or the result is proven worse."""
        context = self.context
        if plan.serving.engine == "none":
            self.steps.skip(("export", "deploy", "loadtest"), text("skip.target_none", self.task.language))
            return False
        if proven_worse(self.record.value("evaluate")):
            why = text("short.worse", self.task.language)
            context.fall_short(why)
            self.steps.skip(("export", "deploy", "loadtest"), why)
            return False
        self.steps.run("export", self.steps.after("merge"), lambda: export_stage(context, plan, worker))
        exported = self.steps.after("export")
        self.steps.run("deploy", exported, lambda: deploy_stage(context, plan, worker), lambda: is_live(context))
        worker.close()  # its memory and its threads would weigh on the load test
        self.steps.run("loadtest", exported, lambda: loadtest_stage(context, plan))
        return True
