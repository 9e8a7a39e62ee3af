"""Where a search should begin, by what earlier runs on similar tasks were worth.

Settings are compared by their ratio to each run's own rules, so what a 0.5B model taught carries over to a 7B. A
memory may mislead: at most one of its configurations stands before the plan's own, and the others are for the search
to try only while `trusted` says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoswift.domain.plan import StartPoint
from autoswift.knowledge.entry import Fingerprint
from autoswift.knowledge.evidence import Judged, Remembered, judged, ratios
from autoswift.knowledge.likeness import BOUND, similarity
from autoswift.tables import text

Space = Mapping[str, Mapping[str, Any]]

MOST_TASKS = 8
"""Similar runs that are weighed: beyond these the least alike only repeat the others."""
MOST_POINTS = 3
"""Configurations of memory: of the default five trials one is the plan's own and one is left to the sampler."""
BANDWIDTH = {"learning_rate": math.log(1.4)}
"""How far, as a log ratio, what was measured still speaks. On made-up tasks (optima that vary by a factor of 1.4) the
gain of the first point was 0.61 with a factor of 2, 0.75 with 1.5, 0.78 with 1.35: wide kernels flatten the optimum."""
WIDE = math.log(2)
"""The same for other settings (batch, rank, epochs), which move the score less."""
DOUBT = 0.25
"""Weight of "as good as the plan's own" in each run's word on a configuration: a quarter of one trial of the very same
settings, so that what was measured decides and what lies far from all trials counts for nothing."""
FIRST = 0.5
"""From this weight on memory goes before the plan's own: it is then likelier than not to be the better one."""
LEAST = 0.1
"""Less than this is no advice."""
SAME = math.log(1.15)
"""Rates nearer than this are one: no run tells them apart."""
FLOOR = math.log(1.3)
"""Least spread of the numeric prior, however many runs agree."""
FARTHEST = math.log(20)
"""No rule of ours is off by more than this; what says so is left at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A similar run that was weighed: its id, its likeness, what its differences were worth."""

    run_id: str
    similarity: float
    worth: float
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What memory says.

    Attributes:
        points: in the order to try them; empty where memory has nothing to say, the plan's own alone where it agrees.
        rate: mean and standard deviation of the natural logarithm of the best learning rate over the plan's own, and
            its weight in runs of the very same task without noise.
        sources: similar runs that were weighed, the most alike first.
        dissimilar: runs that were not alike enough, and likeness of the nearest of them.
        mute: similar runs that compare nothing with their own prior.
    """

    points: tuple[StartPoint, ...] = ()
    rate: tuple[float, float, float] = (0.0, 0.0, 0.0)
    sources: tuple[Source, ...] = ()
    dissimilar: tuple[int, float] = (0, 0.0)
    mute: int = 0


@dataclass(frozen=True, slots=True)
class _Task:
    run_id: str
    likeness: float
    says: Judged
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True)
class _Candidate:
    parameters: dict[str, Any]
    ratios: dict[str, float]


def advise(
    fingerprint: Fingerprint,
    space: Space,
    prior: Mapping[str, Any],
    remembered: Sequence[Remembered],
    *,
    trials: int = MOST_POINTS + 2,
    language: str = "en",
) -> Advice:
    """A greedy portfolio: configurations that together come nearest to the best of all similar runs.

    The order of `remembered` does not matter.

    Args:
        fingerprint: of the task at hand. space: what is searched, as in `SearchSettings`.
        prior: the plan's own value of each setting in the space.
        trials: of this search: with a single one nothing could show that memory misleads.
        language: of the reasons.
    """
    tasks, far, mute = _tasks(fingerprint, remembered)
    sources = tuple(
        Source(
            run_id=t.run_id, similarity=round(t.likeness, 3), worth=round(t.says.worth, 3), fingerprint=t.fingerprint
        )
        for t in tasks
    )
    if not tasks or not space or trials < 2:
        return Advice(sources=sources, dissimilar=far, mute=mute)
    own = _candidate({}, space, prior)
    chosen = _portfolio(tasks, _candidates(tasks, space, prior, own))[: trials - 1]
    found = [
        StartPoint(parameters=c.parameters, origin="knowledge", weight=weight, because=_because(c, tasks, language))
        for c, weight in chosen
        if weight >= LEAST
    ]
    if not found and not any(task.says.worth > 0 for task in tasks):
        return Advice(sources=sources, dissimilar=far, mute=mute)  # nothing but noise: no word for or against
    mine = StartPoint(
        parameters=own.parameters, origin="prior", weight=FIRST, because=text("knowledge.point.prior", language)
    )
    first = 1 if found and found[0].weight > FIRST else 0
    points = (*found[:first], mine, *found[first:])
    return Advice(points=points, rate=_rate(tasks), sources=sources, dissimilar=far, mute=mute)


def trusted(knowledge: float | None, prior: float | None, stderr: float | None) -> bool:
    """Whether memory has proven itself in this run: its configuration did not lose to the plan's own beyond noise.

    Args:
        knowledge, prior: the metric (more is better) of the two trials at the same number of tokens; None where the
            trial failed or gave none.
        stderr: standard error of one of them; None or 0 where it is not known.
    """
    if knowledge is None or not math.isfinite(knowledge):
        return False
    if prior is None or not math.isfinite(prior):
        return True
    error = stderr if stderr is not None and math.isfinite(stderr) and stderr > 0 else 0.0
    return knowledge >= prior - math.sqrt(2) * error  # a difference of two has √2 of one's error


def _tasks(mark: Fingerprint, remembered: Sequence[Remembered]) -> tuple[list[_Task], tuple[int, float], int]:
    """Similar runs that say something, the most alike first; those too far; and how many say nothing."""
    ranked = sorted(
        ((similarity(mark, one.fingerprint, one.sentence), one) for one in remembered),
        key=lambda pair: (-round(pair[0], 9), pair[1].run_id),
    )
    near = [(likeness, one) for likeness, one in ranked if likeness >= BOUND]
    far = [likeness for likeness, _ in ranked if likeness < BOUND]
    found: list[_Task] = []
    mute = 0
    for likeness, one in near:
        says = judged(one)
        if says is None:
            mute += 1
        elif len(found) < MOST_TASKS:
            found.append(_Task(one.run_id, likeness, says, one.fingerprint))
    return found, (len(far), round(max(far, default=0.0), 3)), mute


def _candidates(tasks: Sequence[_Task], space: Space, prior: Mapping[str, Any], own: _Candidate) -> list[_Candidate]:
    """The best configurations of each run in this plan's space, each once, without the plan's own."""
    found: dict[str, _Candidate] = {}
    for task in tasks:
        for place in task.says.best:
            made = _candidate(task.says.tried[place].ratios, space, prior)
            if not _same(made, own):
                found.setdefault(repr(sorted(made.parameters.items())), made)
    return list(found.values())


def _candidate(wanted: Mapping[str, float], space: Space, prior: Mapping[str, Any]) -> _Candidate:
    """A configuration by its log ratios to the plan's own, made to fit the space."""
    base = {name: prior[name] if name in prior else one.get("prior") for name, one in space.items()}
    parameters = {name: _fitted(base[name], wanted.get(name, 0.0), one) for name, one in space.items()}
    return _Candidate(parameters, ratios(parameters, {k: v for k, v in base.items() if v is not None}))


