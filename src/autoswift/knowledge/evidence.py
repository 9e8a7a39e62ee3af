"""What one earlier run says about settings: each trial's gain over that run's own rules, shrunk by its noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

from autoswift.knowledge.entry import Fingerprint, TrialRow

SAME_TOKENS = 0.8
"""Trials within this share of each other's length are compared; a longer one is better for its length alone."""
UNKNOWN_NOISE = 0.5
"""What a gain is worth at most where nothing tells its noise: as much as none."""
INFEASIBLE = ("nan", "nan_gradient", "zero_loss", "divergence")
"""Symptoms that are the configuration's own; missing memory or a killed process are the machine's."""
PRIORS, TOP, REST = 2, 14, 8
"""Trials of a run that are looked at: of its prior, the best, the worst and failed: portfolios take milliseconds so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """An earlier run as a plan needs it.

    Attributes:
        fingerprint: without its embedding. sentence: likeness of its sentence to this task's; None where not known.
    """

    run_id: str
    fingerprint: Fingerprint
    sentence: float | None = None
    trials: tuple[TrialRow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """What a plan is made with: all that may bear on it of what is remembered, and why the rest may not.

    Attributes:
        remembered: runs of the same goal and modality, whatever their likeness, by run id.
        left_out: reason (`worse`, `vetoed`, `metric`) to number of runs that are never a source.
        notes: in words, what went wrong with reading.
        encoder, embedding: of this task's own sentence.
        ignored: the user wants none of it.
    """

    remembered: tuple[Remembered, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    encoder: str = ""
    embedding: str = ""
    ignored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One configuration there.

    Attributes:
        ratios: natural logarithm of each numeric setting over that run's prior.
        value: -1 to 1: its share of the best gain there, 0 as good as that run's prior.
    """

    ratios: Mapping[str, float]
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a run's trials say.

    Attributes:
        worth: 0 to 1, how far differences there exceed their noise (the positive part of the James-Stein factor,
            with the expected largest of as many draws as there were trials in place of one standard error).
        tried: configurations. best: places in `tried` of those within the noise of the best one.
        rate: mean and variance of the log learning-rate ratio that did best; None where rates were not varied.
    """

    worth: float
    tried: tuple[Tried, ...]
    best: tuple[int, ...]
    rate: tuple[float, float] | None = None


@dataclass(slots=True)
class _Group:
    """Trials of about one length."""

    rows: list[TrialRow] = field(default_factory=list)
    default: float | None = None


def judged(run: Remembered) -> Judged | None:
    """What a run's trials say, or None where nothing can be compared with that run's prior."""
    rows = thinned(run.trials)
    group = _group(rows)
    if group is None or group.default is None:
        return None
    scores = [float(row.score) for row in group.rows if row.score is not None]
    noise, known = _noise(group.rows, scores)
    bound = noise * max(1.0, math.sqrt(2 * math.log(len(scores))))
    gains = [_shrunk(score - group.default, bound) for score in scores]
    top = max(gains)
    scale = top if top > 0 else max(abs(gain) for gain in gains)
    raw = max(scores) - group.default if top > 0 else group.default - min(scores)
    worth = _shrunk(raw, bound) / raw if raw > 0 else 0.0
    worth = worth if known else min(worth, UNKNOWN_NOISE)
    tried = [
        Tried(ratios=ratios(row.parameters, row.prior), value=max(-1.0, gain / scale) if scale > 0 else 0.0)
        for row, gain in zip(group.rows, gains, strict=True)
    ]
    best = tuple(i for i, score in enumerate(scores) if score >= max(scores) - noise and gains[i] > 0)
    tried += [one for row in rows if (one := _infeasible(row)) is not None]
    return Judged(worth=worth, tried=tuple(tried), best=best, rate=_rate(tried[: len(scores)], scores, noise))


def thinned(rows: Sequence[TrialRow]) -> tuple[TrialRow, ...]:
    """Of many trials those that say most, in their order."""
    if len(rows) <= PRIORS + TOP + REST:
        return tuple(rows)
    longest = max(row.tokens for row in rows)
    ranked = sorted(
        range(len(rows)),
        key=lambda i: (
            rows[i].score is None,
            rows[i].tokens < SAME_TOKENS * longest,
            -(rows[i].score or 0.0),
            i,
        ),
    )
    own = [i for i in ranked if _is_prior(rows[i])][:PRIORS]
    kept = {*own, *ranked[:TOP], *ranked[-REST:]}
    return tuple(row for i, row in enumerate(rows) if i in kept)


def ratios(parameters: Mapping[str, Any], prior: Mapping[str, Any]) -> dict[str, float]:
    """Logarithms of the numeric settings over the prior's, where both are positive."""
    found = {}
    for name, value in parameters.items():
        base = prior.get(name)
        if _positive(value) and _positive(base):
            found[name] = math.log(float(value)) - math.log(float(base or 1))
    return found


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _group(rows: Sequence[TrialRow]) -> _Group | None:
    """The longest trials of which one had the prior's settings and another had not."""
    scored = [row for row in rows if row.status == "finished" and row.score is not None and row.prior]
    for tokens in sorted({row.tokens for row in scored}, reverse=True):
        group = [row for row in scored if SAME_TOKENS * tokens <= row.tokens <= tokens]
        defaults = [float(row.score or 0.0) for row in group if _is_prior(row)]
        if defaults and len(defaults) < len(group):
            return _Group(rows=group, default=mean(defaults))
    return None


