"""What a search costs beside its trials, at a real clock, and how long a proposal takes.

    python benchmarks/orchestration.py [--trials 5] [--seconds 12]

The simulated engine takes `--seconds` for a trial of as many reports as a trial of 60 s gives (one in 1.5 s); what the
search takes longer, and the CPU time of its process, is told for each trial and as a share of 60 s: the bound is 1 %. A
proposal after 200 trials is to take half a second at most.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parent / "tests")]

from autoswift.domain.budget import Budget  # noqa: E402
from autoswift.domain.profile import Device  # noqa: E402
from autoswift.domain.trial import Outcome  # noqa: E402
from autoswift.engines.simulated import SimulatedEngine  # noqa: E402
from autoswift.run.clock import RunClock  # noqa: E402
from autoswift.run.journal import RunJournal  # noqa: E402
from autoswift.search.executors.local import LocalExecutor  # noqa: E402
from autoswift.search.searcher import Search  # noqa: E402
from unit.plans import make_plan  # noqa: E402

SIMULATED_SECONDS = 40.0
"""Of a trial of the example plan, in 40 steps."""
TRIAL, BOUND, PROPOSAL = 60.0, 0.01, 0.5
SPACE = {
    "learning_rate": {"low": 6e-5, "high": 1.5e-3, "log": True, "prior": 3e-4},
    "effective_batch_size": {"choices": [2, 4, 8, 16], "prior": 4},
    "lora_rank": {"choices": [8, 16, 32], "prior": 16},
}


def beside(trials: int, seconds: float) -> tuple[float, float]:
    """Wall-clock and CPU seconds a trial that the search takes beside it."""
    plan, budget = make_plan(trials=trials), Budget(trials=trials)
    engine = SimulatedEngine(Path(tempfile.mkdtemp()), time_scale=seconds / SIMULATED_SECONDS)
    executor = LocalExecutor(Device(kind="cpu", name="cpu"), RunClock(budget), "en")
    wall, cpu = time.perf_counter(), time.process_time()
    found = executor.run(Search(plan), engine, plan, budget, RunJournal(Path(tempfile.mkdtemp())))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    trained = sum(one.metrics.get("seconds") or seconds for one in found.outcomes.values())
    count = len(found.outcomes)
    return (wall - trained) / count, cpu / count


def proposals(count: int) -> list[float]:
    """CPU seconds of each of so many proposals, on a bowl over the rate."""
    searcher, took = Search(make_plan(trials=2 * count, space=SPACE)), []
    for _ in range(count):
        begin = time.process_time()
        one = searcher.ask(1)[0]
        took.append(time.process_time() - begin)
        nll = 1 + 0.2 * math.log10(one.parameters["learning_rate"] / 8e-4) ** 2
        metrics: dict[str, float | None] = {"chrf": 100 * math.exp(-nll), "chrf_stderr": 0.5, "nll": nll}
        searcher.done(one.number, Outcome(status="finished", metrics=metrics, artifact="a"))
    return took


def main() -> int:
    """Prints one JSON object; 1 when a bound is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=12.0)
    asked = parser.parse_args()
    wall, cpu = beside(asked.trials, asked.seconds)
    took = proposals(200)
    result = {
        "trials": asked.trials,
        "wall_seconds_a_trial": round(wall, 3),
        "cpu_seconds_a_trial": round(cpu, 3),
        "share_of_60_s": round(max(wall, cpu) / TRIAL, 4),
        "proposal_cpu_seconds": {str(n): round(took[n - 1], 3) for n in (20, 60, 100, 150, 200)},
        "bounds": {"share_of_60_s": BOUND, "proposal_cpu_seconds": PROPOSAL},
    }
    print(json.dumps(result))
    return 0 if max(wall, cpu) / TRIAL <= BOUND and took[-1] <= PROPOSAL else 1


if __name__ == "__main__":
    sys.exit(main())
