"""The brain of the search: what is known first, then a model of what was seen; prunes, continues, stops.

Where proposals come from, in this order: the plan's start points (its own best guess, what similar tasks did best
with), a half-decade up, then expected improvement under a Gaussian process (`acquire`), and Optuna's TPE once there are
more trials than a process is worth fitting to.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autoswift.domain.plan import Plan, StartPoint
from autoswift.domain.protocols import Verdict
from autoswift.domain.trial import Outcome, Proposal
from autoswift.knowledge.portfolio import trusted
from autoswift.search.history import TrialHistory
from autoswift.search.modelled import propose, worth
from autoswift.search.objectives import choose
from autoswift.search.rungs import AGREEMENT, agreement, climb
from autoswift.search.start import start_points
from autoswift.search.stopping import Curves
from autoswift.search.tpe import sample

MODEL_TRIALS = 100
"""Up to here a Gaussian process proposes, beyond it TPE: by then both are at the noise of the metric, and a history is
cut to this many trials so that a proposal takes as long at the ten-thousandth trial as at the hundredth."""

COMPARED = 2
"""Short trials before the better one goes further: one alone may be far off, more cost what the step would."""

BEFORE_WORTH = 8
"""Trials before the gain is asked for: a process fitted to fewer is sure of things that it cannot know."""


class Search:
    """A `Searcher`.

    Args:
        plan: space, number of trials, metric, seed, start points, rungs.
        history: of an earlier owner, from `history.rebuild`; number 0 is left out.
    """

    def __init__(self, plan: Plan, history: Mapping[int, TrialHistory] | None = None) -> None:
        self.plan = plan
        self.proposals: dict[int, Proposal] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.curves = Curves()
        self.why: dict[int, str] = {}
        self.rungs = tuple(plan.search.rungs) or (plan.search.trial_tokens,)
        self.at: dict[int, dict[int, Outcome]] = {}
        self.started: dict[int, int] = {}
        self._measured = False
        self.ranking: list[tuple[float, int]] = []
        self._gain: tuple[int, float] | None = None
        for number, trial in sorted((history or {}).items()):
            if number > 0:
                self._remember(number, trial)

    def ask(self, n: int) -> list[Proposal]:
        """Up to n proposals: trials to continue, then new ones; fewer when the plan's number of trials is reached.

        Proposal k depends on the seed, on k, and on the outcomes of trials before it, nothing else.
        """
        made: list[Proposal] = []
        while len(made) < n:
            proposal = self._continued() or self._new()
            if proposal is None:
                break
            self.proposals[proposal.number] = proposal
            self.started[proposal.number] = proposal.tokens or self.rungs[-1]
            made.append(proposal)
        return made

    def tell(self, trial: int, step: int, metrics: Mapping[str, float | None]) -> Verdict:
        """Takes a report; says stop when the loss has diverged or the trial is hopeless (`why` has the word)."""
        if "loss" not in metrics:
            return "go"
        fraction = float(metrics.get("tokens") or 0.0) / max(1, self.started.get(trial, self.rungs[-1]))
        reason = self.curves.tell(trial, step, metrics, fraction)
        if reason:
            self.why[trial] = reason
        return "stop" if reason else "go"

    def restarted(self, trial: int) -> None:
        """Forgets the curve of a failed attempt."""
        self.curves.restarted(trial)
        self.why.pop(trial, None)

    def done(self, trial: int, outcome: Outcome) -> None:
        """Takes the end of a trial, or of one rung of it."""
        self._measured = self._measured or outcome.metrics.get(self.plan.search.metric) is not None
        rung = outcome.rung or self.started.get(trial, self.rungs[-1])
        self.at.setdefault(trial, {})[rung] = outcome
        self.outcomes[trial] = standing(list(self.at[trial].values()), self.plan)
        nll = outcome.metrics.get("nll")
        if outcome.status == "finished" and nll is not None:
            self.curves.ended(trial, nll)
        else:
            self.curves.restarted(trial)
        if (value := self.value(outcome)) is not None:
            bisect.insort(self.ranking, (value, trial))

    def finished(self) -> str | None:
        """`trials` when all that the plan wants have ended, `gain` when another is not worth its cost, else None."""
        if len(self.outcomes) < len(self.proposals):
            return None
        if self._next_rung() is not None:
            return None
        if len(self.proposals) >= self.plan.search.trials:
            return "trials"
        return "gain" if self._not_worth() else None

    def best(self) -> int | None:
        """The number of the trial to take: of several objectives by `choose`, else the best by `best_of`."""
        choice = choose(self.plan, self.outcomes, {n: p.parameters for n, p in self.proposals.items()})
        return choice.number if choice else best_of(self.outcomes, self.plan.search.metric, any_length(self.plan))

    def chosen(self, most: int) -> list[int]:
        """At most so many trials that a model is told of, ascending: the newest, and the best of those before."""
        numbers = sorted(self.at)
        if len(numbers) <= most:
            return numbers
        kept = set(numbers[-(most // 2) :])
        for _, number in reversed(self.ranking):
            if len(kept) >= most:
                break
            kept.add(number)
        return sorted(kept)

    def results(self, numbers: Iterable[int]) -> dict[int, dict[int, float]]:
        """Trial to tokens to value, higher is better, of those that ended well or were pruned."""
        return {
            number: {rung: value for rung, one in self.at[number].items() if (value := self.value(one)) is not None}
            for number in numbers
        }

    def _remember(self, number: int, trial: TrialHistory) -> None:
        self.proposals[number] = trial.proposal
        self.started[number] = trial.proposal.tokens or self.rungs[-1]
        for point in trial.curve:
            self.tell(number, point.step, point.metrics)
        self.why.pop(number, None)
        for outcome in trial.ended:
            self.done(number, outcome)
        if not trial.done and trial.ended:
            del self.outcomes[number]  # its next rung is running

    def _next_rung(self) -> tuple[int, int] | None:
        if len(self.rungs) < 2:
            return None
        if len(self.proposals) < min(COMPARED, self.plan.search.trials):
            return None
        return climb(self._finished(), self.rungs, self.started)

    def _continued(self) -> Proposal | None:
        found = self._next_rung()
        if found is None:
            return None
        number, tokens = found
        past = self.proposals[number]
        self.outcomes.pop(number, None)
        return Proposal(number=number, parameters=past.parameters, origin=past.origin, tokens=tokens)

    def _new(self) -> Proposal | None:
        number = len(self.proposals) + 1
        if number > self.plan.search.trials:
            return None
        believed = len(self.rungs) < 2 or agreement(self._finished(), self.rungs) >= AGREEMENT
        tokens = self.rungs[0] if believed else self.rungs[-1]
        parameters, origin = self._parameters(number)
        full = len(self.rungs) < 2
        return Proposal(number=number, parameters=parameters, origin=origin, tokens=None if full else tokens)

    def _finished(self) -> dict[int, dict[int, float]]:
        return {
            number: {r: v for r, o in at.items() if o.status == "finished" and (v := self.value(o)) is not None}
            for number, at in self.at.items()
        }

    def value(self, outcome: Outcome) -> float | None:
        """What is modelled: the metric; minus the likelihood's loss where trials are short, which is measured finer."""
        if outcome.status == "failed":
            return None
        value = outcome.metrics.get(self.plan.search.metric) if len(self.rungs) < 2 else None
        if value is None and (nll := outcome.metrics.get("nll")) is not None and not self._metric_known():
            value = -nll
        return None if value is None or not math.isfinite(value) else float(value)

    def _metric_known(self) -> bool:
        """In a search of full trials values are of the metric; a trial without one cannot be compared."""
        return len(self.rungs) < 2 and self._measured

    def prior(self) -> dict[str, Any]:
        """The plan's own values of what may be searched."""
        training, space = self.plan.training, self.plan.search.space
        return {name: one["prior"] for name, one in space.items() if "prior" in one} | {
            "learning_rate": training.learning_rate,
            "effective_batch_size": training.effective_batch_size,
            "lora_rank": training.lora_rank,
        }

    def _parameters(self, number: int) -> tuple[dict[str, Any], str]:
        prior = self.prior()
        if not self.plan.search.space:
            return prior, "prior"
        start = self._start(number)
        if start is not None:
            return prior | start.parameters, start.origin
        if len(self.proposals) < MODEL_TRIALS:
            found = self._modelled(number)
            if found is not None:
                return prior | found, "gp"
        return prior | self._sampled(number), "tpe"

    def _start(self, number: int) -> StartPoint | None:
        """The start point of trial `number`: memory leads by one trial, and goes on only when it did not lose."""
        prior = self.prior()
        made = [p.parameters for n, p in self.proposals.items() if n < number]
        for one in start_points(self.plan, prior):
            if prior | one.parameters in made:
                continue
            if one.origin != "knowledge" or self.memory_trusted(number - 1):
                return one
        return None

    def memory_trusted(self, before: int) -> bool:
        """Whether memory's first trial did not lose to the plan's own guess beyond noise, among trials up to `before`.

        True while memory has not been tried; what it cost is one trial at most.
        """
        points = start_points(self.plan, self.prior())[:before]
        tried = [i + 1 for i, p in enumerate(points) if p.origin == "knowledge"]
        own = [i + 1 for i, p in enumerate(points) if p.origin != "knowledge"]
        if not tried or not own or not all(n in self.at for n in (tried[0], own[0])):
            return not tried
        values = [self._first_value(n) for n in (tried[0], own[0])]
        error = (
            self.outcomes[own[0]].metrics.get(f"{self.plan.search.metric}_stderr") if own[0] in self.outcomes else None
        )
        return trusted(values[0], values[1], float(error or 0.0) if len(self.rungs) < 2 else 0.0)

    def _first_value(self, number: int) -> float | None:
        """A trial's value at the first rung that it ended at, where all trials can be compared."""
        return self.value(self.at[number][min(self.at[number])])

    def _modelled(self, number: int) -> dict[str, Any] | None:
        """The process's proposal, or None while nothing has ended."""
        found = propose(self, number)
        if found is None:
            return None
        self._gain = (number, found.gain)
        return found.parameters

    def _not_worth(self) -> bool:
        """Whether the next trial is expected to gain less than it costs; asked only when none is running."""
        number = len(self.proposals) + 1
        if len(self.plan.search.objectives) > 1:
            return False  # a gain of several objectives has no unit that a cost could be held against
        if not self.plan.search.space or len(self.outcomes) < BEFORE_WORTH or self._start(number) is not None:
            return False
        if number > MODEL_TRIALS:
            return False
        if self._gain is None or self._gain[0] != number:
            found = propose(self, number)
            if found is None:
                return False
            self._gain = (number, found.gain)
        return self._gain[1] < worth(self)

    def _sampled(self, number: int) -> dict[str, Any]:
        """One draw of TPE from the newest and the best of the history, in memory and from a seed of its own."""
        return sample(self, number)


