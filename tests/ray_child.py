"""Programs that the tests of the Ray executor start.

`python ray_child.py nodes COUNT` runs a cluster of that many one-core nodes on this machine and prints
{address, nodes: [id, …]}; a line `kill ID` on stdin kills that node's process; the end of stdin ends the cluster.
`python ray_child.py search FOLDER TRIALS PAUSE EXECUTOR` runs a search in a run folder, as an owner of a run does.
`python ray_child.py knock ADDRESS` tries to join a cluster and prints what it was told.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path


def nodes(count: int) -> None:
    from ray.cluster_utils import Cluster

    checks = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_timeout_ms": 2000}
    common = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    head = common | {"_system_config": checks | {"health_check_failure_threshold": 3}}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(count - 1):
        cluster.add_node(**{k: v for k, v in common.items() if k != "include_dashboard"})
    ids = {node.node_id: node for node in cluster.list_all_nodes()}
    print(json.dumps({"address": cluster.address, "nodes": list(ids)}), flush=True)
    for line in sys.stdin:
        cluster.remove_node(ids[line.split()[1]], allow_graceful=False)
        print("killed", flush=True)
    cluster.shutdown()


def search(folder: Path, trials: int, pause: float, executor: str) -> None:
    from autoswift.domain.budget import Budget
    from autoswift.domain.profile import Device
    from autoswift.run.clock import RunClock
    from autoswift.run.journal import RunJournal
    from autoswift.run.plugins import load
    from autoswift.run.process import reap
    from autoswift.search.history import rebuild
    from autoswift.search.searcher import Search
    from unit.paced_engine import PacedEngine, context
    from unit.plans import make_plan

    reap(folder)
    plan = make_plan(trials=trials)
    plan = replace(plan, search=replace(plan.search, ray_address=os.environ.get("TEST_RAY_ADDRESS", "")))
    budget, journal = Budget(trials=trials), RunJournal(folder)
    runner = load("executors", executor)(Device(kind="cpu", name="test"), RunClock(budget), "en")
    engine = PacedEngine(context(folder, pause=pause))
    outcome = runner.run(Search(plan, rebuild(journal.trials())), engine, plan, budget, journal)
    print(json.dumps({"best": outcome.best, "reason": outcome.reason, "trials": len(outcome.outcomes)}), flush=True)


def knock(address: str) -> None:
    import ray

    try:
        ray.init(address=address, logging_level="error", log_to_driver=False)
        print("let in")
    except Exception as exc:  # whatever it is, the test reads its name
        print(type(exc).__name__, str(exc)[:200])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    what, *rest = sys.argv[1:]
    if what == "nodes":
        nodes(int(rest[0]))
    elif what == "search":
        search(Path(rest[0]), int(rest[1]), float(rest[2]), rest[3])
    else:
        knock(rest[0])
