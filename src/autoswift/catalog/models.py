"""The catalogue of base models: the curated rows, those beyond ms-swift's registry, and the registry's snapshot."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from typing import Any

from autoswift.errors import ModelError
from autoswift.tables import explain, table, text

SHAPE = ("layers", "hidden", "heads", "kv_heads", "intermediate", "vocabulary", "head_dim", "tied")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known about a model; numbers are 0 and texts empty when unknown.

    Attributes:
        id: its name in the catalogue, or a folder's name.
        hf, ms: id on Hugging Face and on ModelScope.
        packaged: name of the way to get it from an installed Python package.
        path: of a local folder.
        active: weights that one token takes part in; of a mixture of experts.
        layers, hidden, heads, kv_heads, intermediate, vocabulary, head_dim, tied: shape.
        context: longest input in tokens.
        domains: what it was trained or proved good for.
        modality: of its input beyond text; `modalities` has all of them.
        commercial: whether the licence allows commercial use. gated: terms must be accepted at the hub first.
        model_type, template: as ms-swift names them.
        released: year and month.
        kind: base chat reasoning embedding reranking; in the registry also what no task here starts from (reward guard
            decision media encoder ocr agent).
        blocked: why no run can use it: own_code, pickle, adapter, engine; empty when one can.
        quantized: how its weights are already quantized (gptq awq fp8 …): it serves, but the original is trained.
        requires: Python packages that ms-swift asks for; `unmet` are those that the locked versions rule out.
        engines: that serve its architecture: vllm sglang lmdeploy tgi llamacpp transformers.
        gguf: whether it converts to GGUF. mergeable: whether an adapter can be merged into it.
        parameters_from, shape_from, released_from: measured (published by its makers), parsed (from the name), unknown.
        licence_from: where the licence is from.
        curated: checked by hand.
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
    active: int = 0
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
    modalities: tuple[str, ...] = ()
    licence: str = ""
    commercial: bool = False
    released: str = ""
    kind: str = "chat"
    gated: bool = False
    blocked: str = ""
    quantized: str = ""
    architectures: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    unmet: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    gguf: bool = False
    mergeable: bool = True
    parameters_from: str = "measured"
    shape_from: str = "measured"
    released_from: str = "measured"
    licence_from: str = ""
    curated: bool = False
    notes: str = ""

    def note(self, language: str) -> str:
        """What a person should know about it, or an empty text."""
        words = [text(f"catalog.blocked.{self.blocked}", language)] if self.blocked else []
        words += [text(f"catalog.note.{self.notes}", language)] if self.notes else []
        return " ".join(words) if language == "en" else "".join(words)

    def takes(self, modality: str) -> bool:
        """Whether it takes that kind of input."""
        return modality == "text" or modality == self.modality or modality in self.modalities

    @property
    def experts(self) -> bool:
        """Whether it is a mixture of experts."""
        return bool(self.active) and self.active < self.parameters


def all_models() -> tuple[ModelFacts, ...]:
    """The rows curated with exact shapes, in their order: the first of the catalogue."""
    return catalog()[: len(_curated())]


@cache
def catalog() -> tuple[ModelFacts, ...]:
    """Everything: curated rows first, then those beyond the registry, then the rest of the registry."""
    by_hub = {one.lower(): row for row in registry() for one in _hubs(row)}
    known = [_enriched(one, by_hub) for one in (*_curated(), *_beyond())]
    covered = {name.lower() for one in known for name in (one.hf, one.ms) if name}
    taken = {one.id for one in known}
    rest = [_from_registry(row) for row in registry() if not {n.lower() for n in _hubs(row)} & covered]
    return (*known, *(replace(one, id=one.hf.lower() or one.ms.lower()) if one.id in taken else one for one in rest))


@cache
def registry() -> tuple[dict[str, Any], ...]:
    """The snapshot of ms-swift's registry, each row with the facts of its type. Callers must not change it."""
    folder = files("autoswift.tables")
    whole = json.loads(folder.joinpath("registry.json").read_text(encoding="utf-8"))
    rows = []
    for row in whole["models"]:
        row["ms"] = row["hf"] if row.get("ms") == "=" else row.get("ms", "")
        rows.append(whole["types"][row["model_type"]] | row)
    return tuple(rows)


PART = 4
"""Characters of a name, at least, that stand for the whole of it: fewer are in some model's name by accident."""


