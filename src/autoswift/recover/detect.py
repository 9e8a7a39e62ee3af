"""What a stream of training metrics says while it flows: is this training broken, or about to break?

Pure: fed one report at a time, no clock and no file. A broken training is to be seen within ten steps of its break, and
a healthy one never stopped: losses of small batches jump, high rates lift the loss before they lower it, a curriculum
makes it harder, warm restarts throw it back, an easy task ends near zero. So nothing is decided by one value: a change
counts when the reports after it are all apart from those before, by a size that healthy trainings do not show.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from autoswift.recover.gradients import Gradients, median

STAYS = 8
"""Reports that a change must last: of ten steps until it must be known, two are left for one outlier among them."""

BEFORE = 24
"""Reports before them that make the level they are compared with: long against the noise, short against learning."""

LEAST = 8
"""Of those, at least: from fewer neither level nor noise is known."""

HISTORY = 64
"""Reports whose noise is remembered: of a noise with rare high values (batches of one row) 24 may show none."""

USUAL = 0.9
"""Share of the past reports that were nearer to their level than a change must be: eight reports in a row beyond it,
one left out, are noise once in a million windows."""

JUMPED = 2.4
"""Times the level before at which a lasting rise is a divergence. Warm restarts raise a loss by a tenth to a half, the
step of a curriculum at most to twice; where a training breaks it loses most of what it had learned."""

RECOVERS = 0.85
"""A rise whose last reports are below this share of its first ones is being learned away: a harder part of the data, or
a high rate's bump. The rise of a broken training stays or grows."""

LASTING = 0.6
"""And no one of the last four is below this share of the first four: between two spikes it would be."""

OF_START = 0.1
"""Share of the first loss that any rise must exceed: near zero a loss may grow a hundredfold and mean nothing."""

GREW = 2.2
"""Times the level before that a rise must reach when it grows from report to report: it is on its way to JUMPED."""

RISING = 0.8
"""Share of the pairs of the last ten reports, and of the last five (a step up is no growth), in which the later is
higher: a Kendall's tau of 0.6."""

ABOVE_START = 1.7
"""Times the first loss at which a training that never learned is a divergence: at step 0 an adapter is the base model,
so training that works does not stay so far above where it began. A high rate's bump reaches 1.6."""

BARELY = 1.5
"""Times the first loss below which no report may fall meanwhile: noise around the first loss does."""

WORSE = 1.1
"""Times the first loss at which a training is given up when, long after its first steps, it is still above it and does
not fall: the collapsed model has learned no more than how often each token occurs, which costs little more than the
base does."""

IMPROVES = 0.97
"""A loss whose last reports are below this share of the earlier ones of the same window still falls."""

SWINGS = 1.5
"""Times the usual step-to-step change, and more than any before, when that is a large part of the loss too: an
oscillation that grows."""

SWINGS_GROW = 1.3
"""Times the swings of the four reports before that those of the last four must be: two data sets taking turns swing
too, but not ever more."""

SWING_SIZE = 0.25
"""Share of the level before that those changes must make, and of the first loss: more than all that was learned of
late."""

FELL = 0.03
"""Share of the level before to which a loss falls from one report to the next, and stays, when answers leak into the
questions or labels are masked: learning, even of an easy task, takes more than one step to get there."""

NANS = 3
"""Losses in a row that are no numbers although their gradients are: one batch of rows without an answer is one such."""

ZEROS = 3
"""Losses of exactly 0.0 in a row, after losses that were not small: one may be a rounded one."""

SMALL = 1e-3
"""A loss below this may be shown as 0.0 by a trainer that rounds to four digits soon after."""

SAME = 10
"""Equal losses, to the last digit, in a row: two batches differ even where nothing is learned, unless nothing runs."""

NO_GRADIENT = 1e-8
"""A gradient norm that is none: Adam's epsilon. ZERO_GRADIENTS of them in a row while there is a loss train nothing."""

ZERO_GRADIENTS = 5

PLATEAU_REPORTS = 100
"""Reports at full rate before a training is said not to learn: the first tens teach a low rate little."""

