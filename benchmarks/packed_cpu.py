"""The demo's search on this machine: a process per trial against trials that share one resident worker.

    .venv/bin/python benchmarks/packed_cpu.py [--tiny] [--trials 3] [--rounds 1] [--keep FOLDER] [options of run]

Both searches are of the same sentence, data, plan and seed; only `trial_packing` differs. They run one after the other,
the order changing from round to round, each until its search is over. Prints for each the seconds of the search, of its
first trial and of the others, and then the ratio. `--tiny` takes the tests' model of three million weights.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SENTENCE = "让客服机器人学会处理退货咨询"
WAYS = {"process": "0", "worker": "1"}
"""By the value of trial_packing."""
LONGEST = 3600.0
"""Seconds that one search may take."""


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal."""
    return [json.loads(row) for row in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def processors() -> float:
    """Seconds that the processors have spent on children that ended: less touched by what else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def search(way: str, folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """One search: its seconds, those of its trials, the processors' seconds of the whole, and the best loss."""
    before = processors()
    run = folder / "run"
    argv = [sys.executable, "-m", "autoswift", "run", SENTENCE, "--out", str(run), "--yes", "--target", "none"]
    argv += ["--data", str(ROOT / "examples" / "customer_chat.json"), "--budget-trials", str(arguments.trials)]
    argv += ["--set", f"trial_packing={WAYS[way]}"]
    argv += arguments.more
    if arguments.tiny:
        sys.path.insert(0, str(ROOT / "tests"))
        from support import SMALL, tiny_model

        argv += ["--model", str(tiny_model()), *SMALL]
    env = os.environ | {"AUTOSWIFT_HOME": str(arguments.home), "HF_HUB_OFFLINE": "1"}
    with (folder / "log").open("wb") as log:
        owner = subprocess.Popen(argv, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    end = time.monotonic() + LONGEST
    stages: dict[str, float] = {}
    try:
        while "finished" not in stages and owner.poll() is None and time.monotonic() < end:
            time.sleep(0.5)
            events = [e for e in lines(run / "events.jsonl") if e["kind"] == "stage" and e["stage"] == "search"]
            stages = {e["state"]: e["time"] for e in events}
    finally:  # what follows the search is the same for both
        owner.send_signal(signal.SIGINT)
        owner.wait(120)
    if "finished" not in stages:
        raise SystemExit((folder / "log").read_text(encoding="utf-8", errors="replace")[-3000:])
    ended = [r for r in lines(run / "trials.jsonl") if r["event"] == "ended"]
    starts = [r["time"] for r in lines(run / "trials.jsonl") if r["event"] == "started"]
    spans = [row["time"] - begin for row, begin in zip(ended, starts, strict=True)]
    return {
        "search": stages["finished"] - stages["started"],
        "first trial": spans[0],
        "further trial": statistics.mean(spans[1:]) if len(spans) > 1 else spans[0],
        "processors": processors() - before,
        "nll": min(row["outcome"]["metrics"]["nll"] for row in ended),
    }


def main() -> int:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    arguments, more = parser.parse_known_args()
    arguments.more = more
    with tempfile.TemporaryDirectory() as temporary:
        place = arguments.keep or Path(temporary)
        arguments.home = place / "home"
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for number in range(arguments.rounds):
            for way in list(WAYS) if number % 2 == 0 else reversed(WAYS):
                folder = place / f"{number}-{way}"
                folder.mkdir(parents=True)
                one = search(way, folder, arguments)
                found[way].append(one)
                shown = ", ".join(
                    f"{name} {value:.3f}" if name == "nll" else f"{name} {value:.1f} s" for name, value in one.items()
                )
                print(f"round {number + 1}, {way}: {shown}; load {os.getloadavg()[0]:.1f}", flush=True)
    middle = {way: statistics.median(one["search"] for one in rows) for way, rows in found.items()}
    busy = {way: statistics.median(one["processors"] for one in rows) for way, rows in found.items()}
    print(
        f"search: {middle['process']:.1f} s with a process per trial, {middle['worker']:.1f} s with a resident worker"
    )
    print(f"ratio: {middle['process'] / middle['worker']:.2f}")
    print(f"ratio of the processors' seconds, planning included: {busy['process'] / busy['worker']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
