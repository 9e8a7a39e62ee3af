"""The choice of the model with `--probe N`: what would be tried before one is taken, and what the trials decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from autoswift.decide.book import Book
from autoswift.decide.inputs import Inputs
from autoswift.decide.model import choose_model, recommended
from autoswift.decide.need import Reason
from autoswift.decide.probing import NEAR, ProbePlan, ProbeResult, best_of, probe_candidates
from autoswift.domain.decision import Alternative, Decision, Evidence
from autoswift.domain.plan import ModelChoice
from autoswift.tables import text


def choose_with_probes(inputs: Inputs, model: ModelChoice | None, book: Book) -> tuple[ModelChoice, Inputs]:
    """The model, and the inputs with the time that probing takes.

    Args:
        model: of the revision before, where there is one.

    Raises:
        ModelError: when no model can be had or none fits.
    """
    if model is not None and any(one.name == "model" for one in inputs.decided):
        return model, inputs  # probes have chosen
    chosen = choose_model(inputs, book)
    if inputs.task.probe < 1:
        return chosen, inputs
    todo = probe_plan(inputs)
    _say(todo, inputs, book)
    seconds = round(todo.seconds, 1)
    return chosen, replace(inputs, probe_seconds=seconds, seconds_spent=inputs.seconds_spent + seconds)


def probe_plan(inputs: Inputs) -> ProbePlan:
    """Which candidates are tried; none when the user named a model, or one alone can be tried."""
    if inputs.task.probe < 1 or inputs.task.model or inputs.folder is not None:
        return ProbePlan(trials=(), rows=0)
    return probe_candidates(recommended(inputs).ranked, inputs.task.probe, inputs.task.budget)


def _say(todo: ProbePlan, inputs: Inputs, book: Book) -> None:
    ids = [one.candidate.facts.id for one in todo.trials]
    if ids:
        because = book.say("probe.on", count=len(ids), minutes=f"{todo.seconds / 60:.1f}")
    elif inputs.task.model:
        because = book.say("probe.named")
    else:
        because = book.say("probe.off" if len(recommended(inputs).ranked) > 1 else "probe.one")
    book.add(
        "probe",
        ", ".join(ids) or "-",
        because,
        evidence=[
            book.fact(
                f"probe.{one.candidate.facts.id}.seconds",
                one.seconds,
                book.say("probe.each", model=one.candidate.facts.id, tokens=one.tokens, seconds=f"{one.seconds:.0f}"),
            )
            for one in todo.trials
        ],
        alternatives=[(name, why.words(book.language)) for name, why in todo.left_out],
        levers=("task.budget.hours",),
        source="formula",
        instead=book.say("instead.probe"),
    )


def decided_by(
    results: Sequence[ProbeResult], failed: Sequence[tuple[str, str]], language: str
) -> tuple[str, tuple[Decision, ...]]:
    """The winner, and the decisions `probe` and `model` as they are after the trials.

    Args:
        results: of the candidates that were measured, in order of rank; at least one.
        failed: candidates that could not be, and why. language: of the words.
    """
    best = best_of(results)
    others = [Alternative(value=one.id, why_not=_why_not(one, best, results, language)) for one in results]
    others = [one for one in others if one.value != best.id]
    others += [Alternative(value=name, why_not=why) for name, why in failed]
    evidence = tuple(_told(one, language) for one in results)
    model = Decision(
        name="model",
        value=best.id,
        because=text("decide.probe.best", language, count=len(results), **_figures(best)),
        evidence=evidence,
        alternatives=tuple(others),
        source="measurement",
    )
    tried = Decision(
        name="probe",
        value=", ".join([*(one.id for one in results), *(name for name, _ in failed)]),
        because=text("decide.probe.done", language, count=len(results) + len(failed)),
        evidence=evidence,
        source="measurement",
    )
    return best.id, (tried, model)


def _told(one: ProbeResult, language: str) -> Evidence:
    value: dict[str, Any] = {"before": one.before, "after": one.after, "seconds": one.seconds}
    words = text("decide.probe.result", language, model=one.id, **_figures(one))
    return Evidence(text=words, fact=f"probe.{one.id}", value=value)


def _figures(one: ProbeResult) -> dict[str, str]:
    gain = one.gain_per_second
    values = {"before": one.before, "after": one.after, "seconds": one.seconds, "gain": gain}
    return {name: f"{value:.3g}" for name, value in values.items()}


def _why_not(one: ProbeResult, best: ProbeResult, results: Sequence[ProbeResult], language: str) -> str:
    least = min(other.after for other in results)
    if one.after > least * NEAR:
        reason = Reason.of("probe_far", after=f"{one.after:.3g}", least=f"{least:.3g}")
    else:
        gains = {"gain": f"{one.gain_per_second:.3g}", "best": f"{best.gain_per_second:.3g}"}
        reason = Reason.of("probe_slower", **gains)
    return reason.words(language)
