"""The brain of the search: priors first, then Optuna's sampler; stops what diverges; picks the best."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

from autoswift.domain.plan import Plan
from autoswift.domain.protocols import Verdict
from autoswift.domain.trial import Outcome, Proposal
from autoswift.search.history import TrialHistory
from autoswift.tables import table

DIVERGED = 1.5
"""A smoothed loss above this multiple of its first value is divergence: at step 0 an adapter is the base model, so
training that works never stays half again above where it began."""

SMOOTHING = 0.7
"""Weight of the past in the smoothed loss: about three steps of memory, short against the shortest trial (8 steps)."""


class Search:
    """A `Searcher`.

    Args:
        plan: space, number of trials, metric, seed.
        history: of an earlier owner, from `history.rebuild`; number 0 is left out.
    """

    def __init__(self, plan: Plan, history: Mapping[int, TrialHistory] | None = None) -> None:
        self.plan = plan
        self.proposals: dict[int, Proposal] = {}
        self.outcomes: dict[int, Outcome] = {}
        self._smoothed: dict[int, tuple[float, float]] = {}
        for number, trial in sorted((history or {}).items()):
            if number > 0:
                self.proposals[number] = trial.proposal
                if trial.done and trial.outcome is not None:
                    self.outcomes[number] = trial.outcome

    def ask(self, n: int) -> list[Proposal]:
        """Up to n new proposals; fewer when the plan's number of trials is reached.

        Proposal k depends on the seed, on k, and on the outcomes of trials before it, nothing else.
        """
        made: list[Proposal] = []
        while len(made) < n and len(self.proposals) < self.plan.search.trials:
            number = len(self.proposals) + 1
            proposal = self._propose(number)
            self.proposals[number] = proposal
            made.append(proposal)
        return made

    def tell(self, trial: int, step: int, metrics: Mapping[str, float | None]) -> Verdict:
        """Takes a report; says stop when the loss has diverged."""
        if "loss" not in metrics:
            return "go"
        loss = metrics["loss"]
        if loss is None or not math.isfinite(loss):
            return "stop"
        first, smooth = self._smoothed.get(trial, (loss, loss))
        smooth = SMOOTHING * smooth + (1 - SMOOTHING) * loss
        self._smoothed[trial] = (first, smooth)
        return "stop" if step > 3 and smooth > DIVERGED * first else "go"

    def restarted(self, trial: int) -> None:
        """Forgets the curve of a failed attempt."""
        self._smoothed.pop(trial, None)

    def done(self, trial: int, outcome: Outcome) -> None:
        """Takes the end of a trial."""
        self.outcomes[trial] = outcome

    def finished(self) -> str | None:
        """`trials` when all that the plan wants have ended, else None."""
        return "trials" if len(self.outcomes) >= self.plan.search.trials else None

    def best(self) -> int | None:
        """The number of the best finished trial: by the metric, ties by the lower negative log-likelihood."""
        return best_of(self.outcomes, self.plan.search.metric)

    def _propose(self, number: int) -> Proposal:
        space, prior = self.plan.search.space, self._prior()
        portfolio = [float(f) for f in table("rules")["portfolio"]["learning_rate"]]
        if not space:
            return Proposal(number=number, parameters=prior, origin="prior")
        if number <= len(portfolio) and "learning_rate" in space:
            rate = prior["learning_rate"] * portfolio[number - 1]
            rate = min(max(rate, space["learning_rate"]["low"]), space["learning_rate"]["high"])
            return Proposal(number=number, parameters=prior | {"learning_rate": float(f"{rate:.3g}")}, origin="prior")
        return Proposal(number=number, parameters=prior | self._sampled(number), origin="tpe")

    def _prior(self) -> dict[str, Any]:
        training = self.plan.training
        return {
            "learning_rate": training.learning_rate,
            "effective_batch_size": training.effective_batch_size,
            "lora_rank": training.lora_rank,
        }

    def _sampled(self, number: int) -> dict[str, Any]:
        """One draw of TPE from the history, in memory and from a seed of its own."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(
            seed=draw_seed(self.plan.seed, number),
            n_startup_trials=int(table("rules")["portfolio"]["startup_trials"]),
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        distributions = {name: _distribution(one) for name, one in self.plan.search.space.items()}
        for past in range(1, number):
            study.add_trial(self._frozen(past, distributions))
        trial = study.ask(distributions)
        return {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in trial.params.items()}

    def _frozen(self, number: int, distributions: Mapping[str, Any]) -> Any:
        """A past trial for Optuna: failed ones are failed, running ones are running (constant liar)."""
        import optuna

        parameters = {k: v for k, v in self.proposals[number].parameters.items() if k in distributions}
        outcome = self.outcomes.get(number)
        value = outcome.metrics.get(self.plan.search.metric) if outcome else None
        if outcome is None:
            state = optuna.trial.TrialState.RUNNING
        elif outcome.status == "finished" and value is not None:
            state = optuna.trial.TrialState.COMPLETE
        else:
            state, value = optuna.trial.TrialState.FAIL, None
        return optuna.trial.create_trial(params=parameters, distributions=dict(distributions), value=value, state=state)


def best_of(outcomes: Mapping[int, Outcome], metric: str) -> int | None:
    """The best finished trial of several: by the metric, ties by the lower negative log-likelihood.

    Values within one standard error of the best one are a tie (the one-standard-error rule of Breiman et al. 1984):
    on 16 answers the metric of two equal models differs by that much, while the likelihood of several hundred tokens
    tells them apart. A trial whose answers the deadline cut off has no metric: it ranks behind all that have one, by
    its likelihood, then by its last training loss, so that a short budget still ends with a model.
    """
    usable = {n: o.metrics for n, o in outcomes.items() if o.status == "finished" and o.artifact is not None}
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


def draw_seed(seed: int, number: int) -> int:
    """The seed of proposal `number`: 32 bits of SHA-256, so that neighbouring numbers are unrelated."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")


def _distribution(one: Mapping[str, Any]) -> Any:
    import optuna

    if "choices" in one:
        return optuna.distributions.CategoricalDistribution(list(one["choices"]))
    return optuna.distributions.FloatDistribution(float(one["low"]), float(one["high"]), log=bool(one.get("log")))
