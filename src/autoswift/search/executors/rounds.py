"""One round of trials: starts what the searcher proposes, listens, ends what must end, and keeps the record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoswift.domain.budget import Budget
from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Event, Journal, Remedy, SearchOutcome, Session, Symptom
from autoswift.domain.trial import FINAL_TRAINING, Outcome, Proposal, Trial
from autoswift.errors import DiskFull
from autoswift.run.clock import RunClock
from autoswift.search.executors.attempts import Running, Waiting, lost_outcome, outcome_of, symptom_of
from autoswift.search.executors.limits import Limits
from autoswift.search.executors.recovery import Recovery
from autoswift.search.history import TrialHistory, rebuild
from autoswift.search.searcher import Search
from autoswift.tables import explain

POLL_SECONDS = 0.5
"""Wait for events, shared by the sessions: short against a step, long against the cost of looking."""


class Round:
    """A search, or one training, on open sessions.

    Args:
        sessions: at least one.
        searcher: what to try. plan, budget, journal: as an `Executor` takes them.
        watch: the run's clock, and the language of the decisions that recovery writes.
        device: one of those that trials run on; None: the sessions' own, where they know it.
    """

    def __init__(
        self,
        sessions: Sequence[Session],
        searcher: Search,
        plan: Plan,
        budget: Budget,
        journal: Journal,
        watch: tuple[RunClock, str],
        device: Device | None = None,
    ) -> None:
        self.sessions, self.searcher = list(sessions), searcher
        self.plan, self.budget, self.journal = plan, budget, journal
        self.clock, self.language = watch
        self.tokens = plan.search.trial_tokens
        self.history: dict[int, TrialHistory] = rebuild(journal.trials(), max(1, plan.training.devices))
        self.running: dict[int, Running] = {}
        self.waiting: list[Waiting] = []
        device = device or getattr(self.sessions[0], "device", None)
        self.recovery = Recovery(plan, device, journal, self.language)
        self._charged_at = self.clock.ticks()
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
            self._due()
            if not reason:
                self._fill()
            if not self.running and not self.waiting:
                break
            self._listen()
        outcomes = {n: o for n, o in self.searcher.outcomes.items() if n > 0}
        return SearchOutcome(
            best=self.searcher.best(),
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
        self._start(proposal, past.attempts + 1 if past else 1, past.overrides if past else self._inherited(proposal))
        while self.running or self.waiting:
            self._due()
            self._listen()
        return self.searcher.outcomes[proposal.number]

    def _inherited(self, proposal: Proposal) -> dict[str, Any]:
        """What the configuration needed in the search in order to train at all."""
        number = proposal.origin.removeprefix("trial ")
        past = self.history.get(int(number)) if number.isdigit() else None
        return self.recovery.inherited(past.overrides) if past else {}

    def _due(self) -> None:
        """Starts attempts whose time has come."""
        for one in list(self.waiting):
            if time.monotonic() >= one.due and self._room():
                self.waiting.remove(one)
                self._start(one.proposal, one.attempt, one.overrides, one.resume)

    def _fill(self) -> None:
        """Starts as many trials as there is room for, beside those that wait: what they find is waited for."""
        room = max(0, self._room() - len(self.waiting))
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
        self._charge()
        first = not self.searcher.outcomes and not self.running
        elapsed = [self._device_seconds(one) for one in self.running.values()]
        usual = self.limits.spent / max(1, len(self.searcher.outcomes))
        return self.limits.over(usual, len(self.searcher.outcomes), sum(elapsed), first=first)

    def _start(self, proposal: Proposal, attempt: int, overrides: dict[str, Any], resume: str | None = None) -> None:
        self._charge()
        overrides = self.recovery.overrides(overrides)
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
            continues=resume or self._continues(proposal, past, overrides),
        )
        queues = {"queued": True} if hasattr(self.sessions[0], "queued_seconds") else {}
        self.journal.trial("started", trial.number, attempt=attempt, tokens=trial.tokens, overrides=overrides, **queues)
        self.searcher.restarted(trial.number)
        session = max(self.sessions, key=self._free)
        self.running[trial.number] = Running(trial, session, self.clock.ticks())
        session.submit(trial, Path(trial.continues) if trial.continues else None)
        self.history.setdefault(trial.number, TrialHistory(proposal=proposal)).attempts = attempt

    def _continues(self, proposal: Proposal, past: TrialHistory | None, overrides: dict[str, Any]) -> str | None:
        """The checkpoint that a longer rung goes on from; an attempt that failed there begins anew.

        So does one whose weights or optimizer are of another kind by now: the checkpoint's states would not fit.
        """
        if past is None or proposal.tokens is None or not past.ended:
            return None
        kinds = ("method", "optimizer", "precision")
        if any(name in overrides and overrides[name] != past.overrides.get(name) for name in kinds):
            return None
        last = past.ended[-1]
        return last.resume if last.rung < proposal.tokens and last.status == "finished" else None

    def _lost(self, number: int, past: TrialHistory) -> None:
        """Writes down the end of an attempt whose owner died, so that its seconds are on the record."""
        if not past.begun:
            return
        lost = lost_outcome(past, self.plan.training.devices)
        self.journal.trial("ended", number, attempt=past.attempts, outcome=lost, final=False)

    def _listen(self) -> None:
        self._charge()
        wait = POLL_SECONDS / len(self.sessions)
        if not self.running and self.waiting:
            time.sleep(min(POLL_SECONDS, max(0.0, min(one.due for one in self.waiting) - time.monotonic())))
        for session in self.sessions:
            if not any(one.session is session for one in self.running.values()):
                continue
            for event in session.events(wait):
                one = self.running.get(event.trial)
                if one is not None and one.session is session:
                    self._take(one, event)
        self._hurry()

    def _charge(self) -> None:
        """Counts a device's time against the trials that share it."""
        now = self.clock.ticks()
        for session in self.sessions:
            mine = [one for one in self.running.values() if one.session is session]
            for one in mine:
                one.charged += (now - self._charged_at) / len(mine)
        self._charged_at = now

    def _take(self, one: Running, event: Event) -> None:
        if event.kind == "started":
            one.phase = "first_step"
            self.limits.pace.started(event.metrics.get("seconds_to_start"))
        elif event.kind in ("progress", "evaluated"):
            self._report(one, event)
        elif event.kind == "warning" and event.symptom != "nan":  # that one ends the trial and is told then
            self._warned(one, event)
        elif event.kind in ("finished", "failed"):
            self._end(one, event)

    def _warned(self, one: Running, event: Event) -> None:
        if self.recovery.warned(one.trial, event) == "tighten" and not one.stopped:
            one.stopped, one.words = "tighten", str(event.evidence.get("text", ""))
            one.session.stop(event.trial)

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
        shared = getattr(one.session, "shares_device", False)
        seconds = one.charged if shared else self.clock.ticks() - one.begin
        queued = getattr(one.session, "queued_seconds", None)  # a trial that waits for a node's device holds none
        seconds -= queued(one.trial.number) if queued else 0.0
        devices = max(1, self.plan.training.devices)
        return max(0.0, seconds) * (self.plan.search.device_share if devices == 1 else devices)

    def _report(self, one: Running, event: Event) -> None:
        one.steps = max(one.steps, event.step)
        one.phase = "long_batch" if one.steps else one.phase
        if (event.metrics.get("memory_bytes") or 0) > (one.metrics.get("memory_bytes") or 0):
            self.recovery.peak(one.trial, event.metrics["memory_bytes"])
        one.metrics |= event.metrics
        extra = {k: v for k, v in event.evidence.items() if k == "total_steps"}
        self.journal.trial(
            event.kind, event.trial, attempt=one.trial.attempt, step=event.step, metrics=event.metrics, **extra
        )
        if event.kind != "progress" or one.stopped:
            return
        verdict = self.searcher.tell(event.trial, event.step, event.metrics)
        self._stream_warnings(one)
        if verdict == "stop":
            one.stopped = self.searcher.why.get(event.trial, "divergence")
            one.session.stop(event.trial)

    def _stream_warnings(self, one: Running) -> None:
        """What the searcher's eye on the curve finds odd."""
        warned = getattr(self.searcher.curves, "warned", None)
        for found in warned(one.trial.number) if warned else ():
            event = Event(
                kind="warning",
                trial=one.trial.number,
                time=self.clock.now(),
                step=found.step,
                symptom=found.symptom,
                evidence={"text": found.evidence},
            )
            self._warned(one, event)

    def _end(self, one: Running, event: Event) -> None:
        self._charge()
        del self.running[event.trial]
        seconds = self._device_seconds(one)
        if event.trial != FINAL_TRAINING:
            self.limits.spent += seconds
        one.metrics |= event.metrics
        self.limits.answered(one.metrics.get("latency_seconds"))
        symptom, cure = symptom_of(one, event, self.searcher), None
        if symptom:
            symptom, cure = self._cure(one, self.recovery.named(symptom))
            self.journal.event(
                "symptom",
                trial=event.trial,
                attempt=one.trial.attempt,
                symptom=symptom.name,
                evidence=symptom.evidence,
                phase=symptom.phase,
                wasted_device_seconds=round(seconds, 3),
            )
        outcome = outcome_of(one, event, symptom, seconds, several_rungs=len(self.plan.search.rungs) > 1)
        overrides = one.trial.overrides | (cure.changes if cure else {})
        extra = {"overrides": overrides} if cure else {}
        self.journal.trial(
            "ended", event.trial, attempt=one.trial.attempt, outcome=outcome, final=cure is None, **extra
        )
        self._budget()
        past = self.history[event.trial]
        past.device_seconds += seconds
        if symptom and symptom.name == "disk_full":
            raise DiskFull(*explain("disk.training", evidence=symptom.evidence))
        if symptom is None or cure is None:
            self._done(one, past, outcome, symptom)
            return
        self.recovery.tell(one.trial, cure, seconds)
        past.overrides = overrides
        again = replace(past.proposal, tokens=one.trial.tokens if self.plan.search.rungs else None)
        due = time.monotonic() + cure.wait_seconds * float(getattr(one.session, "time_scale", 1.0))
        resume = str(event.evidence["resume"]) if symptom.name != "killed" and event.evidence.get("resume") else None
        resume = resume if event.kind == "failed" else None
        self.waiting.append(
            Waiting(due=due, proposal=again, attempt=one.trial.attempt + 1, overrides=overrides, resume=resume)
        )
        self._due()

    def _cure(self, one: Running, symptom: Symptom) -> tuple[Symptom, Remedy | None]:
        """What the next attempt changes, within what may still be spent."""
        spent = self.limits.ends(one.trial, self._running_seconds()) or self.clock.left <= 0
        symptom, cure = self.recovery.cure(one.trial, symptom, final=self._last_chance(one), may_repeat=not spent)
        if cure is not None and cure.wait_seconds >= self.clock.left:
            cure = None
        return symptom, cure

    def _last_chance(self, one: Running) -> bool:
        """Whether the trial is compared with no other: the final training, or the only hope of a search."""
        if one.trial.number == FINAL_TRAINING:
            return True
        others = any(o.status == "finished" for o in self.searcher.outcomes.values()) or len(self.running) > 0
        return not others and len(self.searcher.proposals) >= self.plan.search.trials

    def _done(self, one: Running, past: TrialHistory, outcome: Outcome, symptom: Symptom | None) -> None:
        """A trial, or one rung of it, ended for good."""
        number = one.trial.number
        past.outcome, past.done = outcome, True
        past.ended.append(outcome)
        self.recovery.ended(number)
        self.searcher.done(number, outcome)
        finished = any(o.status == "finished" for o in self.searcher.outcomes.values())
        if symptom is not None and number != FINAL_TRAINING and not finished and not self.running:
            self.recovery.stop_for_user(one.trial, symptom, final=self._last_chance(one))

    def _budget(self) -> None:
        self.journal.event(
            "budget",
            seconds_spent=self.clock.spent,
            seconds_left=self.clock.left,
            device_seconds=self.limits.spent,
            trials_started=len([n for n in self.searcher.proposals if n > 0]),
        )
