"""`make bench-search`: device-seconds to a good model, ours and the others side by side, replayed on recorded curves.

A replay is a seed and a corpus. Its target: 90 % of the way from a default configuration to the best of 64 random ones
(median of 200 draws), by the mean of the recorded repetitions, while a search sees one repetition. Not there within the
budget counts as censored. `docs/en/curves.md` describes the table.

    python benchmarks/search.py [--seeds 30] [--table FILE] [--out benchmarks/data/search.json] [--only NAME …]
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import search_methods as methods
import search_stats as stats
from search_ground import Ground, Meter, Method, draw_one
from search_ours import adversarial, noise, ours, remembered

from autoswift.engines.curves import SHIPPED, CurveTable

BUDGET = 32.0
"""Default trials' worth of device-seconds of each method; `random_twice` gets double."""
SHARE = 0.9
DRAWS = 200
"""Of 64 random configurations, whose best ones' median is the goal; a fifth for each replay's own permuted optimum."""
RUNGS = (1 / 3, 2 / 3, 4 / 3, 8 / 3)
"""Lengths of our short trials, in default trials: 1, 2, 4 and 8 passes where the default has 3."""
FEW = {"gp": 8, "ours_full": 8}
"""Seeds at most, of one corpus each in turn: they take several seconds a replay."""
TUNED = ("customer", "pydoc")
"""Corpora on which our search was tuned, where the table has them: it is judged on the others."""

KNOWN = 6
"""Default trials that each earlier run of the knowledge base had."""
OURS = ("ours", "ours_full", "ours_knowledge", "ours_adversarial")
METHODS = (
    *OURS, "default_ours", "default_swift", "grid_9", "grid_27", "grid_81", "sweep_8", "random", "random_twice", "tpe",
    "gp", "tpe_hyperband", "asha", "script", "manual", "permuted_ours", "permuted_random", "oracle",
)  # fmt: skip

# (name of the bar, ours, the other, largest ratio of restricted means, against which default)
BARS = (
    ("at most 1/4 of sequential TPE", "ours", "tpe", 0.25),
    ("at most 40 % of the 27-grid", "ours", "grid_27", 0.40),
    ("at most 1/5 of the plain script", "ours", "script", 0.20),
    ("at least 3 times faster than by hand", "ours", "manual", 1 / 3),
    ("optima permuted: still faster than random", "permuted_ours", "permuted_random", 1.0),
    ("adversarial memory: never worse than random", "ours_adversarial", "random", 1.0),
    ("with knowledge at most half of cold", "ours_knowledge", "ours", 0.50),
)


def method(name: str, ground: Ground, seed: int) -> Method:
    """The method of that name on one replay."""
    if name == "ours_knowledge":
        return ours(remembered(ground, seed, KNOWN * ground.unit(), RUNGS), RUNGS)
    if name == "ours_adversarial":
        return ours(adversarial(ground), RUNGS)
    simple: dict[str, Method] = {
        "ours": ours(rungs=RUNGS),
        "ours_patient": ours(rungs=RUNGS, patient=True),
        "ours_full": ours(),
        "permuted_ours": ours(rungs=RUNGS),
        "default_ours": methods.default,
        "default_swift": methods.swift_default,
        "sweep_8": methods.sweep,
        "random": methods.randomly,
        "random_twice": methods.randomly,
        "permuted_random": methods.randomly,
        "script": methods.script,
        "manual": methods.manual,
        "tpe": methods.optuna_search("tpe"),
        "gp": methods.optuna_search("gp"),
        "tpe_hyperband": methods.optuna_search("hyperband"),
        "asha": methods.optuna_search("asha"),
        "oracle": methods.oracle,
    }
    return methods.grid(int(name[5:])) if name.startswith("grid_") else simple[name]


def ground_of(name: str, table: CurveTable, corpus: str, seed: int, per_token: bool) -> Ground:
    """The corpus, its optimum moved where the method is of the permuted control."""
    shift = 0.0
    if name.startswith("permuted"):
        shift = 0.15 + 0.7 * float(np.random.default_rng(seed).random())  # nowhere near where it was
    return Ground(table, corpus, shift, per_token)


@functools.lru_cache(maxsize=2)
def _loaded(path: str) -> CurveTable:
    return CurveTable.load(Path(path))


def replays(job: tuple[str, int, str, bool]) -> list[dict[str, Any]]:
    """One method and seed on its corpora."""
    name, seed, path, per_token = job
    table = _loaded(path)
    corpora = table.corpora
    if name in FEW:
        corpora = [corpora[seed % len(corpora)]]
    return [replay(name, table, corpus, seed, per_token) for corpus in corpora]


