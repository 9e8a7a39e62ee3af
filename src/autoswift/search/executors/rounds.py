"""One round of trials: starts what the searcher proposes, listens, ends what must end, and keeps the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoswift.domain.budget import Budget
from autoswift.domain.plan import Plan
from autoswift.domain.protocols import Event, Journal, SearchOutcome, Session, Symptom
from autoswift.domain.trial import FINAL_TRAINING, Outcome, Proposal, Trial
from autoswift.errors import DiskFull
from autoswift.recover.diagnose import row
from autoswift.recover.remedies import remedy
from autoswift.run.clock import RunClock
from autoswift.search.configuration import settings_in_force
from autoswift.search.executors.limits import Limits
from autoswift.search.history import TrialHistory, rebuild
from autoswift.search.searcher import Search, best_of
from autoswift.tables import explain

POLL_SECONDS = 0.5
"""Wait for events, shared by the sessions: short against a step, long against the cost of looking."""


@dataclass(slots=True)
class Running:
    """A trial on its way.

    Attributes:
        begin: on the run's clock.
        stopped: why the searcher had it stopped; empty while it has not.
        hurried: it was asked to end because its time is over.
    """

    trial: Trial
    session: Session
    begin: float
    stopped: str = ""
    hurried: bool = False
    metrics: dict[str, float | None] = field(default_factory=dict)
    steps: int = 0


class Round:
    """A search, or one training, on open sessions.

    Args:
        sessions: at least one.
        searcher: what to try. plan, budget, journal: as an `Executor` takes them.
        watch: the run's clock, and the language of the decisions that recovery writes.
    """

    def __init__(
        self,
        sessions: Sequence[Session],
        searcher: Search,
        plan: Plan,
        budget: Budget,
        journal: Journal,
        watch: tuple[RunClock, str],
    ) -> None:
        self.sessions, self.searcher = list(sessions), searcher
        self.plan, self.budget, self.journal = plan, budget, journal
        self.clock, self.language = watch
        self.tokens = plan.search.trial_tokens
        self.history: dict[int, TrialHistory] = rebuild(journal.trials())
        self.running: dict[int, Running] = {}
        spent = sum(t.device_seconds for n, t in self.history.items() if n > 0)
        self.limits = Limits(plan, budget, self.clock, spent, len(self.sessions))
        for past in self.history.values():
            self.limits.answered(past.outcome.metrics.get("latency_seconds") if past.outcome else None)

    def run(self) -> SearchOutcome:
        """Until the searcher or the budget ends it."""
        for number, past in sorted(self.history.items()):
            if number > 0 and not past.done:
                self._wait_for_room()
                self._lost(number, past)
                self._start(past.proposal, past.attempts + 1, past.overrides)
        reason = ""
        while True:
            reason = reason or self._over()
            if not reason:
                self._fill()
            if not self.running:
                break
            self._listen()
        outcomes = {n: o for n, o in self.searcher.outcomes.items() if n > 0}
        return SearchOutcome(
            best=best_of(outcomes, self.plan.search.metric),
            reason=reason or self.searcher.finished() or "trials",
            device_seconds=self.limits.spent,
            outcomes=outcomes,
        )

    def single(self, proposal: Proposal) -> Outcome:
        """Runs one trial to its end (a resume takes what the journal has)."""
        past = self.history.get(proposal.number)
        if past is not None and past.done and past.outcome is not None and past.outcome.status == "finished":
            return past.outcome
        if past is None:
            self._journal_proposal(proposal)
        elif not past.done:
            self._lost(proposal.number, past)
        self._start(proposal, past.attempts + 1 if past else 1, past.overrides if past else {})
        while self.running:
            self._listen()
        return self.searcher.outcomes[proposal.number]

    def _fill(self) -> None:
        """Starts as many trials as there is room for."""
        room = self._room()
        proposals = self.searcher.ask(room) if room else []
        for one in proposals:
            self._journal_proposal(one)
            past = self.history.get(one.number)
            self._start(one, past.attempts + 1 if past else 1, past.overrides if past else {})

    def _journal_proposal(self, one: Proposal) -> None:
        extra = {} if one.tokens is None else {"tokens": one.tokens}
        self.journal.trial("proposed", one.number, parameters=one.parameters, origin=one.origin, **extra)

    def _room(self) -> int:
        return sum(self._free(session) for session in self.sessions)

    def _free(self, session: Session) -> int:
        return max(0, session.capacity() - sum(one.session is session for one in self.running.values()))

    def _wait_for_room(self) -> None:
        while not self._room():
            self._listen()

    def _over(self) -> str:
        """Why no further trial is started, or an empty text."""
        done = self.searcher.finished()
        if done:
            return done
        first = not self.searcher.outcomes and not self.running
        elapsed = [self._device_seconds(one) for one in self.running.values()]
        usual = self.limits.spent / max(1, len(self.searcher.outcomes))
        return self.limits.over(usual, len(self.searcher.outcomes), sum(elapsed), first=first)

    def _start(self, proposal: Proposal, attempt: int, overrides: dict[str, Any]) -> None:
        past = self.history.get(proposal.number)
        final = proposal.number == FINAL_TRAINING
        tokens = self.tokens if final else proposal.tokens or self.tokens
        trial = Trial(
            number=proposal.number,
            attempt=attempt,
            parameters=proposal.parameters,
            tokens=tokens,
            overrides=overrides,
            deadline=self.limits.deadline(
                None if final else len(self.searcher.outcomes), len(self.running), self._running_seconds()
            ),
            evaluate_rows=self.plan.evaluation.validation_rows,
            evaluate_seconds=self.limits.evaluate_seconds(),
            continues=self._continues(proposal, past),
        )
        self.journal.trial("started", trial.number, attempt=attempt, tokens=trial.tokens, overrides=overrides)
        self.searcher.restarted(trial.number)
        session = max(self.sessions, key=self._free)
        self.running[trial.number] = Running(trial, session, self.clock.now())
        session.submit(trial, Path(trial.continues) if trial.continues else None)
        self.history.setdefault(trial.number, TrialHistory(proposal=proposal)).attempts = attempt

    def _continues(self, proposal: Proposal, past: TrialHistory | None) -> str | None:
        """The checkpoint that a longer rung goes on from; an attempt that failed there begins anew."""
        if past is None or proposal.tokens is None or not past.ended:
            return None
        last = past.ended[-1]
        return last.resume if last.rung < proposal.tokens and last.status == "finished" else None

    def _lost(self, number: int, past: TrialHistory) -> None:
        """Writes down the end of an attempt whose owner died, so that its seconds are on the record."""
        if not past.begun:
            return
        lost = Outcome(
            status="failed",
            symptom="interrupted",
            reason="the run was interrupted",
            device_seconds=round((past.last - past.begun) * max(1, self.plan.training.devices), 3),
            steps=max((p.step for p in past.curve), default=0),
        )
        self.journal.trial("ended", number, attempt=past.attempts, outcome=lost, final=False)

    def _listen(self) -> None:
        wait = POLL_SECONDS / len(self.sessions)
        for session in self.sessions:
            if not any(one.session is session for one in self.running.values()):
                continue
            for event in session.events(wait):
                one = self.running.get(event.trial)
                if one is not None and one.session is session:
                    self._take(one, event)
        self._hurry()

    def _take(self, one: Running, event: Event) -> None:
        if event.kind == "started":
            self.limits.pace.started(event.metrics.get("seconds_to_start"))
        elif event.kind in ("progress", "evaluated"):
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

    def _hurry(self) -> None:
        """Asks trials to end whose time is over: it may have shrunk since they started."""
        for one in self.running.values():
            if one.hurried or one.stopped:
                continue
            if self.limits.ends(one.trial, self._running_seconds()):
                one.hurried = True
                one.session.stop(one.trial.number)

    def _running_seconds(self) -> float:
        return sum(self._device_seconds(one) for one in self.running.values() if one.trial.number != FINAL_TRAINING)

    def _device_seconds(self, one: Running) -> float:
        return (self.clock.now() - one.begin) * max(1, self.plan.training.devices)

    def _report(self, one: Running, event: Event) -> None:
        one.steps = max(one.steps, event.step)
        one.metrics |= event.metrics
        extra = {k: v for k, v in event.evidence.items() if k == "total_steps"}
        self.journal.trial(
            event.kind, event.trial, attempt=one.trial.attempt, step=event.step, metrics=event.metrics, **extra
        )
        if event.kind != "progress" or one.stopped:
            return
        if self.searcher.tell(event.trial, event.step, event.metrics) == "stop":
            one.stopped = self.searcher.why.get(event.trial, "divergence")
            one.session.stop(event.trial)

    def _end(self, one: Running, event: Event) -> None:
        del self.running[event.trial]
        seconds = self._device_seconds(one)
        if event.trial != FINAL_TRAINING:
            self.limits.spent += seconds
        one.metrics |= event.metrics
        self.limits.answered(one.metrics.get("latency_seconds"))
        symptom = self._symptom(one, event)
        outcome = Outcome(
            status="failed" if symptom else "pruned" if one.stopped == "pruned" else "finished",
            metrics=one.metrics,
            symptom=symptom.name if symptom else None,
            reason=symptom.evidence if symptom else str(event.evidence.get("reason", "")),
            device_seconds=round(seconds, 3),
            steps=one.steps,
            tokens=int(one.metrics.get("tokens") or 0),
            artifact=event.artifact.path if event.artifact and not symptom else None,
            rung=one.trial.tokens if one.trial.number != FINAL_TRAINING and len(self.plan.search.rungs) > 1 else 0,
            resume=str(event.evidence["resume"]) if event.evidence.get("resume") and not symptom else None,
        )
        cure = None
        if symptom:
            settings = settings_in_force(self.plan, one.trial)
            # Each rung of a trial has its own count of attempts.
            attempt = one.trial.attempt - len(self.history[event.trial].ended)
            cure = remedy(symptom, settings, attempt, self.language)
            self.journal.event(
                "symptom", trial=event.trial, attempt=one.trial.attempt, symptom=symptom.name, evidence=symptom.evidence
            )
        self.journal.trial("ended", event.trial, attempt=one.trial.attempt, outcome=outcome, final=cure is None)
        self._budget()
        past = self.history[event.trial]
        past.device_seconds += seconds
        if symptom and symptom.name == "disk_full":
            raise DiskFull(*explain("disk.training", evidence=symptom.evidence))
        if cure is None:
            past.outcome, past.done = outcome, True
            past.ended.append(outcome)
            self.searcher.done(event.trial, outcome)
            return
        self.journal.event(
            "remedy", trial=event.trial, attempt=one.trial.attempt, decision=cure.decision, changes=cure.changes
        )
        past.overrides = one.trial.overrides | cure.changes
        again = replace(past.proposal, tokens=one.trial.tokens if self.plan.search.rungs else None)
        self._start(again, one.trial.attempt + 1, past.overrides)

    def _symptom(self, one: Running, event: Event) -> Symptom | None:
        if one.stopped in ("nan", "divergence"):
            return Symptom(name=one.stopped, evidence=f"loss {one.metrics.get('loss')} at step {one.steps}")
        if event.kind == "failed":
            return Symptom(
                name=event.symptom,
                evidence=str(event.evidence.get("text", "")),
                transient=bool(row(event.symptom)["transient"]),
            )
        return None

    def _budget(self) -> None:
        self.journal.event(
            "budget",
            seconds_spent=self.clock.spent,
            seconds_left=self.clock.left,
            device_seconds=self.limits.spent,
            trials_started=len([n for n in self.searcher.proposals if n > 0]),
        )
