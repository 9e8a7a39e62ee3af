"""A table of curves by formula, in the recorded table's format: a bowl in the rate whose place moves with the batch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

CORPORA = {"first": 4e-3, "second": 6e-3, "third": 3e-3}
BASE = 4.0
EPOCH_TOKENS = 8192
DIVERGES = 0.05


def arrays(noise: float = 0.002) -> dict[str, Any]:
    """150 configurations, three corpora, two repetitions, 9 checkpoints."""
    rng = np.random.default_rng(0)
    rows = [(float(r), k, b, w) for r in np.geomspace(2e-4, 0.5, 30) for b, k, w in
            ((2, 4, 0.0), (4, 8, 0.03), (8, 4, 0.1), (16, 16, 0.03), (32, 8, 0.0))]  # fmt: skip
    whole = 4 * EPOCH_TOKENS
    tokens = np.array([round(whole * 2 ** (-i / 2)) for i in range(8, -1, -1)])
    shape = (len(CORPORA), len(rows), 2, len(tokens))
    nll = np.zeros(shape, dtype=np.float32)
    for c, best in enumerate(CORPORA.values()):
        for n, (rate, rank, batch, _) in enumerate(rows):
            off = math.log10(rate / best / math.sqrt(batch / 8))
            floor = 2.0 + 0.4 * off**2 + 0.01 * abs(math.log2(rank / 8))
            curve = floor + (BASE - floor) * (1 + 8 * tokens / whole) ** -1.5
            if rate > DIVERGES:
                curve = np.where(tokens > whole / 8, np.nan, BASE + 3)
            nll[c, n] = curve + rng.normal(0, noise, (2, 1))
    meta = {"version": 1, "epoch_tokens": EPOCH_TOKENS, "rows": 256, "passes": 4, "model": {"length": 32, "hidden": 32}}
    columns = list(zip(*rows, strict=True))
    return {
        "meta": np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8),
        "corpora": np.array(list(CORPORA)),
        "learning_rate": np.array(columns[0]),
        "rank": np.array(columns[1], dtype=np.int16),
        "batch": np.array(columns[2], dtype=np.int16),
        "warmup_ratio": np.array(columns[3], dtype=np.float32),
        "tokens": np.tile(tokens, (len(rows), 1)).astype(np.int32),
        "base_nll": np.full(len(CORPORA), BASE),
        "step_batch": np.array([2, 4, 8, 16, 32]),
        "step_seconds": np.array([1.0, 1.5, 2.5, 4.5, 8.5]),
        "nll": nll + 0.01,
        "averaged": nll,
        "train": nll - 0.05,
    }


def write(path: Path, **changes: Any) -> Path:
    """The file."""
    np.savez_compressed(path, **(arrays() | changes))
    return path
