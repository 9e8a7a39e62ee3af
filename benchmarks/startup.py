"""How fast the command line answers: `autoswift --help` and a whole plan against a Python that does nothing.

    .venv/bin/python benchmarks/startup.py [--runs 10]

Prints the median seconds of each, and how much longer the help takes than the Python. The bounds that the project
keeps: --help in under half a second, a plan with its data file and its counterfactuals in under two.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {
    "pass": ["-c", "pass"],
    "help": ["-m", "autoswift", "--help"],
    "doctor_help": ["-m", "autoswift", "doctor", "--help"],
    "plan": [
        *("-m", "autoswift", "plan", "让客服机器人学会处理退货咨询", "--json"),
        *("--data", str(ROOT / "examples" / "customer_chat.json")),
        *("--hardware", str(ROOT / "tests" / "probes" / "rtx4090.json")),
    ],
}
BOUNDS = {"help": 0.5, "plan": 2.0}
"""Seconds."""


def seconds(arguments: list[str]) -> float:
    """Wall-clock of one start."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> int:
    """Measures in turn, so that a busy moment hits all alike; the first round warms the disk and is left out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    measured: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs + 1):
        for name, arguments in COMMANDS.items():
            measured[name].append(seconds(arguments))
    median = {name: statistics.median(values[1:]) for name, values in measured.items()}
    result = {f"{name}_seconds": round(value, 3) for name, value in median.items()}
    print(json.dumps(result | {"ratio": round(median["help"] / median["pass"], 1), "bounds": BOUNDS}))
    return 0 if all(median[name] < bound for name, bound in BOUNDS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