def any_length(plan: Plan) -> bool:
    """Whether trials of different lengths are compared as they are: the best has gone on for as long as it helped."""
    return len(plan.search.rungs) > 1


def standing(ended: Sequence[Outcome], plan: Plan) -> Outcome:
    """What a trial counts as: its last length, or an earlier one where going on did it no good."""
    good = [o for o in ended if o.status == "finished" and o.artifact is not None and o.metrics.get("nll") is not None]
    if not good or not any_length(plan):
        return ended[-1]
    return min(good, key=lambda o: float(o.metrics["nll"] or 0.0))


def best_of(outcomes: Mapping[int, Outcome], metric: str, any_length: bool = False) -> int | None:
    """The best finished trial of several: by the metric, ties by the lower negative log-likelihood.

    Values within one standard error of the best one are a tie (the one-standard-error rule of Breiman et al. 1984):
    on 16 answers the metric of two equal models differs by that much, while the likelihood of several hundred tokens
    tells them apart. A trial whose answers the deadline cut off has no metric: it ranks behind all that have one, by
    its likelihood, then by its last training loss, so that a short budget still ends with a model. Trials that were
    trained longer than others go before them, unless `any_length`: what a short one reaches is not what it would be
    worth in full.
    """
    usable = {n: o.metrics for n, o in outcomes.items() if o.status == "finished" and o.artifact is not None}
    longest = max((outcomes[n].rung for n in usable), default=0)
    usable = {n: m for n, m in usable.items() if any_length or outcomes[n].rung == longest}
    measured = {n: float(v) for n, m in usable.items() if (v := m.get(metric)) is not None}
    if measured:
        top = max(measured, key=lambda n: measured[n])
        margin = float(usable[top].get(f"{metric}_stderr") or 0.0)
        usable = {n: m for n, m in usable.items() if n in measured and measured[n] >= measured[top] - margin}

    def key(number: int) -> tuple[float, float, float, int]:
        nll, loss = usable[number].get("nll"), usable[number].get("loss")
        return (
            math.inf if nll is None else nll,
            -measured.get(number, 0.0),
            math.inf if loss is None else loss,
            number,
        )

    return min(usable, key=key) if usable else None
