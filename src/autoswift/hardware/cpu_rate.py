"""How fast this machine's CPU multiplies: measured, and kept in the cache.

Measured with one thread and with all, since on shared or virtual cores more threads can be slower than one.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from autoswift.errors import AutoSwiftError
from autoswift.run.files import dumps, write_atomic
from autoswift.run.places import cache_folder, child_environment

PROGRAM = Path(__file__).with_name("children") / "sgemm.py"
SIZE = 1024
"""Rows of the square matrices: large enough for the rate to be flat, about 20 ms a product on one AVX2 core."""
SECONDS = 0.2
"""Of measuring, for each number of threads; with the process's start the whole stays under a second."""
BUSY = 0.3
"""Load a core above which a measurement counts as disturbed: it is taken again later, and the best is kept."""
GFLOPS_PER_CORE = (("avx512f", 120.0), ("avx2", 80.0), ("sve", 50.0), ("asimd", 40.0))
"""A core's float32 products. avx2: 94 measured on one thread of a server core, 72 a core on two; avx512f: half more, as
its clocks are lower; Arm: four fused operations on four numbers at 2 to 3 GHz, less what memory costs. Estimates."""
GFLOPS_OTHERWISE = 20.0
AGAIN_SECONDS = 600.0
"""Earliest for measuring again after a disturbed measurement, so that a busy machine is not asked at every command."""


def cpu_rates(name: str, cores: int) -> dict[int, float]:
    """GFLOP/s of float32 matrix products by number of threads (1, and `cores`); 0.0 where it could not be measured.

    Args:
        name: of the CPU.
        cores: that this process may use.
    """
    path = cache_folder() / "cpu.json"
    cache: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        cache = found if isinstance(found, dict) else {}
    key = f"{name} x{cores}"
    known = _rates(cache.get(key))
    if known and (not cache[key].get("disturbed") or time.time() - float(cache[key].get("time", 0)) < AGAIN_SECONDS):
        return known
    disturbed = _load() > BUSY * cores
    best = {n: max(measure(n), known.get(n, 0.0)) for n in sorted({1, cores})}
    entry = {"gflops": {str(n): rate for n, rate in best.items()}, "disturbed": disturbed, "time": int(time.time())}
    with contextlib.suppress(OSError, AutoSwiftError):  # a cache that cannot be written only costs the next call
        write_atomic(path, dumps(cache | {key: entry}, indent=1))
    return best


def estimated(flags: tuple[str, ...], cores: int) -> float:
    """GFLOP/s of float32 products by instruction sets, where nothing could be measured.

    Args:
        flags: of the CPU. cores: that may be used.
    """
    each = next((rate for flag, rate in GFLOPS_PER_CORE if flag in flags), GFLOPS_OTHERWISE)
    return each * cores


def measure(threads: int) -> float:
    """GFLOP/s with that many threads, measured now; 0.0 when it cannot be."""
    environment = child_environment(threads, {name: str(threads) for name in _THREADS})
    argv = [sys.executable, "-I", str(PROGRAM), str(SECONDS), str(SIZE)]
    try:
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=20, check=True)
        return round(float(done.stdout), 1)
    except (OSError, subprocess.SubprocessError, ValueError):
        return 0.0


_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def _load() -> float:
    """Processes that ran or waited, averaged over the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _rates(entry: Any) -> dict[int, float]:
    """The cache's entry, or nothing when it is not what this version writes."""
    rates = entry.get("gflops") if isinstance(entry, dict) else None
    if not isinstance(rates, dict):
        return {}
    return {int(n): float(r) for n, r in rates.items() if str(n).isdigit() and isinstance(r, int | float) and r > 0}
