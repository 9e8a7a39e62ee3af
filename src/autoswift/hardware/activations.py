"""What a step's tensors take, from polynomials derived by traces (scripts/trace_shapes.py).

A recipe (family of decoders, method, checkpointing, attention, loss, …) has a few moments at which the most may be
alive. Each is two polynomials in the sizes: what is there once, and what each layer adds. A term's name is the product
of its sizes, one letter each: B rows, T tokens in a row, h hidden, k key-value heads, g query heads of one, d head
width, i intermediate, V vocabulary, r rank, c tokens of a slice of the fused loss. Its factor is in bytes.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.resources import files

from autoswift import tables
from autoswift.hardware.shape import ModelShape

Terms = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Which trace applies.

    Attributes:
        attention: fused (no mask), mask or eager. targets: all, attention or qv. adapter: "" (float32) or pure.
        tied: only for `full`, where the output projection's gradient is the embedding's.
    """

    family: str
    method: str
    precision: str
    checkpointing: bool
    attention: str = "fused"
    liger: bool = False
    targets: str = "all"
    dropout: bool = False
    adapter: str = ""
    tied: bool = False

    @property
    def key(self) -> str:
        """Its name in the table."""
        parts = [
            self.family,
            self.method,
            self.precision,
            "ckpt" if self.checkpointing else "keep",
            self.attention,
            "liger" if self.liger else "plain",
            self.targets,
            "drop" if self.dropout else "",
            self.adapter,
            ("tied" if self.tied else "untied") if self.method == "full" else "",
        ]
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Moment:
    """A sum of what is alive.

    Attributes:
        activations, logits, gradients: bytes; casts of weights count as gradients.
        late: near the end of backward, when (almost) all gradients are there; else (almost) none.
    """

    activations: float
    logits: float
    gradients: float
    late: bool

    @property
    def total(self) -> float:
        """Bytes."""
        return self.activations + self.logits + self.gradients


@cache
def _traced() -> dict[str, list[tuple[Terms, Terms, int]]]:
    found = json.loads(files(tables).joinpath("memory_traced.json").read_text(encoding="utf-8"))
    return dict(found)


@cache
def nearest(recipe: Recipe) -> tuple[str, tuple[str, ...]]:
    """The traced recipe that stands for this one, and what of it is not the same.

    The traits are given up in the order of how little each changes; the method and checkpointing never.
    """
    table = _traced()
    options: list[tuple[str, tuple[str, str | bool]]] = [
        ("family", ("family", "llama")),
        ("adapter", ("adapter", "")),
        ("dropout", ("dropout", False)),
        ("targets", ("targets", "all")),
        ("attention", ("attention", "fused")),
        ("liger", ("liger", False)),
    ]
    best: tuple[int, str, tuple[str, ...]] | None = None
    for mask in range(1 << len(options)):
        changes = [options[i] for i in range(len(options)) if mask >> i & 1]
        values = {name: getattr(recipe, name) for name in Recipe.__slots__} | dict(value for _, value in changes)
        key = Recipe(**values).key
        if key in table and (best is None or mask < best[0]):
            best = (mask, key, tuple(name for name, (field, value) in changes if getattr(recipe, field) != value))
    if best is None:
        raise KeyError(recipe.key)
    return best[1], best[2]


def moments(recipe: Recipe, shape: ModelShape, rows: int, length: int, rank: int) -> list[Moment]:
    """What may be the largest, with this shape.

    Args:
        recipe: as traced.
        shape: of the model. rows, length: of a batch. rank: of the adapters.
    """
    return list(_moments(nearest(recipe)[0], shape, rows, length, rank))


@lru_cache(maxsize=2048)
def _moments(key: str, shape: ModelShape, rows: int, length: int, rank: int) -> tuple[Moment, ...]:
    """As `moments`, of a traced recipe; a search among many settings asks for the same again and again."""
    names, table = _indexed(key)
    known = _products(names, shape, rows, length, rank)
    found = []
    for base, layer, late in table:
        sums = [0.0, 0.0, 0.0]
        for part, factor, name in base:
            sums[part] += factor * known[name]
        for part, factor, name in layer:
            sums[part] += shape.layers * factor * known[name]
        found.append(Moment(sums[0], sums[1], sums[2], late))
    return tuple(found)


def _products(names: list[str], shape: ModelShape, rows: int, length: int, rank: int) -> list[float]:
    """The terms' values."""
    sizes = {
        "B": float(rows),
        "T": float(length),
        "h": float(shape.hidden),
        "k": float(shape.kv_heads),
        "g": shape.heads / shape.kv_heads,
        "d": float(shape.head_dim),
        "i": float(shape.active_intermediate),
        "V": float(shape.vocabulary),
        "r": float(rank),
        "c": float(loss_slice(shape, rows * length)),
    }
    return [math.prod([sizes[letter] for letter in name]) for name in names]


Indexed = list[tuple[int, float, int]]
"""Terms of a sum: the part of a moment that one belongs to, its factor, its place among the names."""


@cache
def _indexed(key: str) -> tuple[list[str], list[tuple[Indexed, Indexed, bool]]]:
    """A recipe's terms with numbers for names: the names, and its moments."""
    places: dict[str, int] = {}

    def indexed(terms: Terms) -> Indexed:
        return [
            (PARTS.index(_part(name)), factor, places.setdefault(name, len(places))) for name, factor in terms.items()
        ]

    table = [(indexed(base), indexed(layer), bool(late)) for base, layer, late in _traced()[key]]
    return list(places), table


def layer_bytes(recipe: Recipe, shape: ModelShape, rows: int, length: int, rank: int) -> float:
    """Activations that one layer keeps when nothing is computed again."""
    names, table = _indexed(nearest(replace(recipe, checkpointing=False))[0])
    known = _products(names, shape, rows, length, rank)
    return max(sum(factor * known[name] for part, factor, name in layer if part == 0) for _, layer, _ in table)


def loss_slice(shape: ModelShape, tokens: int) -> int:
    """Tokens that have logits at a time in Liger's fused loss: about as much memory as the hidden states have."""
    parts = math.ceil(shape.vocabulary / shape.hidden)
    return int(min(1 << max(math.ceil(tokens / parts) - 1, 0).bit_length(), tokens))


PARTS = ("activations", "logits", "gradients")
"""Of a moment, in its order."""


@cache
def _part(name: str) -> str:
    if "V" in name and ("T" in name or "c" in name):
        return "logits"
    return "activations" if "B" in name or "T" in name else "gradients"
