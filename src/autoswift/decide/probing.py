"""Trying the best few base models for a few steps before one is taken (`--probe N`): what to run, and which wins.

Each candidate is fetched, its loss on the same validation rows measured, trained with the plan's first settings on the
same sample, and measured again. Losses are of a character of the answers, not of a token: tokenizers differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoswift.decide.need import Reason
from autoswift.decide.recommend import Candidate
from autoswift.domain.budget import Budget
from autoswift.tables import table

NEAR = 1.1
"""A candidate counts when its loss after the probe is at most this times the best one's: a small model gains fast from
a bad start, and ends there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTrial:
    """One candidate's probe: `tokens` of training, in about `seconds` with fetching and starting."""

    candidate: Candidate
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePlan:
    """What to probe.

    Attributes:
        trials: in order of rank; empty when it does not pay.
        rows: of the validation split whose loss is measured before and after.
        left_out: candidates that the budget has no room for, and why.
    """

    trials: tuple[ProbeTrial, ...]
    rows: int
    left_out: tuple[tuple[str, Reason], ...] = ()

    @property
    def seconds(self) -> float:
        """Of all trials, one after the other."""
        return sum(one.seconds for one in self.trials)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What a probe measured: nats a character of the answers before and after, and the seconds its steps took."""

    id: str
    before: float
    after: float
    seconds: float

    @property
    def gain_per_second(self) -> float:
        """Loss taken off in a second of training."""
        return (self.before - self.after) / max(self.seconds, 1e-9)


def probe_candidates(ranked: Sequence[Candidate], n: int, budget: Budget) -> ProbePlan:
    """The best few that the budget lets one try.

    Args:
        ranked: candidates, best first.
        n: how many to try at most.
        budget: of the run. Probing may take a share of its wall-clock and of its device-seconds.
    """
    rules = table("recommend")["probe"]
    allowed = float(rules["share"]) * min(budget.seconds, budget.device_seconds_limit)
    tokens, spent = int(rules["tokens"]), 0.0
    trials: list[ProbeTrial] = []
    left_out: list[tuple[str, Reason]] = []
    for one in ranked[: max(n, 0)]:
        # An unknown rate is taken as a slow laptop's: the first trial measures it.
        rate = one.tokens_per_second or float(table("rules")["schedule"]["unknown_rate"])
        seconds = one.fetch_seconds + one.start_seconds + tokens / rate
        if spent + seconds > allowed:
            minutes = {"need": f"{seconds / 60:.0f}", "left": f"{max(allowed - spent, 0) / 60:.0f}"}
            left_out.append((one.facts.id, Reason.of("probe_left_out", **minutes)))
            continue
        spent += seconds
        trials.append(ProbeTrial(candidate=one, tokens=tokens, seconds=round(seconds, 1)))
    if len(trials) < 2:  # one alone has nothing to be compared with
        left_out = [(one.candidate.facts.id, Reason.of("probe_alone")) for one in trials] + left_out
        trials = []
    return ProbePlan(trials=tuple(trials), rows=int(rules["rows"]), left_out=tuple(left_out))


def best_of(results: Sequence[ProbeResult]) -> ProbeResult:
    """The result with the highest gain a second, among those that end near the best loss; ties go to the first.

    Raises:
        ValueError: when there are none.
    """
    if not results:
        raise ValueError("no probe has a result")
    least = min(one.after for one in results)
    near = [one for one in results if one.after <= least * NEAR]
    return max(near, key=lambda one: one.gain_per_second)
