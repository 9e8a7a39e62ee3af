"""Trials on this machine, as many at once as the engine's session holds."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from autoswift.domain.budget import Budget
from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Event, Journal, SearchOutcome, Session, Symptom, TrainEngine
from autoswift.domain.trial import FINAL_TRAINING, Outcome, Proposal, Trial
from autoswift.errors import DiskFull
from autoswift.recover.diagnose import row
from autoswift.recover.remedies import remedy
from autoswift.run.clock import RunClock
from autoswift.search.configuration import settings_in_force
from autoswift.search.history import TrialHistory, rebuild
from autoswift.search.searcher import Search, best_of
from autoswift.tables import explain

POLL_SECONDS = 0.5
"""Wait for events: short against a step, long against the cost of looking."""


@dataclass(slots=True)
class _Running:
    trial: Trial
    begin: float
    stopped: str = ""
    metrics: dict[str, float | None] = field(default_factory=dict)
    steps: int = 0


class LocalExecutor:
    """An `Executor`.

    Args:
        device: of the one session that it opens.
        clock: counts down the wall-clock; trials end before its deadline less the plan's reserve.
        language: of the decisions that recovery writes.
    """

    def __init__(self, device: Device, clock: RunClock, language: str) -> None:
        self.device, self.clock, self.language = device, clock, language

    def run(self, searcher: Search, engine: TrainEngine, plan: Plan, budget: Budget, journal: Journal) -> SearchOutcome:
        """Runs trials until the searcher or the budget ends it. What the journal says ended is not run again."""
        session = engine.open(plan, self.device)
        try:
            return _Round(self, searcher, session, plan, budget, journal).run()
        finally:
            session.close()

    def train(self, proposal: Proposal, tokens: int, engine: TrainEngine, plan: Plan, journal: Journal) -> Outcome:
        """One training outside the search (number 0), with the same watch, deadline and remedies."""
        search = Search(plan)
        session = engine.open(plan, self.device)
        try:
            one = _Round(self, search, session, plan, Budget(trials=1), journal)
            one.tokens = tokens
            return one.single(proposal)
        finally:
            session.close()


class _Round:
    """One search on one session."""

    def __init__(
        self,
        executor: LocalExecutor,
        searcher: Search,
        session: Session,
        plan: Plan,
        budget: Budget,
        journal: Journal,
    ) -> None:
        self.executor, self.searcher, self.session = executor, searcher, session
        self.plan, self.budget, self.journal = plan, budget, journal
        self.tokens = plan.search.trial_tokens
        self.history: dict[int, TrialHistory] = rebuild(journal.trials())
        self.running: dict[int, _Running] = {}
        self.spent = sum(t.device_seconds for n, t in self.history.items() if n > 0)

    def run(self) -> SearchOutcome:
        for number, past in sorted(self.history.items()):
            if number > 0 and not past.done:
                self._wait_for_room()
                self._lost(number, past)
                self._start(past.proposal, past.attempts + 1, past.overrides)
        reason = ""
        while True:
            reason = reason or self._over()
            while not reason and len(self.running) < self.session.capacity():
                proposals = self.searcher.ask(1)
                if not proposals:
                    break
                one = proposals[0]
                self.journal.trial("proposed", one.number, parameters=one.parameters, origin=one.origin)
                self._start(one, 1, {})
            if not self.running:
                break
            self._listen()
        outcomes = {n: o for n, o in self.searcher.outcomes.items() if n > 0}
        return SearchOutcome(
            best=best_of(outcomes, self.plan.search.metric),
            reason=reason or "trials",
            device_seconds=self.spent,
            outcomes=outcomes,
        )

    def single(self, proposal: Proposal) -> Outcome:
        """Runs one trial to its end (a resume takes what the journal has)."""
        past = self.history.get(proposal.number)
        if past is not None and past.done and past.outcome is not None and past.outcome.status == "finished":
            return past.outcome
        if past is None:
            self.journal.trial("proposed", proposal.number, parameters=proposal.parameters, origin=proposal.origin)
        elif not past.done:
            self._lost(proposal.number, past)
        self._start(proposal, past.attempts + 1 if past else 1, past.overrides if past else {})
        while self.running:
            self._listen()
        return self.searcher.outcomes[proposal.number]

    def _wait_for_room(self) -> None:
        while len(self.running) >= self.session.capacity():
            self._listen()

    def _over(self) -> str:
        """Why no further trial is started, or an empty text."""
        if self.searcher.finished():
            return "trials"
        if self.spent >= self.budget.device_seconds_limit:
            return "device_seconds"
        left = self._search_seconds()
        # A trial that could not even start is not begun: half of the mean cost so far, at least 10 s.
        ended = [t.device_seconds for n, t in self.history.items() if t.done and n != FINAL_TRAINING] or [10.0]
        if left < max(10.0, sum(ended) / len(ended) / 2) and not (self._first() and left > 0):
            return "hours"
        return ""

    def _first(self) -> bool:
        return not self.searcher.outcomes and not self.running

    def _search_seconds(self) -> float:
        """What is left for the trials still to come: the reserve and the final training's share are not theirs."""
        search, stages = self.plan.search, self.plan.estimate.stage_seconds
        left = self.executor.clock.left - search.reserve_seconds
        if search.promote:
            return left
        waiting = max(1, search.trials - len(self.searcher.outcomes))
        ours = stages["search"] * waiting / search.trials
        return left * ours / max(ours + stages["train"], 1e-9)

    def _deadline(self, number: int) -> float:
        """Unix seconds at which a trial stops by itself; the final training may take all but the reserve."""
        if number == FINAL_TRAINING:
            return time.time() + max(1.0, self.executor.clock.left - self.plan.search.reserve_seconds)
        left = self._search_seconds()
        waiting = max(1, self.plan.search.trials - len(self.searcher.outcomes) - len(self.running))
        # Twice the equal share: lengths vary; the hard bound is what is left altogether.
        return time.time() + max(1.0, min(left, 2 * left / waiting))

    def _start(self, proposal: Proposal, attempt: int, overrides: dict[str, Any]) -> None:
        trial = Trial(
            number=proposal.number,
            attempt=attempt,
            parameters=proposal.parameters,
            tokens=self.tokens,
            overrides=overrides,
            deadline=self._deadline(proposal.number),
            evaluate_rows=self.plan.evaluation.validation_rows,
            evaluate_seconds=self._evaluate_seconds(),
        )
        self.journal.trial("started", trial.number, attempt=attempt, tokens=trial.tokens, overrides=overrides)
        self.searcher.restarted(trial.number)
        self.running[trial.number] = _Running(trial, time.monotonic())
        self.session.submit(trial)

    def _evaluate_seconds(self) -> float:
        """What answering took so far, a half more for luck; before the first trial twice the formula."""
        rows = self.plan.evaluation.validation_rows
        seen = [
            float(t.outcome.metrics.get("latency_seconds") or 0) * rows
            for t in self.history.values()
            if t.outcome is not None
        ]
        return 1.5 * max(seen) if any(seen) else 2.0 * self.plan.search.answer_seconds

    def _lost(self, number: int, past: TrialHistory) -> None:
        """Writes down the end of an attempt whose owner died, so that its seconds are on the record."""
        if not past.begun:
            return
        lost = Outcome(
            status="failed",
            symptom="interrupted",
            reason="the run was interrupted",
            device_seconds=round(past.last - past.begun, 3),
            steps=max((p.step for p in past.curve), default=0),
        )
        self.journal.trial("ended", number, attempt=past.attempts, outcome=lost, final=False)

    def _listen(self) -> None:
        for event in self.session.events(POLL_SECONDS):
            one = self.running.get(event.trial)
            if one is None:
                continue
            if event.kind in ("progress", "evaluated"):
                self._report(one, event)
            elif event.kind == "warning" and event.symptom != "nan":  # that one ends the trial and is told then
                self.journal.event(
                    "symptom",
                    trial=event.trial,
                    attempt=one.trial.attempt,
                    symptom=event.symptom,
                    evidence=f"step {event.step}",
                )
            elif event.kind in ("finished", "failed"):
                self._end(one, event)

    def _report(self, one: _Running, event: Event) -> None:
        one.steps = max(one.steps, event.step)
        one.metrics |= event.metrics
        extra = {k: v for k, v in event.evidence.items() if k == "total_steps"}
        self.journal.trial(
            event.kind, event.trial, attempt=one.trial.attempt, step=event.step, metrics=event.metrics, **extra
        )
        if event.kind != "progress" or one.stopped:
            return
        if self.searcher.tell(event.trial, event.step, event.metrics) == "stop":
            one.stopped = "nan" if event.metrics.get("loss") is None else "divergence"
            self.session.stop(event.trial)

    def _end(self, one: _Running, event: Event) -> None:
        del self.running[event.trial]
        seconds = time.monotonic() - one.begin
        self.spent += seconds
        one.metrics |= event.metrics
        symptom = self._symptom(one, event)
        outcome = Outcome(
            status="failed" if symptom else "finished",
            metrics=one.metrics,
            symptom=symptom.name if symptom else None,
            reason=symptom.evidence if symptom else str(event.evidence.get("reason", "")),
            device_seconds=round(seconds, 3),
            steps=one.steps,
            tokens=int(one.metrics.get("tokens") or 0),
            artifact=event.artifact.path if event.artifact and not symptom else None,
        )
        cure = None
        if symptom:
            settings = settings_in_force(self.plan, one.trial)
            cure = remedy(symptom, settings, one.trial.attempt, self.executor.language)
            self.journal.event(
                "symptom", trial=event.trial, attempt=one.trial.attempt, symptom=symptom.name, evidence=symptom.evidence
            )
        self.journal.trial("ended", event.trial, attempt=one.trial.attempt, outcome=outcome, final=cure is None)
        self._budget()
        if symptom and symptom.name == "disk_full":
            raise DiskFull(*explain("disk.training", evidence=symptom.evidence))
        if cure is None:
            self.searcher.done(event.trial, outcome)
            self.history[event.trial] = TrialHistory(
                proposal=Proposal(number=event.trial, parameters=one.trial.parameters, origin=""),
                outcome=outcome,
                done=True,
                device_seconds=seconds,
            )
            return
        self.journal.event(
            "remedy", trial=event.trial, attempt=one.trial.attempt, decision=cure.decision, changes=cure.changes
        )
        proposal = Proposal(number=event.trial, parameters=one.trial.parameters, origin="")
        self._start(proposal, one.trial.attempt + 1, one.trial.overrides | cure.changes)

    def _symptom(self, one: _Running, event: Event) -> Symptom | None:
        if one.stopped:
            return Symptom(name=one.stopped, evidence=f"loss {one.metrics.get('loss')} at step {one.steps}")
        if event.kind == "failed":
            return Symptom(
                name=event.symptom,
                evidence=str(event.evidence.get("text", "")),
                transient=bool(row(event.symptom)["transient"]),
            )
        return None

    def _budget(self) -> None:
        clock = self.executor.clock
        self.journal.event(
            "budget",
            seconds_spent=clock.spent,
            seconds_left=clock.left,
            device_seconds=self.spent,
            trials_started=len([n for n in self.searcher.proposals if n > 0]),
        )
