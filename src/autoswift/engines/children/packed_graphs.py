"""Recorded steps: one CUDA graph per shape, made when a shape comes back, dropped when memory is needed."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch

Body = Callable[[Mapping[str, Any]], Mapping[str, Any]]

WARM_RUNS = 2
"""Eager runs of a shape before it is recorded: they load the kernels, and a shape that comes twice comes again."""

ALLOWANCE = 0.25
"""Share of the card's memory that recordings may hold; they share one pool, so it is about that of the largest."""

BUCKETS = ((256, 32), (1024, 64), (4096, 256), (1 << 30, 1024))
"""Lengths up to the first number are rounded up to a multiple of the second: at most an eighth is padding."""


def bucket(length: int) -> int:
    """The length that a recorded step has room for."""
    for limit, multiple in BUCKETS:
        if length <= limit:
            return -(-length // multiple) * multiple
    return length


class Graphs:
    """Runs a body eagerly, and by a recording once its shape has been seen often enough.

    Args:
        device: where. enabled: false runs everything eagerly, as every device but CUDA does.
    """

    def __init__(self, device: torch.device, *, enabled: bool) -> None:
        self.enabled = enabled and device.type == "cuda"
        self.device = device
        self.seen: Counter[Any] = Counter()
        self.made: dict[Any, tuple[Any, dict[str, Any], Mapping[str, Any]]] = {}
        self.unfit: set[Any] = set()
        self.pool: Any = None
        self.bytes = 0
        self.seconds = 0.0

    def length(self, longest: int) -> int:
        """Of the rows of a step whose longest row has `longest` tokens."""
        return bucket(longest) if self.enabled else longest

    def run(self, key: Any, inputs: dict[str, Any], body: Body) -> Mapping[str, Any]:
        """The body's results for inputs of one shape.

        Args:
            key: names the shapes and everything else that the recording depends on.
            inputs: tensors on the device. body: without side effects but on memory that never moves.
        """
        if not self.enabled or key in self.unfit:
            return body(inputs)
        if key in self.made:
            graph, fixed, results = self.made[key]
            for name, tensor in inputs.items():
                fixed[name].copy_(tensor)
            graph.replay()
            return results
        self.seen[key] += 1
        if self.seen[key] <= WARM_RUNS or not self._allowed():
            return body(inputs)
        if not self._record(key, inputs, body):
            return body(inputs)
        return self.run(key, inputs, body)

    def _allowed(self) -> bool:
        total = torch.cuda.get_device_properties(self.device).total_memory
        if self.bytes <= ALLOWANCE * total:
            return True
        self.drop()  # what was recorded for packs of another size goes first, with all others: the pool is one
        return False

    def _record(self, key: Any, inputs: dict[str, Any], body: Body) -> bool:
        begun, before = time.perf_counter(), torch.cuda.memory_reserved(self.device)
        fixed = {name: tensor.clone() for name, tensor in inputs.items()}
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.device)
        try:
            with torch.cuda.graph(graph, pool=self.pool):
                results = body(fixed)
        except Exception as error:  # a model may wait for the device, or memory may be short: eager it is
            print(f"no recording for {key}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            del graph, fixed
            self.unfit.add(key)
            torch.cuda.empty_cache()
            return False
        self.pool = self.pool or graph.pool()
        self.made[key] = (graph, fixed, results)
        self.bytes += max(0, torch.cuda.memory_reserved(self.device) - before)
        self.seconds += time.perf_counter() - begun
        return True

    def drop(self) -> None:
        """Forget every recording and give its memory back."""
        if self.made:
            torch.cuda.synchronize(self.device)
        self.made.clear()
        self.seen.clear()
        self.pool, self.bytes = None, 0
        if self.enabled:
            torch.cuda.empty_cache()
