"""Streams of training metrics for tests of detectors: healthy ones of every awkward kind, and broken ones.

`healthy(seed)` and `broken(seed)` answer a `Stream`; the same seed, the same stream. The shapes are exaggerations of
what real trainings do: noise of batches of one row, a curriculum, warm restarts, a high rate's bump, an easy task.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

Point = dict[str, float | None]
Losses = list[float]


@dataclass(slots=True)
class Stream:
    """One training.

    Attributes:
        kind: of its shape. points: metrics of step 1, 2, …
        breaks_at: the first broken step; 0 for a healthy one.
    """

    kind: str
    points: list[Point] = field(default_factory=list)
    breaks_at: int = 0


def healthy(seed: int) -> Stream:
    """A training that ends well."""
    noise = random.Random(f"healthy/{seed}")  # noqa: S311 - a curve, no secret
    kind = list(HEALTHY)[seed % len(HEALTHY)]
    losses = HEALTHY[kind](noise)
    return Stream(kind, [_report(i, loss, len(losses), noise) for i, loss in enumerate(losses)])


def broken(seed: int) -> Stream:
    """A training that breaks at `breaks_at`."""
    noise = random.Random(f"broken/{seed}")  # noqa: S311
    kind = list(BROKEN)[seed % len(BROKEN)]
    shapes = [_power, _jittery] if kind == "leak" else [_power, _jittery, _classes]  # near zero a leak changes nothing
    losses = noise.choice(shapes)(noise)
    while len(losses) < 60:
        losses += [losses[-1] * noise.lognormvariate(0, 0.05) for _ in range(20)]
    at = noise.randint(12, len(losses) - 45)
    points = [_report(i, loss, len(losses), noise) for i, loss in enumerate(losses)]
    BROKEN[kind](points, at, noise)
    return Stream(kind, points, at + 1 if kind not in FROM_START else 1)


def _report(index: int, loss: float, steps: int, noise: random.Random) -> Point:
    warm = max(1, steps // 10)
    rate = min(1.0, (index + 1) / warm) * 0.5 * (1 + math.cos(math.pi * index / steps))
    grown = 1 + 2 * index / steps  # an adapter's gradients grow as its second factor leaves zero
    norm = 0.5 * grown * (0.3 + loss) * noise.lognormvariate(0, 0.35) * (8 if noise.random() < 0.01 else 1)
    return {"loss": loss, "grad_norm": norm, "learning_rate": 1e-3 * rate}


def _falling(noise: random.Random, steps: int | None = None) -> Losses:
    steps = steps or noise.randint(40, 300)
    first, last = noise.uniform(1.2, 4.0), noise.uniform(0.3, 1.0)
    pace, power = noise.uniform(3, 60), noise.uniform(0.3, 1.2)
    return [first * (last + (1 - last) * (1 + i / pace) ** -power) for i in range(steps)]


def _power(noise: random.Random) -> Losses:
    spread = noise.uniform(0.005, 0.1)
    return [x * noise.lognormvariate(0, spread) for x in _falling(noise)]


def _jittery(noise: random.Random) -> Losses:
    """Batches of one or two rows."""
    spread = noise.uniform(0.15, 0.45)
    return [x * noise.lognormvariate(0, spread) for x in _falling(noise)]


def _wandering(noise: random.Random) -> Losses:
    """Neighbouring batches are alike."""
    at, made, keep = 0.0, [], noise.uniform(0.5, 0.9)
    for x in _falling(noise):
        at = keep * at + noise.gauss(0, 0.08)
        made.append(x * math.exp(at))
    return made


def _classes(noise: random.Random) -> Losses:
    """An easy task of few classes, in batches of some rows: soon near zero."""
    steps, pace, spread = noise.randint(60, 250), noise.uniform(5, 30), noise.uniform(0.1, 0.5)
    floor = 10 ** noise.uniform(-3, -1.3)
    return [
        (floor + noise.uniform(0.65, 0.75) * math.exp(-i / pace)) * noise.lognormvariate(0, spread)
        for i in range(steps)
    ]


def _single_rows(noise: random.Random) -> Losses:
    """The same in batches of one row: most are right and cost nothing, some are wrong and cost much."""
    steps, pace = noise.randint(60, 250), noise.uniform(8, 40)
    made = []
    for i in range(steps):
        wrong = noise.random() < 0.08 + 0.5 * math.exp(-i / pace)
        made.append(noise.uniform(0.4, 2.5) if wrong else 10 ** noise.uniform(-4.5, -1.0))
    return [round(x, 4) for x in made] if noise.random() < 0.5 else made


def _rounded(noise: random.Random) -> Losses:
    """An easy task whose trainer rounds to four digits, to the last zero."""
    pace, spread = noise.uniform(4, 15), noise.uniform(0.1, 0.6)
    return [
        round(0.7 * math.exp(-i / pace) * noise.lognormvariate(0, spread), 4) for i in range(noise.randint(60, 200))
    ]


def _curriculum(noise: random.Random) -> Losses:
    """Each stage is harder, and is learned."""
    made, spread = _falling(noise), noise.uniform(0.01, 0.15)
    stage = max(15, len(made) // noise.randint(2, 4))
    harder, pace = noise.uniform(0.1, 0.9), noise.uniform(5, 30)
    bumps = [1 + (harder * math.exp(-(i % stage) / pace) if i >= stage else 0.0) for i in range(len(made))]
    return [x * b * noise.lognormvariate(0, spread) for x, b in zip(made, bumps, strict=True)]


def _restarts(noise: random.Random) -> Losses:
    """A rate that falls and starts again."""
    made, spread = _falling(noise), noise.uniform(0.01, 0.1)
    cycle, lift = max(12, len(made) // noise.randint(2, 6)), noise.uniform(0.05, 0.5)
    shape = [1 + (lift * (1 - (i % cycle) / cycle) ** 2 if i >= cycle else 0.0) for i in range(len(made))]
    return [x * b * noise.lognormvariate(0, spread) for x, b in zip(made, shape, strict=True)]


def _warm_up(noise: random.Random) -> Losses:
    """Nothing happens for long, then it learns."""
    made, wait = _falling(noise), noise.randint(10, 60)
    spread = noise.uniform(0.005, 0.1)
    return [x * noise.lognormvariate(0, spread) for x in [made[0]] * wait + made]


def _high_rate(noise: random.Random) -> Losses:
    """A rate at the edge lifts the loss while it warms up, then lowers it."""
    made, spread = _falling(noise), noise.uniform(0.01, 0.15)
    lift, peak, pace = noise.uniform(0.1, 0.6), noise.randint(3, 12), noise.uniform(4, 15)
    bump = [1 + lift * (i / peak if i < peak else math.exp(-(i - peak) / pace)) for i in range(len(made))]
    return [x * b * noise.lognormvariate(0, spread) for x, b in zip(made, bump, strict=True)]


def _spikes(noise: random.Random) -> Losses:
    """Single batches that cost much, and short bumps after them."""
    made, spread = _falling(noise), noise.uniform(0.01, 0.1)
    lift = 0.0
    for i in range(len(made)):
        lift = noise.uniform(1, 8) if i > 5 and noise.random() < 0.02 else lift * noise.uniform(0.1, 0.6)
        made[i] *= (1 + lift) * noise.lognormvariate(0, spread)
    return made


def _epochs(noise: random.Random) -> Losses:
    """Rows that are seen again cost less at once."""
    made, epoch, kept = _falling(noise), noise.randint(15, 60), noise.uniform(0.45, 0.85)
    return [x * kept ** (i // epoch) * noise.lognormvariate(0, 0.08) for i, x in enumerate(made)]


def _slow(noise: random.Random) -> Losses:
    """A low rate."""
    steps, spread = noise.randint(60, 400), noise.uniform(0.005, 0.2)
    first, fall = noise.uniform(0.8, 3.0), noise.uniform(0.02, 0.15)
    return [first * (1 - fall * i / steps) * noise.lognormvariate(0, spread) for i in range(steps)]


def _mixed(noise: random.Random) -> Losses:
    """Two data sets in small batches: one easy, one hard."""
    easy, share = noise.uniform(0.1, 0.5), noise.uniform(0.2, 0.8)
    return [x * (easy if noise.random() < share else 1.0) * noise.lognormvariate(0, 0.15) for x in _falling(noise)]


def _tides(noise: random.Random) -> Losses:
    """The order of the rows is not quite random."""
    wave, size = noise.uniform(15, 80), noise.uniform(0.05, 0.3)
    return [
        x * (1 + size * math.sin(2 * math.pi * i / wave)) * noise.lognormvariate(0, 0.05)
        for i, x in enumerate(_falling(noise))
    ]


def _short(noise: random.Random) -> Losses:
    """The shortest trials."""
    spread = noise.uniform(0.02, 0.4)
    return [x * noise.lognormvariate(0, spread) for x in _falling(noise, noise.randint(8, 25))]


HEALTHY: dict[str, Callable[[random.Random], Losses]] = {
    "power": _power,
    "jittery": _jittery,
    "wandering": _wandering,
    "classes": _classes,
    "single rows": _single_rows,
    "rounded": _rounded,
    "curriculum": _curriculum,
    "restarts": _restarts,
    "warm-up": _warm_up,
    "high rate": _high_rate,
    "spikes": _spikes,
    "epochs": _epochs,
    "slow": _slow,
    "mixed": _mixed,
    "tides": _tides,
    "short": _short,
}


def _level(points: list[Point], at: int) -> float:
    known = sorted(float(p["loss"] or 0.0) for p in points[max(0, at - 10) : at])
    return max(known[len(known) // 2], 0.2 * float(points[0]["loss"] or 0.0))


def _set(points: list[Point], at: int, loss: Callable[[int], float | None], norm: float = 3.0) -> None:
    for i in range(at, len(points)):
        points[i] |= {"loss": loss(i - at)}
        if (usual := points[i]["grad_norm"]) is not None:
            points[i]["grad_norm"] = usual * norm


def _nan(points: list[Point], at: int, noise: random.Random) -> None:
    value = noise.choice([None, math.nan, math.inf])
    _set(points, at, lambda _: value)


def _bad_gradients(points: list[Point], at: int, noise: random.Random) -> None:
    value = noise.choice([None, math.inf, math.nan])
    for point in points[at:]:
        point["grad_norm"] = value


def _zero(points: list[Point], at: int, noise: random.Random) -> None:
    del noise
    _set(points, at, lambda _: 0.0)


def _jump(points: list[Point], at: int, noise: random.Random) -> None:
    to, spread = _level(points, at) * noise.uniform(3.0, 8.0), noise.uniform(0.02, 0.2)
    _set(points, at, lambda _: to * noise.lognormvariate(0, spread))


def _growth(points: list[Point], at: int, noise: random.Random) -> None:
    base, pace, spread = _level(points, at), noise.uniform(1.12, 1.6), noise.uniform(0.01, 0.08)
    _set(points, at, lambda i: base * min(pace ** (i + 1), 1e4) * noise.lognormvariate(0, spread))


def _swinging(points: list[Point], at: int, noise: random.Random) -> None:
    base, pace = _level(points, at), noise.uniform(1.15, 1.4)
    _set(points, at, lambda i: base * abs(1 + (-1) ** i * min(0.15 * pace**i, 50.0)) * noise.lognormvariate(0, 0.05))


def _creeping(points: list[Point], at: int, noise: random.Random) -> None:
    base, pace, spread = _level(points, at), noise.uniform(1.01, 1.05), noise.uniform(0.01, 0.1)
    _set(points, at, lambda i: base * pace ** (i + 1) * noise.lognormvariate(0, spread))


def _frozen(points: list[Point], at: int, noise: random.Random) -> None:
    del at
    first, spread = float(points[0]["loss"] or 1.0), noise.uniform(0.01, 0.2)
    for point in points:
        point |= {"loss": first * noise.lognormvariate(0, spread), "grad_norm": 0.0}


def _blown(points: list[Point], at: int, noise: random.Random) -> None:
    """A rate far too high: lost within the first steps."""
    del at
    first, to, pace = noise.uniform(1.0, 4.0), noise.uniform(2.0, 6.0), noise.uniform(1, 3)
    for i, point in enumerate(points):
        grown = first * (to - (to - 1) * math.exp(-i / pace)) * noise.lognormvariate(0, 0.08)
        point |= {"loss": grown, "grad_norm": 20.0 * noise.lognormvariate(0, 0.5)}


def _leak(points: list[Point], at: int, noise: random.Random) -> None:
    low = _level(points, at) * noise.uniform(0.001, 0.01)
    _set(points, at, lambda _: low * noise.lognormvariate(0, 0.3), 0.05)


BROKEN: dict[str, Callable[[list[Point], int, random.Random], None]] = {
    "nan": _nan,
    "gradients": _bad_gradients,
    "zero": _zero,
    "jump": _jump,
    "growth": _growth,
    "swings": _swinging,
    "creeping": _creeping,
    "frozen": _frozen,
    "blown at the start": _blown,
    "leak": _leak,
}

FROM_START = ("frozen", "blown at the start")
"""Kinds that are broken from the first step on."""