def find(name: str) -> ModelFacts:
    """The model by its catalogue name, a hub id or a hub id's last part, in any case; curated rows before the others.

    Raises:
        ModelError: when none or several fit.
    """
    wanted = name.strip().lower()
    for models in (all_models(), catalog()):
        for names in (_exact, _last):
            hits = [one for one in models if wanted in names(one)]
            if len(hits) == 1:
                return hits[0]
            if hits:
                raise _several(name, hits)
    for models in (all_models(), catalog()):
        hits = [one for one in models if len(wanted) >= PART and wanted in one.id]
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


def _hubs(row: dict[str, Any]) -> list[str]:
    return [row[key] for key in ("hf", "ms") if row.get(key)]


@cache
def _curated() -> tuple[ModelFacts, ...]:
    return tuple(_facts(row, "models.yaml") for row in table("models"))


@cache
def _beyond() -> tuple[ModelFacts, ...]:
    """Models that ms-swift does not name. Their `like` gives the shape."""
    by_id = {one.id: one for one in _curated()}
    rows = []
    for row in table("models_beyond"):
        like = by_id[row["like"]] if "like" in row else None
        shape: dict[str, Any] = {key: getattr(like, key) for key in (*SHAPE, "context", "parameters")} if like else {}
        plain = {key: value for key, value in row.items() if key != "like"}
        if "parameters" in plain:
            plain["parameters"] = int(float(plain["parameters"]))
        rows.append(_facts({"context": 2048} | shape | plain, "models_beyond.yaml"))
    return tuple(replace(one, shape_from="measured" if one.layers else "unknown") for one in rows)


def _facts(row: dict[str, Any], where: str) -> ModelFacts:
    known = {field.name for field in fields(ModelFacts)}
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise ValueError(f"tables/{where}, {row.get('id')}: unknown fields {unknown}")
    return ModelFacts(curated=True, **values)


def _enriched(one: ModelFacts, by_hub: dict[str, dict[str, Any]]) -> ModelFacts:
    """A curated row with what the registry adds: engines, GGUF, demands, further languages and inputs."""
    row = next((by_hub[name.lower()] for name in (one.hf, one.ms) if name and name.lower() in by_hub), None)
    if row is None:
        row = _type_facts().get(one.model_type, {})
    languages = tuple(dict.fromkeys((*one.languages, *row.get("languages", ()))))
    return replace(
        one,
        active=one.active or row.get("active", 0),
        languages=languages,
        modalities=tuple(row.get("modalities", ())) or ((one.modality,) if one.modality != "text" else ()),
        architectures=tuple(row.get("architectures", ())),
        requires=tuple(row.get("requires", ())),
        unmet=tuple(row.get("unmet", ())),
        engines=tuple(row.get("engines", ())),
        gguf=bool(row.get("gguf")),
        licence_from=one.licence_from or "model card",
    )


@cache
def _type_facts() -> dict[str, dict[str, Any]]:
    """What holds for all models of a type, by its name."""
    found: dict[str, dict[str, Any]] = {}
    for row in registry():
        keys = ("architectures", "engines", "gguf")
        found.setdefault(row["model_type"], {key: row[key] for key in keys})
    return found


def _from_registry(row: dict[str, Any]) -> ModelFacts:
    modalities = tuple(row.get("modalities", ()))
    shape = dict(zip(SHAPE, row["shape"], strict=True)) if "shape" in row else {}
    own_code = row.get("own_code")
    return ModelFacts(
        id=row["id"],
        parameters=row.get("parameters", 0),
        model_type=row["model_type"],
        template=row.get("template", ""),
        hf=row.get("hf", ""),
        ms=row["ms"],
        active=row.get("active", 0),
        context=row.get("context", 2048),
        languages=tuple(row.get("languages", ())),
        domains=tuple(row.get("domains", ())) or ("general",),
        modality=modalities[0] if modalities else "text",
        modalities=modalities,
        licence=row.get("licence", ""),
        commercial=row.get("commercial", False),
        released=row.get("released", ""),
        kind=row["kind"],
        gated=row.get("gated", False),
        blocked="own_code" if own_code else "pickle" if row.get("pickle") else "",
        quantized=row.get("quantized", ""),
        architectures=tuple(row["architectures"]),
        requires=tuple(row.get("requires", ())),
        unmet=tuple(row.get("unmet", ())),
        engines=tuple(row["engines"]),
        gguf=row["gguf"],
        mergeable="quantized" not in row,
        parameters_from=row["parameters_from"],
        shape_from="measured" if shape else "unknown",
        released_from=row.get("released_from", "unknown"),
        licence_from=row.get("licence_from", ""),
        **shape,
    )