def replay(name: str, table: CurveTable, corpus: str, seed: int, per_token: bool = True) -> dict[str, Any]:
    """One replay: the trace of its best model."""
    ground = ground_of(name, table, corpus, seed, per_token)
    unit = ground.unit()
    meter = Meter(ground, seed, BUDGET * unit * (2 if name == "random_twice" else 1))
    goal = _goal(table, corpus, ground.shift)
    wanted = [goal[against] for against in ("ours", "swift") if goal[against] is not None]
    meter.enough = min(wanted, default=meter.enough)
    begin = time.perf_counter()
    method(name, ground, seed)(meter)
    return {
        "method": name, "corpus": corpus, "seed": seed, "shift": ground.shift, "limit": meter.limit, "unit": unit,
        "spent": meter.spent, "trials": meter.trials, "trace": meter.trace, "final": meter.final(),
        "cpu": time.perf_counter() - begin,
    }  # fmt: skip


@functools.lru_cache(maxsize=256)
def _goal(table: CurveTable, corpus: str, shift: float) -> dict[str, Any]:
    return targets(table, corpus, shift)


def targets(table: CurveTable, corpus: str, shift: float) -> dict[str, Any]:
    """What is to be reached from either default; None where the gap is within the noise."""
    ground = Ground(table, corpus, shift)
    best, sigma = ground.best_of_64(DRAWS // 5 if shift else DRAWS), noise(Ground(table, corpus))
    made: dict[str, Any] = {"best_of_64": best, "noise": sigma, "best_in_plan": best_in_plan(ground)}
    for name, one in (("ours", ground.guess()), ("swift", ground.swift())):
        start = min(ground.truth(one, ground.full(one)), float(table.base_nll[table.corpora.index(corpus)]))
        made[name] = start - SHARE * (start - best) if start - best > 2 * sigma else None
        made[f"default_{name}"] = start
    return made


def best_in_plan(ground: Ground) -> float:
    """The best true value in the space that our plan searches: what it cannot go below."""
    space = ground.plan(0, 1, (), ()).search.space
    rate = space.pop("learning_rate")
    draw = random.Random("best-in-plan")  # noqa: S311
    axes = {"learning_rate": (rate["low"], rate["high"])} | {k: v["choices"] for k, v in space.items()}
    rows = [ground.guess() | draw_one(axes, draw) for _ in range(2 * DRAWS)]
    return min(ground.truth(row, share * ground.full(row)) for row in rows for share in RUNGS)


def reached(row: dict[str, Any], target: float) -> float | None:
    """Device-seconds until the target, in default trials; None when not within the budget."""
    at = next((at for at, value in row["trace"] if value <= target), None)
    return at / row["unit"] if at is not None and at <= row["limit"] * (1 + 1e-9) else None


class Summary:
    """Times of all methods against one default's targets."""

    def __init__(
        self, rows: list[dict[str, Any]], goals: dict[tuple[str, float], dict[str, Any]], against: str
    ) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            goal = goals[row["corpus"], row["shift"]]
            if goal[against] is None:
                continue
            at = reached(row, goal[against])
            gap = goal[f"default_{against}"] - goal["best_of_64"]
            closed = (goal[f"default_{against}"] - row["final"]) / gap if np.isfinite(row["final"]) else 0.0
            one = {"seed": row["seed"], "corpus": row["corpus"], "limit": row["limit"] / row["unit"], "reached": at}
            self.rows.setdefault(row["method"], []).append(
                one | {"closed": closed, "spent": row["spent"] / row["unit"]}
            )

    def arrays(self, name: str) -> tuple[Any, Any, list[int]]:
        found = self.rows[name]
        times = np.array([r["limit"] if r["reached"] is None else r["reached"] for r in found])
        return times, np.array([r["reached"] is not None for r in found]), [r["seed"] for r in found]

    def line(self, name: str) -> dict[str, Any]:
        times, there, seeds = self.arrays(name)
        limit = max(r["limit"] for r in self.rows[name])
        mean = stats.restricted_mean(times, there, limit)
        spread = stats.interval(seeds, lambda i: stats.restricted_mean(times[i], there[i], limit))
        middle = stats.median(times, there)
        return {
            "method": name, "replays": len(times), "reached": float(there.mean()),
            "median": middle if np.isfinite(middle) else None, "mean": mean, "interval": spread,
            "closed": float(np.median([r["closed"] for r in self.rows[name]])),
            "spent": float(np.mean([r["spent"] for r in self.rows[name]])),
        }  # fmt: skip

    def ratio(self, ours_name: str, other: str) -> dict[str, Any] | None:
        """Restricted means of the one over the other, on the replays that both have, with its interval."""
        if ours_name not in self.rows or other not in self.rows:
            return None
        a = {(r["seed"], r["corpus"]): r for r in self.rows[ours_name]}
        b = {(r["seed"], r["corpus"]): r for r in self.rows[other]}
        keys = sorted(a.keys() & b.keys())
        x, y = (np.array([r[k]["limit"] if r[k]["reached"] is None else r[k]["reached"] for k in keys]) for r in (a, b))
        spread = stats.interval([k[0] for k in keys], lambda i: float(x[i].mean() / y[i].mean()))
        return {"ratio": float(x.mean() / y.mean()), "interval": spread, "replays": len(keys)}


def bars(summary: Summary) -> list[dict[str, Any]]:
    """Each bar, and whether it is met: by the ratio itself, and surely when its whole interval is under it."""
    made = []
    for words, mine, other, most in BARS:
        found = summary.ratio(mine, other)
        if found is not None:
            verdict = "met" if found["ratio"] <= most else "missed"
            sure = (found["interval"][1] <= most) == (verdict == "met")
            made.append(
                {"bar": words, "ours": mine, "other": other, "most": most, **found, "verdict": verdict, "sure": sure}
            )
    return made


def parts(corpora: Sequence[str]) -> dict[str, list[str]]:
    """Where the search was tuned on some of the corpora: those that it has not seen, then all."""
    held = [c for c in corpora if c not in TUNED]
    return ({"held out": held} if 0 < len(held) < len(corpora) else {}) | {"all": list(corpora)}


def show(summary: Summary, against: str) -> dict[str, Any]:
    """Prints the table of one default."""
    if not summary.rows:
        print(f"\nGap from {against}'s default: within the noise on every corpus.")
        return {}
    print(f"\nTo close {SHARE:.0%} of the gap from {against}'s default to best-of-64 (unit: one default trial)")
    head = f"{'method':18}{'replays':>8}{'there':>7}{'median':>8}{'mean':>7}"
    print(f"{head}  {'95 % interval':15}{'gap closed':>11}{'spent':>7}")
    lines = [summary.line(n) for n in METHODS if n in summary.rows]
    for one in lines:
        middle = f"{one['median']:.1f}" if one["median"] is not None else "never"
        low, high = one["interval"]
        print(
            f"{one['method']:18}{one['replays']:>8}{one['reached']:>7.0%}{middle:>8}{one['mean']:>7.1f}"
            f"  {low:6.1f} – {high:<6.1f}{one['closed']:>11.0%}{one['spent']:>7.1f}"
        )
    found = bars(summary)
    for bar in found:
        low, high = bar["interval"]
        print(
            f"  {bar['bar']:46} {bar['ratio']:.2f} ({low:.2f} – {high:.2f}), bar {bar['most']:.2f}: {bar['verdict']}"
            + ("" if bar["sure"] else ", not for certain")
        )
    return {"methods": lines, "bars": found}


def run(names: list[str], seeds: int, path: Path, per_token: bool, workers: int) -> dict[str, Any]:
    """All replays, and the tables of both defaults."""
    begin = time.perf_counter()
    table = _loaded(str(path))
    jobs = [(n, s, str(path), per_token) for s in range(seeds) for n in names if s < FEW.get(n, seeds)]
    jobs.sort(key=lambda j: j[0] not in FEW)  # the slow ones first
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            rows = [row for part in pool.map(replays, jobs, chunksize=1) for row in part]
    else:
        rows = [row for job in jobs for row in replays(job)]
    cells = sorted({(r["corpus"], r["shift"]) for r in rows})
    goals = {cell: _goal(table, *cell) for cell in cells}
    print(f"table {path.name}: {table.meta['model']}; {seeds} seeds, budget {BUDGET:.0f} default trials")
    for number, corpus in enumerate(table.corpora):
        if (corpus, 0.0) in goals:
            goal, base = goals[corpus, 0.0], table.base_nll[number]
            mine, theirs = goal["default_ours"], goal["default_swift"]
            print(
                f"  {corpus}: base {base:.3f}, our default {mine:.3f}, ms-swift's {theirs:.3f}, "
                f"best of 64 {goal['best_of_64']:.3f}, best in our plan's space {goal['best_in_plan']:.3f}, "
                f"seed noise {goal['noise']:.4f}"
            )
    tables: dict[str, Any] = {}
    for part, corpora in parts(table.corpora).items():
        print(f"\n== {part}: {', '.join(corpora)}")
        for against in ("ours", "swift"):
            summary = Summary([r for r in rows if r["corpus"] in corpora], goals, against)
            tables[against if part == "all" else f"{against}, held out"] = show(summary, against)
    seconds = {n: sum(r["cpu"] for r in rows if r["method"] == n) for n in names}
    print(f"\n{len(rows)} replays in {time.perf_counter() - begin:.0f} s")
    return {
        "table": {"file": path.name, **table.meta}, "seeds": seeds, "budget": BUDGET, "per_token": per_token,
        "goals": [{"corpus": c, "shift": s, **g} for (c, s), g in goals.items() if s == 0.0], "against": tables,
        "cpu_seconds": {n: round(s, 1) for n, s in seconds.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--table", type=Path, default=SHIPPED)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data" / "search.json")
    parser.add_argument("--only", nargs="*", default=list(METHODS))
    parser.add_argument("--recorded-cost", action="store_true", help="cost by the measured seconds of each batch")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    arguments = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # the workers share the cores
    made = run(arguments.only, arguments.seeds, arguments.table, not arguments.recorded_cost, arguments.workers)
    arguments.out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
