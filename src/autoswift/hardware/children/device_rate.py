"""Measures an accelerator in the training environment: `python -I device_rate.py [cuda|npu|mps|cpu] [INDEX]`.

Prints one JSON line: matrix products (TFLOP/s at bfloat16 where it has it, at float16 and float32), its memory's rate
(GB/s, reading and writing counted) and what launching a small kernel costs (seconds). It takes 2 to 5 seconds beside
torch's import, and 1.5 GB of the device's memory at most.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SIZE = {"cuda": 8192, "npu": 8192, "mps": 2048, "cpu": 768}
"""Rows of the square matrices: large enough for the rate to be flat on the fastest card of its kind."""
COPY = {"cuda": 2**28, "npu": 2**28, "mps": 2**26, "cpu": 2**25}
"""Bytes copied: several times the largest cache."""
BATCH = {"cuda": 4, "npu": 4, "mps": 4, "cpu": 1}
"""Operations between two waits, so that an accelerator never idles until the next launch."""
SECONDS = 0.4
"""Of measuring, for each number: 20 products of the largest size on an H100, and one clock ramp is over after a tenth
of it."""
LAUNCHES = 200


def synchronise(kind: str) -> None:
    """Waits until the device has done all that it was given."""
    if kind != "cpu":
        getattr(torch, kind).synchronize()


def rate(kind: str, work: Callable[[], Any], amount: float) -> float:
    """Amount a second of work: the best of three rounds, since other load only ever slows one down."""
    work()
    synchronise(kind)
    best = 0.0
    for _ in range(3):
        done, begin = 0, time.perf_counter()
        while True:
            work()
            done += 1
            synchronise(kind)
            spent = time.perf_counter() - begin
            if spent > SECONDS / 3:
                break
        best = max(best, amount * done / spent)
    return best


def products(kind: str, dtype: torch.dtype) -> float:
    """TFLOP/s of square matrix products; 0.0 where the device cannot compute the type."""
    size = SIZE[kind]
    try:
        left = torch.randn(size, size, device=kind, dtype=torch.float32).to(dtype)
        right = torch.randn(size, size, device=kind, dtype=torch.float32).to(dtype)
        out = torch.empty(size, size, device=kind, dtype=dtype)
        times = BATCH[kind]
        return rate(kind, lambda: [torch.mm(left, right, out=out) for _ in range(times)], 2.0 * times * size**3) / 1e12
    except (RuntimeError, TypeError, NotImplementedError):
        return 0.0


def copies(kind: str) -> float:
    """GB/s of copying, each byte counted twice: read and written."""
    one = torch.empty(COPY[kind], device=kind, dtype=torch.uint8)
    other = torch.empty_like(one)
    times = BATCH[kind]
    return rate(kind, lambda: [other.copy_(one) for _ in range(times)], 2.0 * times * COPY[kind]) / 1e9


def launch(kind: str) -> float:
    """Seconds that giving the device one small operation takes the processor."""
    tiny = torch.zeros(16, device=kind)
    for _ in range(LAUNCHES):
        tiny.add_(1.0)
    synchronise(kind)
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(LAUNCHES):
            tiny.add_(1.0)
        best = min(best, time.perf_counter() - begin)
        synchronise(kind)
    return best / LAUNCHES


def _cpu_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags or " bf16" in flags


def measure(kind: str) -> dict[str, Any]:
    """Every number, by name."""
    # A CPU emulates bfloat16 some fifty times slower than float32 unless it has instructions for it.
    bf16 = (
        kind == "mps" or (kind == "cpu" and _cpu_bf16()) or (kind != "cpu" and getattr(torch, kind).is_bf16_supported())
    )
    return {
        "kind": kind,
        "bf16_tflops": round(products(kind, torch.bfloat16), 3) if bf16 else 0.0,
        "fp16_tflops": round(products(kind, torch.float16), 3) if kind != "cpu" else 0.0,
        "fp32_tflops": round(products(kind, torch.float32), 3),
        "bandwidth": round(copies(kind), 1),
        "launch_seconds": round(launch(kind), 8),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else "cuda"
    if wanted == "npu":
        import torch_npu  # type: ignore[import-not-found]  # noqa: F401
    if len(sys.argv) > 2 and wanted in ("cuda", "npu"):
        getattr(torch, wanted).set_device(int(sys.argv[2]))
    print(json.dumps(measure(wanted)))
