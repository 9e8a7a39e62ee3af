"""A whole run in a few hundred milliseconds: the real record, journal, lock, steps, search and executor, on the
simulated engine; carried out by the same function as every run, so that resuming it is resuming a run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import autoswift.pipeline
from autoswift import api
from autoswift.domain.artifact import StepResult
from autoswift.domain.budget import Budget
from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import TrainEngine
from autoswift.domain.task import Task
from autoswift.domain.trial import FINAL_TRAINING, Proposal
from autoswift.engines.simulated import Landscape, SimulatedEngine
from autoswift.run import record as records
from autoswift.run.context import RunContext
from autoswift.run.files import plain, write_atomic
from autoswift.run.record import RunRecord
from autoswift.run.steps import Steps
from autoswift.search.executors.local import LocalExecutor
from autoswift.search.history import rebuild
from autoswift.search.searcher import Search
from unit.plans import make_plan

CPU = Device(kind="cpu", name="test")
TRIALS = 4
MakeEngine = Callable[[Path], TrainEngine]


def simulated(folder: Path) -> TrainEngine:
    """Trial 2 meets an out-of-memory first, so that recovery is on the way too."""
    return SimulatedEngine(folder, Landscape(faults=((2, 1, "device_out_of_memory"),)))


def small_plan(trials: int = TRIALS, steps: int = 6) -> Plan:
    plan = make_plan(trials=trials, trial_tokens=400 * steps, final_tokens=800 * steps)
    return replace(plan, search=replace(plan.search, reserve_seconds=0.0))


class SmallPipeline:
    """understand → plan → search → train → report, with a run's own steps."""

    engine: MakeEngine = staticmethod(simulated)
    plan: Callable[[], Plan] = staticmethod(small_plan)

    def __init__(self, context: RunContext, confirm: object = None, choose: object = None) -> None:
        self.context, self.record = context, context.record
        self.steps = Steps(context.record, context.journal)

    def run(self) -> dict[str, Any]:
        steps = self.steps
        steps.run("understand", {"sentence": self.context.task.sentence}, lambda: StepResult(value={"rows": 8}))
        steps.run("plan", steps.after("understand"), self._plan)
        plan = steps.plan_of("plan")
        found = steps.run("search", steps.after("plan"), lambda: self._search(plan))
        steps.run("train", steps.after("search"), lambda: self._train(plan, found.value["best"]))
        result = {"metric": "chrf", "tuned": self.record.value("train")["metrics"]["chrf"], "address": None}
        self.record.update(result=result)
        write_atomic(self.record.folder / "report.html", "<p>a report</p>")
        return result | {"report": "report.html"}

    def _plan(self) -> StepResult:
        plan = type(self).plan()
        self.record.save_plan(plan)
        self.context.journal.event("plan", revision=plan.revision, cause=plan.cause, changed=[])
        return StepResult(value={"revision": plan.revision})

    def _search(self, plan: Plan) -> StepResult:
        journal = self.context.journal
        searcher = Search(plan, rebuild(journal.trials()))
        executor = LocalExecutor(CPU, self.context.clock, "en")
        found = executor.run(searcher, type(self).engine(self.record.folder), plan, self.context.task.budget, journal)
        return StepResult(value={"best": found.best, "reason": found.reason, "trials": len(found.outcomes)})

    def _train(self, plan: Plan, best: int) -> StepResult:
        journal = self.context.journal
        parameters = rebuild(journal.trials())[best].proposal.parameters
        proposal = Proposal(number=FINAL_TRAINING, parameters=parameters, origin=f"trial {best}")
        executor = LocalExecutor(CPU, self.context.clock, "en")
        engine = type(self).engine(self.record.folder)
        final = executor.train(proposal, plan.search.final_tokens, engine, plan, journal)
        return StepResult(value={"trial": 0, "metrics": plain(final.metrics), "status": final.status})


@contextmanager
def small_pipeline(engine: MakeEngine = simulated, plan: Callable[[], Plan] = small_plan) -> Any:
    """Runs carried out meanwhile are small ones."""
    kind = type("Small", (SmallPipeline,), {"engine": staticmethod(engine), "plan": staticmethod(plan)})
    real = autoswift.pipeline.Pipeline
    autoswift.pipeline.Pipeline = kind  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        autoswift.pipeline.Pipeline = real  # type: ignore[misc]


def begin(folder: Path, trials: int = TRIALS) -> RunRecord:
    return records.create(Task(sentence="a support bot", data=None, budget=Budget(trials=trials, hours=4.0)), folder)


def carry_out(record: RunRecord) -> RunRecord:
    """What `autoswift run` and `autoswift resume` do once the task is known."""
    return api._carry_out(record, (None, None), None)


def summary(record: RunRecord) -> dict[str, Any]:
    """What must be the same however often a run was broken: proposals, results, the choice, the end."""
    rows = record.journal.trials()
    finals = [r for r in rows if r["event"] == "ended" and r["final"]]
    return {
        "state": record.state()["state"],
        "proposed": {r["trial"]: r["parameters"] for r in rows if r["event"] == "proposed"},
        "results": {r["trial"]: (r["outcome"]["status"], r["outcome"]["metrics"].get("nll")) for r in finals},
        "best": record.value("search")["best"],
        "tuned": record.state()["result"]["tuned"],
    }


def flaws(record: RunRecord) -> list[str]:
    """Trials lost, repeated or left running, in words; what a reader of the journal would stumble over."""
    rows, found = record.journal.trials(), []
    proposed = [r["trial"] for r in rows if r["event"] == "proposed"]
    ended = [r["trial"] for r in rows if r["event"] == "ended" and r["final"]]
    started = [(r["trial"], r["attempt"]) for r in rows if r["event"] == "started"]
    found += [f"trial {n} proposed {proposed.count(n)} times" for n in set(proposed) if proposed.count(n) != 1]
    found += [f"trial {n} lost or left running" for n in set(proposed) - set(ended)]
    found += [f"trial {n} ended {ended.count(n)} times" for n in set(ended) if ended.count(n) != 1]
    found += [f"attempt {one} started twice" for one in set(started) if started.count(one) != 1]
    begun: dict[int, bool] = {}
    for row in rows:
        if row["event"] == "ended" and row["final"]:
            begun[row["trial"]] = True
        elif row["event"] == "started" and begun.get(row["trial"]):
            found.append(f"trial {row['trial']} was run again after its end")
    if set(proposed) != set(range(max(proposed, default=0) + 1)):
        found.append(f"proposed {sorted(proposed)}")
    return found


def forked(work: Callable[[], object], log: Path) -> int:
    """The number of a fork of this process that does `work` and ends."""
    pid = os.fork()
    if pid:
        return pid
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def killed_after(seconds: float, work: Callable[[], object], log: Path) -> bool:
    """Runs `work` in a fork and kills it after so long; False when it had ended well by then."""
    pid = forked(work, log)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, log.read_text(encoding="utf-8")[-3000:]
            return False
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def died_by_itself(work: Callable[[], object], log: Path) -> bool:
    """Runs `work` in a fork that is expected to kill itself; False when it ended well."""
    _, status = os.waitpid(forked(work, log), 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or status == 0, log.read_text(encoding="utf-8")[-3000:]
    return killed