PLATEAU = 0.005
"""Share of the first loss within which it must have stayed by then, three standard errors of its noise included."""

SPIKE = 5.0
"""Times the highest loss of the reports before, and twice the first, for a report that is told of and forgotten."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a stream shows.

    Attributes:
        symptom: by its name in symptoms.yaml. step: at which it was seen.
        evidence: the figures, in words. fatal: the training is broken; a warning otherwise.
    """

    symptom: str
    step: int
    evidence: str
    fatal: bool = True


class Watch:
    """Watches one training.

    Args:
        continued: it goes on from a checkpoint, so that its first reports are no beginning.
    """

    def __init__(self, *, continued: bool = False) -> None:
        self._gradients = Gradients()
        self._losses: deque[float] = deque(maxlen=HISTORY + STAYS + 2)
        self._ratios: deque[float] = deque(maxlen=HISTORY + STAYS + 2)
        self._changes: deque[float] = deque(maxlen=HISTORY + STAYS + 2)
        self._real: deque[float] = deque(maxlen=BEFORE)
        self._start: list[float] = []
        self._early: list[float] = []
        self._late: deque[float] = deque(maxlen=PLATEAU_REPORTS // 3)
        self._nans = self._full = self._zeros = self._same = self._no_gradient = 0
        self._lowest = self._best = math.inf
        self._rate = 0.0
        self._continued = continued
        self._told: set[tuple[str, bool]] = set()

    def take(self, step: int, metrics: Mapping[str, float | None]) -> list[Finding]:
        """Takes one report and answers what it shows for the first time.

        Args:
            step: of the training.
            metrics: `loss`, and where known `grad_norm`, `learning_rate`; None or NaN: not a finite number.
        """
        if "loss" not in metrics:
            return []
        loss = metrics["loss"]
        if loss is None or not math.isfinite(loss):
            return self._tell(self._not_a_number(step, metrics))
        self._nans = 0
        found = self._by_gradient(step, loss, metrics)
        found += self._by_zero(step, loss)
        self._keep(loss, metrics)
        for symptom, words in self._by_level():
            found.append(Finding(symptom, step, words, fatal=symptom == "divergence"))
        return self._tell(found)

    def _not_a_number(self, step: int, metrics: Mapping[str, float | None]) -> list[Finding]:
        """A row whose answer was cut off has no loss at all, and a gradient of zero that harms nothing."""
        self._nans += 1
        norm = metrics.get("grad_norm")
        harmless = norm is not None and math.isfinite(norm) and self._nans < NANS
        words = f"the loss is not a finite number; the gradient norm is {norm}"
        return [Finding("nan", step, words, fatal=not harmless)]

    def _tell(self, found: list[Finding]) -> list[Finding]:
        fresh = [f for f in found if (f.symptom, f.fatal) not in self._told]
        self._told.update((f.symptom, f.fatal) for f in fresh)
        return fresh

    def _keep(self, loss: float, metrics: Mapping[str, float | None]) -> None:
        if self._losses:
            level = median(list(self._losses)[-STAYS:])
            self._ratios.append(loss / level if level > 0 else 1.0)
            self._changes.append(abs(loss - self._losses[-1]))
        self._losses.append(loss)
        if loss != 0.0:
            self._real.append(loss)
        if len(self._start) < STAYS:
            self._start.append(loss)
        if len(self._losses) >= STAYS:
            self._best = min(self._best, median(list(self._losses)[-STAYS:]))
        if len(self._losses) >= BEFORE:
            self._lowest = min(self._lowest, _level(list(self._losses)[-BEFORE:]))
        rate = metrics.get("learning_rate")
        rising = rate is not None and rate > self._rate
        self._rate = max(self._rate, rate or 0.0)
        if not rising and rate != 0.0:
            self._full += 1
            self._late.append(loss)
            if len(self._early) < PLATEAU_REPORTS // 3:
                self._early.append(loss)

    def _by_gradient(self, step: int, loss: float, metrics: Mapping[str, float | None]) -> list[Finding]:
        if "grad_norm" not in metrics:
            return []
        norm, found = metrics["grad_norm"], []
        growth = self._gradients.take(norm)
        if self._gradients.lost:
            found.append(Finding("nan_gradient", step, f"{self._gradients.broken} gradients in a row are not finite"))
        if growth is not None:
            words = f"the gradient norm is {growth:.0f} times its usual value"
            found.append(Finding("gradients_growing", step, words, fatal=False))
        idle = norm is not None and norm <= NO_GRADIENT and loss > SMALL and metrics.get("learning_rate") != 0.0
        self._no_gradient = self._no_gradient + 1 if idle else 0
        if self._no_gradient >= ZERO_GRADIENTS:
            found.append(Finding("flat", step, f"the gradient has been zero for {self._no_gradient} reports"))
        return found

    def _by_zero(self, step: int, loss: float) -> list[Finding]:
        same = bool(self._losses) and self._losses[-1] == loss and loss > SMALL
        self._same = self._same + 1 if same else 0
        self._zeros = self._zeros + 1 if loss == 0.0 else 0
        if self._same >= SAME - 1:
            return [Finding("flat", step, f"the loss has been exactly {loss} for {SAME} reports")]
        if self._zeros == ZEROS and min(self._real, default=1.0) > SMALL:
            return [Finding("zero_loss", step, f"the loss has been exactly 0 for {self._zeros} reports")]
        return []

    def _by_level(self) -> list[tuple[str, str]]:
        """What the levels before and after a possible break show."""
        losses = list(self._losses)
        now, before = losses[-STAYS:], losses[:-STAYS][-BEFORE:]
        if len(now) < STAYS or self._scale() <= 0:  # a loss that may be negative has no levels to compare
            return []
        found = []
        words = self._above_start(losses) or self._worse(losses)
        if len(before) >= LEAST:
            words = words or self._jumped(now, before) or self._grew(losses) or self._swings(now, before)
            if self._fell(now, before):
                drop = f"the loss fell from {median(before[-5:]):.4g} to {median(now):.4g} at once"
                found.append(("under_floor", drop))
        if words:
            found.append(("divergence", words))
        for symptom, told in (("spike", self._spiked(losses)), ("plateau", self._plateau())):
            if told:
                found.append((symptom, told))
        return found

    def _enough(self, level: float, base: float) -> bool:
        return level - base > OF_START * self._scale()

    def _scale(self) -> float:
        """What a loss of this training is at its beginning."""
        return sum(self._start) / len(self._start)

    def _jumped(self, now: list[float], before: list[float]) -> str:
        base, level = _level(before), _level(now)
        usual = _share(list(self._ratios)[:-STAYS])
        stays, low = _stays(now), sorted(now)[1]
        if len(before) < BEFORE:  # too few to know how far the noise reaches
            usual, low = max(before) / median(before), min(now)
        if stays and low > usual * median(before) and level > JUMPED * base and self._enough(level, base):
            return f"the loss rose from {base:.4g} to {level:.4g} and stays there"
        crept = low > usual * self._lowest and level > JUMPED * self._lowest and level > base
        if stays and crept and self._enough(level, self._lowest):
            return f"the loss crept up from {self._lowest:.4g} to {level:.4g}"
        return ""

    def _grew(self, losses: list[float]) -> str:
        last, before = losses[-10:], losses[:-10][-BEFORE:]
        if len(before) < LEAST:
            return ""
        base, level = _level(before), median(last[-3:])
        usual = _share(list(self._ratios)[:-10])
        rising = all(_rising(part) >= RISING for part in (last, last[-5:]))
        if rising and min(last[-5:]) > usual * median(before) and level > GREW * base and self._enough(level, base):
            return f"the loss grows from step to step: from {base:.4g} to {level:.4g}"
        return ""

    def _above_start(self, losses: list[float]) -> str:
        """Lost within its first steps: what it began with is one report, or four."""
        if self._continued or not STAYS + 2 <= len(losses) <= BEFORE:
            return ""
        now = losses[-STAYS:]
        noise = 1.5 * median([abs(b - a) for a, b in pairwise(now)])
        stays, level = _stays(now), median(now)
        for start, least in ((losses[0], min(losses[2:])), (median(losses[:4]), min(now))):
            known = start > 100 * SMALL  # one row that is right by luck is no beginning
            if known and stays and level > ABOVE_START * start and least > BARELY * start and level > start + 3 * noise:
                return f"the loss stays at {level:.4g}, above the {start:.4g} that it began with"
        return ""

    def _worse(self, losses: list[float]) -> str:
        """Worse than the base, all the time, and no better than before."""
        window, start = losses[-BEFORE:], sum(self._start[:2]) / 2
        learned = self._best < IMPROVES * start  # then it is the data that grew harder
        if self._continued or len(losses) < BEFORE + STAYS or learned or min(window) < start:
            return ""
        level, noise = _level(window), 1.5 * median([abs(b - a) for a, b in pairwise(window)])
        lasts = _level(window[-STAYS:]) > IMPROVES * _level(window[:STAYS])
        if lasts and start > 100 * SMALL and level > WORSE * start and level > start + 3 * noise:
            return f"the loss is {level:.4g} for {BEFORE} reports, worse than the {start:.4g} that it began with"
        return ""

    def _swings(self, now: list[float], before: list[float]) -> str:
        base, changes = median(before), list(self._changes)
        steps = [b - a for a, b in pairwise([before[-1], *now])]
        turns = sum(a * b < 0 for a, b in pairwise(steps))
        sizes = [abs(c) for c in steps]
        size, grows = sorted(sizes)[2], median(sizes[4:]) > SWINGS_GROW * median(sizes[:4])
        each = turns >= STAYS - 2  # up and down at every report: noise does so seldom, and two spikes never
        if len(changes) < BEFORE + STAYS:
            return ""
        usual = max(SWINGS * _share(changes[:-STAYS]), *changes[:-STAYS])
        if each and grows and size > usual and size > SWING_SIZE * max(base, self._scale()):
            return f"the loss swings by {size:.4g} from step to step, about {base:.4g}"
        return ""

    def _fell(self, now: list[float], before: list[float]) -> bool:
        base = median(before)
        at_once = now[0] < FELL * base and before[-1] > base / 3
        return at_once and max(now) < FELL * base and base > 100 * SMALL

    def _spiked(self, losses: list[float]) -> str:
        before, high, after = losses[:-3], losses[-3], losses[-2:]
        if len(before) >= LEAST and high > max(SPIKE * max(before), 2 * self._scale()) and max(after) < high / 2:
            return f"one loss of {high:.4g} among losses below {max(before):.4g}"
        return ""

    def _plateau(self) -> str:
        if self._continued or self._full != PLATEAU_REPORTS:
            return ""
        early, late = self._early, list(self._late)
        first, last = sum(early) / len(early), sum(late) / len(late)
        error = math.hypot(*(_spread(part) / math.sqrt(len(part)) for part in (early, late)))
        if abs(first - last) + 3 * error < PLATEAU * first:
            return f"the loss was {first:.4g} at first and is {last:.4g} after {self._full} reports"
        return ""


def _stays(now: list[float]) -> bool:
    """Whether a rise is not being learned away, nor made of two spikes."""
    return median(now[-3:]) > RECOVERS * median(now[:3]) and min(now[-4:]) > LASTING * median(now[:4])


def _level(values: list[float]) -> float:
    """The mean without a tenth at either end: of two kinds of batches a median would be the one or the other."""
    cut = max(1, len(values) // 10)
    kept = sorted(values)[cut:-cut]
    return sum(kept) / len(kept)


def _share(values: list[float]) -> float:
    """The value that USUAL of the given ones do not exceed; the highest of a few."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(USUAL * len(ordered)))]


def _rising(values: list[float]) -> float:
    """Share of the pairs in which the later value is higher."""
    pairs = [later > first for i, first in enumerate(values) for later in values[i + 1 :]]
    return sum(pairs) / len(pairs)


def _spread(values: list[float]) -> float:
    """Standard deviation."""
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1))
