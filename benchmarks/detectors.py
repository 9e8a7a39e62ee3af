"""How often healthy streams of training metrics raise an alarm, and how soon broken ones do.

`python benchmarks/detectors.py [--streams 1600] [--seed 0]`: made streams (autoswift.testing.streams) of every awkward
shape, and every training of the shipped table of curves. No device.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from autoswift.engines.curves import CurveTable
from autoswift.recover.detect import Finding, Watch
from autoswift.testing.streams import BROKEN, HEALTHY, Point, broken, healthy


def found(points: Iterable[Point]) -> list[Finding]:
    """What is seen, up to the first fatal finding."""
    watch, made = Watch(), list[Finding]()
    for step, point in enumerate(points, 1):
        made += watch.take(step, point)
        if any(f.fatal for f in made):
            break
    return made


def healthy_ones(first: int, streams: int) -> None:
    """False alarms and warnings by kind."""
    alarms, warnings = Counter[str](), Counter[str]()
    for seed in range(first, first + streams):
        stream = healthy(seed)
        for one in found(stream.points):
            (alarms if one.fatal else warnings)[f"{stream.kind}: {one.symptom}"] += 1
    total = sum(alarms.values())
    print(f"healthy, {len(HEALTHY)} kinds: {total} false alarms in {streams} streams ({total / streams:.2%})")
    print(f"  alarms {dict(alarms)}\n  warnings {dict(warnings)}")


def broken_ones(first: int, streams: int) -> None:
    """Delays by kind."""
    delays, early = defaultdict[str, list[int]](list), Counter[str]()
    for seed in range(first, first + streams):
        stream = broken(seed)
        seen = [f.step - stream.breaks_at + 1 for f in found(stream.points) if f.fatal or f.symptom == "under_floor"]
        early[stream.kind] += bool(seen and seen[0] < 1)
        delays[stream.kind] += [d for d in seen[:1] if d >= 1]
    print(f"{'broken':20} {'seen':>9} {'in 10':>6} {'median':>7} {'95 %':>5} {'most':>5} {'too early':>10}")
    for kind in BROKEN:
        one, made = sorted(delays[kind]), streams // len(BROKEN)
        middle, most = one[len(one) // 2], one[int(len(one) * 0.95)]
        soon = sum(d <= 10 for d in one)
        print(f"{kind:20} {len(one):4}/{made:4} {soon:6} {middle:7} {most:5} {one[-1]:5} {early[kind]:10}")


def table() -> None:
    """The trainings of the shipped table, at their recorded points and as trials of 40 and 120 steps."""
    curves = CurveTable.load()
    for steps in (0, 40, 120):
        counts = Counter[str]()
        for number, corpus in enumerate(curves.corpora):
            base, ends = float(curves.base_nll[number]), curves.curves["averaged"][number, :, :, -1]
            gain = (base - ends) / (base - np.nanmin(ends))
            for (row, seed), share in np.ndenumerate(gain):
                one = curves.curve(corpus, int(row), int(seed), "train")
                at = [float(one.tokens[-1]) * n / steps for n in range(1, steps + 1)]
                points: list[Point] = [{"loss": one.at(t)} for t in at] or [{"loss": float(v)} for v in one.values]
                kind = "best" if share >= 0.9 else "good" if share >= 0.25 else "diverged" if share < -1 else "poor"
                counts[kind] += 1
                counts[f"{kind} stopped"] += any(f.fatal for f in found(points))
        print(f"table at {steps or 15} points: {dict(sorted(counts.items()))}")


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    healthy_ones(options.seed, options.streams)
    broken_ones(options.seed, options.streams)
    table()


if __name__ == "__main__":
    main()
