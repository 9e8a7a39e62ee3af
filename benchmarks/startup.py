"""How fast the command line answers: `autoswift --help` against a Python that does nothing.

    .venv/bin/python benchmarks/startup.py [--runs 10]

Prints the median seconds of each and their ratio. The bound that the project keeps: --help in under half a second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "pass": ["-c", "pass"],
    "help": ["-m", "autoswift", "--help"],
    "doctor_help": ["-m", "autoswift", "doctor", "--help"],
}
BOUND_SECONDS = 0.5


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
    print(json.dumps(result | {"ratio": round(median["help"] / median["pass"], 1), "bound_seconds": BOUND_SECONDS}))
    return 0 if median["help"] < BOUND_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
