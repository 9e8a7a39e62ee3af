"""Whether a model's shape stands in one of the shipped tables, so that the closed form was checked against it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from autoswift import tables
from autoswift.catalog.models import catalog
from autoswift.hardware.shape import ModelShape, family_of, shape_of_config
from autoswift.tables import table

LLAMA_LIKE = ("llama", "mistral", "smollm")
"""Types with Llama's layers by their own code. Others that are no traced family only count as Llama's for lack of
anything better."""
Numbers = tuple[int, int, int, int, int, int]


def is_known(config: Mapping[str, Any]) -> bool:
    """Whether the closed form's coefficients were traced for that family, and some table has that shape.

    Args:
        config: the model's `config.json`.
    """
    kind = str(config.get("model_type", ""))
    if family_of(kind) == "llama" and not kind.lower().startswith(LLAMA_LIKE):
        return False
    return numbers_of(shape_of_config(config)) in _shipped()


def numbers_of(shape: ModelShape) -> Numbers:
    """Layers, hidden, heads, key-value heads, intermediate, vocabulary."""
    return shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.intermediate, shape.vocabulary


@cache
def _shipped() -> frozenset[Numbers]:
    names = ("layers", "hidden", "heads", "kv_heads", "intermediate", "vocabulary")
    found = {tuple(int(row[name]) for name in names) for row in table("shapes")}
    named = json.loads(files(tables).joinpath("shapes_named.json").read_text(encoding="utf-8"))["shapes"]
    found |= {tuple(int(row[key]) for key in "lhakiv") for row in named}
    found |= {tuple(int(getattr(one, name)) for name in names) for one in catalog() if one.layers}
    return frozenset(found)  # type: ignore[arg-type]