def _fitted(base: Any, ratio: float, one: Mapping[str, Any]) -> Any:
    """A setting `ratio` away from the plan's own, within what may be searched."""
    numeric = isinstance(base, int | float) and not isinstance(base, bool) and base > 0
    if "choices" in one:
        choices = list(one["choices"])
        if not numeric or not all(isinstance(c, int | float) and not isinstance(c, bool) and c > 0 for c in choices):
            return base if base in choices else choices[0]
        target = math.log(base) + ratio
        return min(choices, key=lambda c: (round(abs(math.log(c) - target), 9), c))
    low, high = one["low"], one["high"]
    if not numeric:
        return low
    value: float = base * math.exp(max(-FARTHEST, min(FARTHEST, ratio)))
    if isinstance(low, int) and isinstance(high, int):
        return min(max(round(value), low), high)
    rounded = float(f"{value:.3g}") if ratio else float(base)
    return min(max(rounded, float(low)), float(high))


def _same(one: _Candidate, other: _Candidate) -> bool:
    """Whether two are one configuration for all that can be measured."""
    for name, value in one.parameters.items():
        there = other.parameters[name]
        if name == "learning_rate":
            if abs(one.ratios.get(name, 0.0) - other.ratios.get(name, 0.0)) >= SAME:
                return False
        elif value != there:
            return False
    return True