def _is_prior(row: TrialRow) -> bool:
    # A rate keeps three digits: half of the last one is 0.5 %.
    return all(abs(one) < 0.006 for one in ratios(row.parameters, row.prior).values())


def _noise(rows: Sequence[TrialRow], scores: Sequence[float]) -> tuple[float, bool]:
    """Standard error of a difference of two trials' scores, and whether it was measured.

    Both answered the same rows, so it is at most √2 of one's.
    """
    errors = [float(row.stderr) for row in rows if row.stderr]
    if errors:
        return math.sqrt(2) * median(errors), True
    middle = median(scores)
    # Half of what trials differ by: one bad rate among them must not pass for noise, hence the median.
    return median(abs(score - middle) for score in scores) / 2, False


def _shrunk(gain: float, bound: float) -> float:
    """A gain less what noise alone would show: nothing within the bound, nearly all far beyond it."""
    return gain * max(0.0, 1.0 - (bound / gain) ** 2) if gain else 0.0


def _infeasible(row: TrialRow) -> Tried | None:
    """A configuration that failed by its own settings (-1), or was stopped before its end (half as bad)."""
    if not row.prior or not (row.status == "pruned" or (row.status == "failed" and row.symptom in INFEASIBLE)):
        return None
    return Tried(ratios=ratios(row.parameters, row.prior), value=-0.5 if row.status == "pruned" else -1.0)


def _rate(tried: Sequence[Tried], scores: Sequence[float], noise: float) -> tuple[float, float] | None:
    """Mean and variance of the log ratio, each trial weighted by how near the best it came in units of noise."""
    name = "learning_rate"
    pairs = [(one.ratios[name], score) for one, score in zip(tried, scores, strict=True) if name in one.ratios]
    if len({round(ratio, 3) for ratio, _ in pairs}) < 2:
        return None
    top, unit = max(score for _, score in pairs), noise or 1e-12
    weights = [math.exp(max((score - top) / unit, -700.0)) for _, score in pairs]
    total = sum(weights)
    centre = sum(w * ratio for w, (ratio, _) in zip(weights, pairs, strict=True)) / total
    spread = sum(w * (ratio - centre) ** 2 for w, (ratio, _) in zip(weights, pairs, strict=True)) / total
    return centre, spread
