"""The ways to search that ours is measured against. Each is a function of a meter; all see the same noise."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable
from typing import Any

from search_ground import SCRIPT, Meter, Method, draw_one

RUNGS = (1, 3, 9)
"""Ninths of a trial at which halving looks, as in Hyperband with factor 3."""


def default(meter: Meter) -> None:
    """Our plan's best guess, once."""
    meter.train(meter.ground.guess())


def swift_default(meter: Meter) -> None:
    """ms-swift's defaults, once."""
    meter.train(meter.ground.swift())


def spaced(low: float, high: float, count: int, phase: float = 0.5) -> list[float]:
    """One rate in each of `count` equal strata of the logarithm, all at the same place of theirs."""
    span = math.log(high / low)
    return [low * math.exp(span * (i + phase) / count) for i in range(count)]


def phase_of(meter: Meter) -> float:
    """Where in its stratum a replay's grid has its rates: by seed, so that no grid is lucky in all of them."""
    return random.Random(f"phase/{meter.seed}").random()  # noqa: S311


def grid(points: int) -> Method:
    """Three values each of rate, batch, then rank, then passes: 9, 27 or 81; in random order."""

    def run(meter: Meter) -> None:
        space, guess = meter.ground.space(), meter.ground.guess()
        axes: dict[str, list[Any]] = {
            "learning_rate": spaced(*space["learning_rate"], 3, phase_of(meter)),
            "effective_batch_size": [4, 8, 16],
            "lora_rank": space["lora_rank"][-3:],
            "epochs": [2, 4, 8],
        }
        names = list(axes)[: round(math.log(points, 3))]
        cells = [dict(guess) | dict(zip(names, c, strict=True)) for c in itertools.product(*(axes[n] for n in names))]
        every(meter, cells)

    return run


def every(meter: Meter, cells: Iterable[dict[str, Any]], shuffled: bool = True) -> None:
    """One after the other until the limit."""
    order = list(cells)
    if shuffled:
        random.Random(meter.seed).shuffle(order)  # noqa: S311
    for one in order:
        if meter.over:
            return
        meter.train(one)


def sweep(meter: Meter) -> None:
    """Eight learning rates, the rest as in the best guess."""
    rates = spaced(*meter.ground.space()["learning_rate"], 8, phase_of(meter))
    every(meter, [meter.ground.guess() | {"learning_rate": r} for r in rates])


def randomly(meter: Meter) -> None:
    """Uniform over the space."""
    draw = random.Random(f"random/{meter.seed}")  # noqa: S311
    space = meter.ground.space()
    while not meter.over:
        meter.train(draw_one(space, draw))


def script(meter: Meter) -> None:
    """The plain script: log-uniform rate and a choice of batch, ten samples, every trial in full, 3 passes, rank 8."""
    draw = random.Random(f"script/{meter.seed}")  # noqa: S311
    space = meter.ground.space(SCRIPT)
    for _ in range(10):
        if meter.over:
            return
        one = draw_one({"learning_rate": space["learning_rate"], "effective_batch_size": [4, 8, 16]}, draw)
        meter.train(meter.ground.swift() | one)


def manual(meter: Meter) -> None:
    """By hand: ms-swift's defaults, then the rate times 3 and divided by 3, and on in the better direction."""
    here = meter.ground.swift()
    best = meter.train(here)
    for factor in (3.0, 1 / 3.0):
        while not meter.over:
            moved = here | {"learning_rate": here["learning_rate"] * factor}
            value = meter.train(moved)
            if not value < best:
                break
            here, best = moved, value


def optuna_search(kind: str) -> Method:
    """Optuna 5 over the space: `tpe`, `gp`, `hyperband` (TPE, pruned) or `asha` (random, halved)."""

    def run(meter: Meter) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        samplers = optuna.samplers
        sampler = {
            "tpe": lambda: samplers.TPESampler(seed=meter.seed),
            "gp": lambda: samplers.GPSampler(seed=meter.seed, deterministic_objective=False),
            "hyperband": lambda: samplers.TPESampler(seed=meter.seed),
            "asha": lambda: samplers.RandomSampler(seed=meter.seed),
        }[kind]()
        pruner: Any = optuna.pruners.NopPruner()
        if kind == "hyperband":
            pruner = optuna.pruners.HyperbandPruner(min_resource=RUNGS[0], max_resource=RUNGS[-1], reduction_factor=3)
        elif kind == "asha":
            pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=RUNGS[0], reduction_factor=3)
        # Hyperband draws a trial's bracket from the study's name, which is random unless given.
        name = f"{kind}-{meter.seed}"
        study = optuna.create_study(study_name=name, direction="minimize", sampler=sampler, pruner=pruner)
        while not meter.over:
            trial = study.ask(_distributions(meter))
            value = meter.train(trial.params) if kind in ("tpe", "gp") else _halved(meter, trial)
            _tell(study, trial, value)

    return run


def _tell(study: Any, trial: Any, value: float | None) -> None:
    import optuna

    if value is None:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    elif math.isfinite(value):
        study.tell(trial, value)
    else:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)


def _distributions(meter: Meter) -> dict[str, Any]:
    import optuna

    space = meter.ground.space()
    low, high = space["learning_rate"]
    made: dict[str, Any] = {"learning_rate": optuna.distributions.FloatDistribution(low, high, log=True)}
    return made | {k: optuna.distributions.CategoricalDistribution(v) for k, v in space.items() if k not in made}


def _halved(meter: Meter, trial: Any) -> float | None:
    """A trial that is looked at on its way; None when it was pruned."""
    parameters, before = trial.params, 0.0
    full = meter.ground.full(parameters)
    meter.trials += 1
    for ninth in range(1, RUNGS[-1] + 1):
        tokens = full * ninth / RUNGS[-1]
        meter.charge(parameters, tokens - before)
        before = tokens
        if ninth == RUNGS[-1]:
            break
        value = meter.ground.raw(parameters, tokens, meter.seed)
        if not math.isfinite(value):
            return math.inf
        trial.report(value, ninth)
        if trial.should_prune():
            return None
    return meter.model(parameters, full)


def oracle(meter: Meter) -> None:
    """The best configuration of the table, at once: what no search can beat; for the tests."""
    space = meter.ground.space()
    cells = [
        {"learning_rate": c.learning_rate, "effective_batch_size": c.batch, "lora_rank": c.rank, "epochs": e}
        for c in meter.ground.table.configurations
        for e in space["epochs"]
    ]
    meter.train(min(cells, key=lambda c: meter.ground.truth(c, meter.ground.full(c))))