def _word(task: _Task, point: Mapping[str, float]) -> tuple[float, float]:
    """What a run says of a configuration, -1 to 1 (0: as good as the plan's own), and how much it knows of it."""
    total = heard = 0.0
    for one in task.says.tried:
        apart = sum(
            ((one.ratios.get(name, 0.0) - ratio) / BANDWIDTH.get(name, WIDE)) ** 2 for name, ratio in point.items()
        )
        weight = math.exp(-apart / 2)
        total += weight
        heard += weight * one.value
    return task.says.worth * heard / (total + DOUBT), total / (total + DOUBT)


def _portfolio(tasks: Sequence[_Task], candidates: Sequence[_Candidate]) -> list[tuple[_Candidate, float]]:
    """Greedily, the candidate that adds most over what is covered already, with its weight."""
    words = [[_word(task, one.ratios) for task in tasks] for one in candidates]
    covered = [0.0] * len(tasks)
    left = list(range(len(candidates)))
    chosen: list[tuple[_Candidate, float]] = []
    while left and len(chosen) < MOST_POINTS:
        gains = {
            i: round(
                sum(t.likeness * max(0.0, w - c) for t, (w, _), c in zip(tasks, words[i], covered, strict=True)), 9
            )
            for i in left
        }
        pick = max(left, key=lambda i: (gains[i], -i))
        if gains[pick] <= LEAST / 2:  # a tenth of a run that is half alike: not worth a trial
            break
        chosen.append((candidates[pick], _weight(tasks, words[pick])))
        covered = [max(c, w) for c, (w, _) in zip(covered, words[pick], strict=True)]
        left.remove(pick)
    return chosen


def _weight(tasks: Sequence[_Task], words: Sequence[tuple[float, float]]) -> float:
    """What it was worth on average over the runs that know, times how surely one of its supporters is alike.

    A run that speaks against it counts half: all that a wrong point costs is its trial, a right one shortens the
    search.
    """
    known = sum(task.likeness * knows for task, (_, knows) in zip(tasks, words, strict=True))
    worth = sum(task.likeness * (word if word > 0 else word / 2) for task, (word, _) in zip(tasks, words, strict=True))
    strangers = 1.0
    for task, (word, knows) in zip(tasks, words, strict=True):
        if word > 0:
            strangers *= 1.0 - task.likeness * knows
    return round(max(0.0, worth / known) * (1.0 - strangers), 4) if known > 0 else 0.0


def _rate(tasks: Sequence[_Task]) -> tuple[float, float, float]:
    heard = [(task.likeness * task.says.worth, *task.says.rate) for task in tasks if task.says.rate is not None]
    total = sum(weight for weight, _, _ in heard)
    if total <= 0:
        return 0.0, 0.0, 0.0
    centre = sum(weight * mean for weight, mean, _ in heard) / total
    spread = sum(weight * (variance + (mean - centre) ** 2) for weight, mean, variance in heard) / total
    centre = max(-FARTHEST, min(FARTHEST, centre))
    return round(centre, 4), round(math.sqrt(spread + FLOOR**2), 4), round(total, 4)


def _because(point: _Candidate, tasks: Sequence[_Task], language: str) -> str:
    """In words: how many runs speak for it, how alike they are, and how it differs from the plan's own."""
    speak = [task for task in tasks if _word(task, point.ratios)[0] > 0]
    likeness = max((task.likeness for task in speak), default=0.0)
    return text(
        "knowledge.point", language, runs=len(speak), similarity=f"{likeness:.2f}", settings=_said(point, language)
    )


def _said(point: _Candidate, language: str) -> str:
    parts = [
        text("knowledge.ratio", language, name=name, ratio=f"{math.exp(ratio):.2g}")
        for name, ratio in sorted(point.ratios.items())
        if abs(ratio) >= 0.006
    ]
    return text("knowledge.and", language).join(parts)
