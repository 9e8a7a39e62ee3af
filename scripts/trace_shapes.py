"""Derives the memory formula of each family of decoders from traces, and writes tables/memory_traced.json.

Each size of a model (hidden, heads, …) is given a prime factor of its own. So the factors of a buffer's bytes say which
sizes it is the product of, and what is alive at a moment of a step is a polynomial in the sizes. Two traces that differ
in one layer give what a layer adds. Of all moments those are kept that are the largest for some model of a wide random
sample. Needs the training environment; no device.

    python scripts/trace_shapes.py [--python .venv/bin/python] [--family qwen2 …]
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CHILD = ROOT / "src" / "autoswift" / "engines" / "children" / "memory_trace.py"
TABLE = ROOT / "src" / "autoswift" / "tables" / "memory_traced.json"
SIZES = {
    "B": 17,
    "T": 1013,
    "h": 64 * 59 * 19 * 101,
    "k": 19,
    "g": 101,
    "d": 4 * 53,
    "i": 127,
    "V": 10007,
    "r": 23,
    "c": 1031,
}
"""rows, length, hidden (a multiple of the heads, as Llama's configuration asks), key-value heads, query heads of one,
head width, intermediate, vocabulary, rank, slice of the loss."""
PRIME = {"B": 17, "T": 1013, "h": 59, "k": 19, "g": 101, "d": 53, "i": 127, "V": 10007, "r": 23, "c": 1031}
WITH_TWO = 103
"""g + 2: a fused query-key-value map is (g + 2) heads of each key head wide."""
LAYERS = (4, 5)
FAMILIES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "phi3": {"pad_token_id": 0, "eos_token_id": 0, "bos_token_id": 0},
    "gemma2": {"sliding_window": 1 << 20, "query_pre_attn_scalar": 256},
    "gemma3_text": {"sliding_window": 1 << 20, "query_pre_attn_scalar": 256},
    "glm4": {"pad_token_id": 0, "eos_token_id": 0},
}


def config(family: str, layers: int, tied: bool) -> dict[str, Any]:
    """A model of that family with the prime sizes."""
    s = SIZES
    return {
        "model_type": family,
        "hidden_size": s["h"],
        "intermediate_size": s["i"],
        "num_hidden_layers": layers,
        "num_attention_heads": s["k"] * s["g"],
        "num_key_value_heads": s["k"],
        "head_dim": s["d"],
        "vocab_size": s["V"],
        "tie_word_embeddings": tied,
        **FAMILIES[family],
    }


def recipes(family: str) -> Iterator[dict[str, Any]]:
    """What is traced of a family."""
    both = (False, True)
    wide = family in ("llama", "qwen2", "qwen3")
    for checkpointing, padded, liger in itertools.product(both, both, both):
        common = {"checkpointing": checkpointing, "padded": padded, "liger": liger}
        yield {"method": "lora", **common}
        yield {"method": "qlora", **common}
        for tied in both if not padded else ():
            yield {"method": "full", "tied": tied, **common}
        if wide and not padded:
            yield {"method": "lora", "dropout": 0.1, **common}
            yield {"method": "qlora", "dropout": 0.1, **common}
    for checkpointing in both:
        yield {"method": "lora", "checkpointing": checkpointing, "attention": "eager"}
        yield {"method": "lora", "checkpointing": checkpointing, "precision": "float32"}
        yield {"method": "qlora", "checkpointing": checkpointing, "precision": "float32"}
        for tied in both:
            yield {"method": "full", "tied": tied, "checkpointing": checkpointing, "precision": "float32"}
        if wide:
            yield {"method": "full", "tied": False, "checkpointing": checkpointing, "attention": "eager"}
            yield {"method": "lora", "checkpointing": checkpointing, "adapter": "bfloat16"}
            for targets, dropout, method in itertools.product(("qv", "attention"), (0.0, 0.1), ("lora", "qlora")):
                yield {"method": method, "checkpointing": checkpointing, "targets": targets, "dropout": dropout}
            yield {"method": "lora", "checkpointing": checkpointing, "targets": "qv", "adapter": "bfloat16"}


def key(family: str, recipe: dict[str, Any]) -> str:
    """The recipe's name in the table."""
    values = {
        "family": family,
        "method": recipe["method"],
        "precision": "32" if recipe.get("precision") == "float32" else "16",
        "checkpointing": "ckpt" if recipe["checkpointing"] else "keep",
        "attention": "eager" if recipe.get("attention") == "eager" else "mask" if recipe.get("padded") else "fused",
        "loss": "liger" if recipe.get("liger") else "plain",
        "targets": recipe.get("targets", "all"),
        "dropout": "drop" if recipe.get("dropout") else "",
        "adapter": "pure" if recipe.get("adapter") == "bfloat16" else "",
        "tied": {None: "", True: "tied", False: "untied"}[recipe.get("tied")],
    }
    return " ".join(value for value in values.values() if value)


Poly = Counter[str]


def monomials(nbytes: int, cache: dict[int, Poly]) -> Poly:
    """Bytes of a buffer as a polynomial in the sizes."""
    if nbytes not in cache:
        name, left = "", nbytes
        rest = Fraction(nbytes)
        for symbol in ("h", *(s for s in SIZES if s != "h")):  # hidden first: it has the heads' factors in it
            while left % PRIME[symbol] == 0:
                left = left // PRIME[symbol]
                for inner in "kg" if symbol == "h" else "":
                    left = left // SIZES[inner] if left % SIZES[inner] == 0 else left
                name += symbol
                rest /= SIZES[symbol]
        found: Any = Counter()  # of fractions
        if rest.numerator % WITH_TWO == 0 and "k" in name:
            found["".join(sorted(name + "g"))] = rest / WITH_TWO
            found["".join(sorted(name))] = 2 * rest / WITH_TWO
        else:
            found["".join(sorted(name))] = rest
        cache[nbytes] = found
    return cache[nbytes]


def timeline(answer: dict[str, Any], cache: dict[int, Poly]) -> list[tuple[int, Poly]]:
    """What is alive after each allocation that a release follows: (index of the event, polynomial)."""
    alive: Poly = Counter()
    found = []
    events = answer["events"]
    for index, change in enumerate(events):
        sign = 1 if change > 0 else -1
        for name, value in monomials(abs(change), cache).items():
            alive[name] += sign * value
        if change > 0 and (index + 1 == len(events) or events[index + 1] < 0 or index + 1 == answer["mark"]):
            found.append((index, Counter({name: value for name, value in alive.items() if value})))
    return found


def moments(short: dict[str, Any], long: dict[str, Any]) -> list[dict[str, Any]]:
    """Pairs (at no layer, a layer more) of polynomials at the moments of a step that both traces have.

    Moments are matched by their distance from the start of backward, or from the end.
    """
    cache: dict[int, Poly] = {}
    few = dict(timeline(short, cache))
    many = dict(timeline(long, cache))
    a, b = short["events"], long["events"]
    n, m, mark_a, mark_b = len(a), len(b), short["mark"], long["mark"]
    backward = n - mark_a
    found = []

    def add(i: int, j: int, late: bool) -> None:
        if i in few and j in many:
            layer = Counter(many[j])
            layer.subtract(few[i])
            base = Counter(few[i])
            for name, value in layer.items():
                base[name] -= LAYERS[0] * value
            found.append({"base": clean(base), "layer": clean(layer), "late": late})

    for step in range(1, mark_a // 2):  # forward, backwards from its end
        if a[mark_a - step] != b[mark_b - step]:
            break
        add(mark_a - step, mark_b - step, False)
    for step in range(backward // 2 + 1):
        if mark_a + step >= n or a[mark_a + step] != b[mark_b + step]:
            break
        add(mark_a + step, mark_b + step, False)
    for step in range(1, backward // 2 + 1):
        if a[n - step] != b[m - step]:
            break
        add(n - step, m - step, True)
    return found


def clean(poly: Poly) -> dict[str, float]:
    """Without zeros, as floats."""
    return {name: float(value) for name, value in sorted(poly.items()) if value}


def sample(count: int = 4000) -> dict[str, Any]:
    """Sizes of models and batches as they are found, and beyond."""
    rng = np.random.default_rng(0)
    hidden = 64 * rng.integers(4, 220, count)
    width = rng.choice([32, 64, 80, 96, 128, 256], count)
    heads = np.maximum(np.round(hidden * rng.choice([0.5, 1, 1, 1, 1.5, 2], count) / width), 1)
    group = np.minimum(rng.choice([1, 2, 4, 6, 7, 8, 16], count), heads)
    rows = rng.choice([1, 1, 2, 4, 8, 16, 32], count)
    length = np.exp(rng.uniform(math.log(32), math.log(65536), count)).astype(int)
    vocabulary = rng.choice([256, 8000, 32000, 49152, 100000, 151936, 262144], count)
    tokens = rows * length
    parts = np.ceil(vocabulary / hidden)
    slice_ = np.minimum(2 ** np.ceil(np.log2(np.maximum(tokens / parts, 1))), tokens)
    return {
        "B": rows,
        "T": length,
        "h": hidden,
        "k": np.maximum(np.floor(heads / group), 1),
        "g": group,
        "d": width,
        "i": (hidden * rng.uniform(1, 6, count)).astype(int),
        "V": vocabulary,
        "r": rng.choice([1, 8, 16, 64, 256], count),
        "c": slice_,
        "L": rng.choice([1, 2, 8, 16, 24, 32, 48, 80, 126], count),
    }


def keep_largest(found: list[dict[str, Any]], sizes: dict[str, Any]) -> list[dict[str, Any]]:
    """The moments that are the largest somewhere in the sample."""
    values: dict[str, Any] = {}

    def of(poly: dict[str, float]) -> Any:
        total = np.zeros(len(sizes["B"]))
        for name, factor in poly.items():
            if name not in values:
                values[name] = np.prod([sizes[s].astype(float) for s in name], axis=0) if name else 1.0
            total = total + factor * values[name]
        return total

    unique = list({json.dumps(one, sort_keys=True): one for one in found}.values())
    totals = np.stack([of(one["base"]) + sizes["L"] * of(one["layer"]) for one in unique])
    best = totals.max(axis=0)
    kept: list[dict[str, Any]] = []
    covered = np.zeros(len(best), dtype=bool)
    while not covered.all():  # the fewest moments that come within a thousandth of the largest everywhere
        near = (totals >= 0.9995 * best) & ~covered
        pick = int(near.sum(axis=1).argmax())
        kept.append(unique[pick])
        covered |= near[pick]
    return kept


class Tracer:
    """The child that traces."""

    def __init__(self, python: str) -> None:
        self._process = subprocess.Popen([python, str(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("no pipes")
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--family", nargs="*", default=list(FAMILIES))
    parser.add_argument("--only", default="", help="recipes whose name has this in it")
    asked = parser.parse_args()
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.is_file() else {}
    tracer, sizes = Tracer(asked.python), sample()
    for family in asked.family:
        for recipe in recipes(family):
            name = key(family, recipe)
            if asked.only not in name:
                continue
            started = time.monotonic()
            request = {k: v for k, v in recipe.items() if k != "tied"} | {
                "rows": SIZES["B"],
                "length": SIZES["T"],
                "rank": SIZES["r"],
                "slice": SIZES["c"],
                "steps": 1,
                "events": True,
            }
            tied = bool(recipe.get("tied", True))
            try:
                answers = [tracer.ask(request | {"config": config(family, n, tied)}) for n in LAYERS]
            except RuntimeError as exc:
                print(f"{name}: {exc}", flush=True)
                continue
            found = moments(answers[0], answers[1])
            table[name] = [encode(one) for one in keep_largest(found, sizes)]
            print(
                f"{name}: {len(found)} moments, {len(table[name])} kept, {time.monotonic() - started:.1f} s", flush=True
            )
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(table[name])}" for name in sorted(table))
        TABLE.write_text("{\n" + lines + "\n}\n", encoding="utf-8")


def encode(moment: dict[str, Any]) -> list[Any]:
    """A moment as the table has it: [once, a layer, late]."""
    short = ({name: round(value, 4) for name, value in moment[part].items()} for part in ("base", "layer"))
    return [*short, int(moment["late"])]


if __name__ == "__main__":
    main()
