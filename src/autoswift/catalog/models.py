"""The curated catalogue of base models."""

from __future__ import annotations

from dataclasses import dataclass

@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known about a model; numbers 0 and texts empty when unknown."""

    id: str
    parameters: int
    model_type: str
    template: str
    hf: str = ""
    ms: str = ""
    packaged: str = ""
    path: str = ""
    layers: int = 0
    hidden: int = 0
    heads: int = 0
    kv_heads: int = 0
    intermediate: int = 0
    vocabulary: int = 0
    head_dim: int = 0
    tied: bool | None = None
    context: int = 2048
    languages: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    modality: str = "text"
    licence: str = ""
    commercial: bool = False
    released: str = ""
    kind: str = "chat"
    gated: bool = False
    notes: str = ""


def all_models() -> tuple[ModelFacts, ...]:
    """The catalogue, in its order."""
    raise NotImplementedError


def find(name: str) -> ModelFacts:
    """By id, hub id or its last part, in any case. ModelError when none or several fit."""
    raise NotImplementedError
