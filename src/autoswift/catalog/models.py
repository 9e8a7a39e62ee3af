"""The curated catalogue of base models."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from autoswift.errors import ModelError
from autoswift.tables import explain, table, text


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known about a model; numbers are 0 and texts empty when unknown.

    Attributes:
        id: its name in the catalogue, or a folder's name.
        hf, ms: id on Hugging Face and on ModelScope.
        packaged: name of the way to get it from an installed Python package.
        path: of a local folder.
        layers, hidden, heads, kv_heads, intermediate, vocabulary, head_dim, tied: shape.
        context: longest input in tokens.
        domains: what it was trained or proved good for.
        modality: of its input beyond text.
        commercial: whether the licence allows commercial use. gated: terms must be accepted at the hub first.
        model_type, template: as ms-swift names them.
        released: year and month.
        kind: base chat reasoning embedding reranking.
        blocked: why no run can use it: own_code or pickle; empty when one can.
        notes: a word of the locales' catalog.note.
    """

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
    blocked: str = ""
    notes: str = ""

    def note(self, language: str) -> str:
        """What a person should know about it, or an empty text."""
        words = [text(f"catalog.blocked.{self.blocked}", language)] if self.blocked else []
        words += [text(f"catalog.note.{self.notes}", language)] if self.notes else []
        return " ".join(words) if language == "en" else "".join(words)


@cache
def all_models() -> tuple[ModelFacts, ...]:
    """The catalogue, in its order."""
    return tuple(_facts(row) for row in table("models"))


def find(name: str) -> ModelFacts:
    """The model by its catalogue name, a hub id or a hub id's last part, in any case.

    Raises:
        ModelError: when none or several fit.
    """
    wanted = name.strip().lower()
    models = all_models()
    for names in (_exact, _last):
        hits = [one for one in models if wanted in names(one)]
        if len(hits) == 1:
            return hits[0]
        if hits:
            raise _several(name, hits)
    hits = [one for one in models if wanted and wanted in one.id]
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise _several(name, hits)
    raise ModelError(*explain("models.unknown", name=name))


def _several(name: str, hits: list[ModelFacts]) -> ModelError:
    names = ", ".join(one.id for one in hits[:8])
    return ModelError(*explain("models.several", name=name, count=len(hits), names=names))


def _exact(one: ModelFacts) -> set[str]:
    return {part.lower() for part in (one.id, one.hf, one.ms) if part}


def _last(one: ModelFacts) -> set[str]:
    return {part.lower().rpartition("/")[2] for part in (one.hf, one.ms) if part}


def _facts(row: dict[str, Any]) -> ModelFacts:
    known = {field.name for field in fields(ModelFacts)}
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise ValueError(f"tables/models.yaml, {row.get('id')}: unknown fields {unknown}")
    return ModelFacts(**values)
