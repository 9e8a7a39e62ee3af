"""Optuna's TPE, for searches of more trials than a Gaussian process is fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autoswift.search.seeds import draw_seed

if TYPE_CHECKING:
    from autoswift.search.searcher import Search

LARGEST = 200
"""Trials that the sampler is told of: the better half of them the best ever, the others the newest. Rebuilding a study
costs about 2 ms a trial."""


STARTUP_TRIALS = 4
"""Until so many have ended the sampler draws at random: reached only where no process could be fitted, because every
trial so far failed."""


def sample(search: Search, number: int) -> dict[str, Any]:
    """The parameters of trial `number`: from the seed, the number and the history."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = draw_seed(search.plan.seed, number)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions = {name: _distribution(one) for name, one in search.plan.search.space.items()}
    running = [n for n in search.proposals if n not in search.at and n != number]
    for past in sorted({*search.chosen(LARGEST), *running[-LARGEST:]}):
        study.add_trial(_frozen(search, past, distributions))
    trial = study.ask(distributions)
    return {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in trial.params.items()}


def _frozen(search: Search, number: int, distributions: Mapping[str, Any]) -> Any:
    """A past trial for Optuna: failed ones are failed, running ones are running (constant liar)."""
    import optuna

    given = search.proposals[number].parameters
    parameters = {k: _fitting(v, distributions[k]) for k, v in given.items() if k in distributions}
    outcome = search.outcomes.get(number)
    value = search.value(outcome) if outcome else None
    if outcome is None:
        state = optuna.trial.TrialState.RUNNING
    elif value is not None:
        state = optuna.trial.TrialState.COMPLETE
    else:
        state = optuna.trial.TrialState.FAIL
    return optuna.trial.create_trial(params=parameters, distributions=dict(distributions), value=value, state=state)


def _fitting(value: Any, distribution: Any) -> Any:
    """A start point may lie a rounding outside of the space."""
    low, high = getattr(distribution, "low", None), getattr(distribution, "high", None)
    return value if low is None else min(max(float(value), low), high)


def _distribution(one: Mapping[str, Any]) -> Any:
    import optuna

    if "choices" in one:
        return optuna.distributions.CategoricalDistribution(list(one["choices"]))
    return optuna.distributions.FloatDistribution(float(one["low"]), float(one["high"]), log=bool(one.get("log")))
