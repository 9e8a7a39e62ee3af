"""The choice of the winner as a decision like any other, and the front that it was taken from as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoswift.domain.decision import Alternative, Condition, Decision, Evidence
from autoswift.domain.plan import Plan
from autoswift.domain.trial import Outcome
from autoswift.search.objectives import Candidate, Choice
from autoswift.tables import text


def winner(plan: Plan, best: int, trials: Mapping[int, Outcome], language: str) -> Decision:
    """The best trial by the metric alone (`searcher.best_of`)."""
    metric = plan.search.metric

    def words(number: int) -> str:
        values = ((name, trials[number].metrics.get(name)) for name in (metric, f"{metric}_stderr", "nll"))
        return ", ".join(f"{name} {value:.3g}" for name, value in values if value is not None)

    others = tuple(
        Alternative(value=n, why_not=words(n) or str(trials[n].symptom)) for n in sorted(trials) if n != best
    )
    return Decision(
        name="winner",
        value=best,
        because=text("train.winner", language, trial=best, metric=metric),
        evidence=(Evidence(text=words(best), fact=metric, value=trials[best].metrics.get(metric)),),
        alternatives=others,
        source="measurement",
    )


def weighed(plan: Plan, choice: Choice, language: str) -> Decision:
    """The trial taken of several objectives, and what would have another one taken."""
    names = [text(f"report.word.objective.{name}", language) for name in plan.search.objectives]
    rows = {one.number: one for one in choice.candidates}
    others = []
    for number, one in rows.items():
        if number != choice.number:
            key = "train.front.on" if number in choice.front else "train.front.off"
            others.append(Alternative(value=number, why_not=text(key, language, words=_words(plan, one))))
    taken = rows[choice.number]
    facts = tuple(
        Evidence(text=_words(plan, taken), fact=f"trials.{taken.number}.{name}", value=value)
        for name, value in figures(taken).items()
        if name in plan.search.objectives
    )
    return Decision(
        name="winner",
        value=choice.number,
        because=text(f"train.front.{choice.rule}", language, trial=choice.number, objectives=", ".join(names)),
        evidence=facts,
        alternatives=tuple(others),
        reverse_when=_turned(choice, language),
        source="measurement",
    )


def figures(one: Candidate) -> dict[str, Any]:
    """A candidate's objectives by name."""
    return {"quality": one.quality, "latency": one.latency, "size": one.size}


def front_of(plan: Plan, choice: Choice | None) -> dict[str, Any] | None:
    """The front for the run's record: objectives, rule, and each trial that could be compared."""
    if choice is None:
        return None
    rows = [
        {"trial": one.number, "error": one.error, "front": one.number in choice.front} | figures(one)
        for one in choice.candidates
    ]
    return {"objectives": list(plan.search.objectives), "rule": choice.rule, "taken": choice.number, "trials": rows}


def _words(plan: Plan, one: Candidate) -> str:
    """Its figures, with their names as in the record of the trial."""
    parts = [f"{plan.search.metric} {one.quality:.4g}" + (f" ± {one.error:.2g}" if one.error else "")]
    if one.latency is not None:
        parts.append(f"{one.latency:.3g} s")
    return ", ".join([*parts, f"{one.size:,}"])


def _turned(choice: Choice, language: str) -> Condition | None:
    turn = choice.turn
    if turn is None:
        return None
    key = f"train.front.turn.{turn.objective}"
    return Condition(
        fact=f"trials.{turn.number}.{turn.objective}",
        op=turn.op,
        value=turn.value,
        becomes=turn.number,
        text=text(key, language, trial=turn.number, value=f"{turn.value:.4g}"),
    )
