"""Measures float32 matrix products: `python -I sgemm.py SECONDS SIZE` prints GFLOP/s of the fastest one.

A process of its own, because a numeric library takes its number of threads from the environment when it is loaded.
"""

from __future__ import annotations

import sys
import time

import numpy


def measure(seconds: float, size: int) -> float:
    """GFLOP/s of the fastest product done within `seconds`; other work on the machine only ever slows one down."""
    left = numpy.full((size, size), 0.5, dtype=numpy.float32)
    right, out = left.T.copy(), numpy.empty_like(left)
    numpy.matmul(left, right, out=out)  # starts the library's threads
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        numpy.matmul(left, right, out=out)
        best = min(best, time.perf_counter() - begin)
    return 2.0 * size**3 / best / 1e9


if __name__ == "__main__":
    print(measure(float(sys.argv[1]), int(sys.argv[2])))
