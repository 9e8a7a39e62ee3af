"""A local model folder: its facts, or why it cannot be used. Reads JSON and headers only, never weights."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

from autoswift.catalog import schemas, strictjson
from autoswift.catalog.alternatives import instead_of
from autoswift.catalog.models import ModelFacts, registry
from autoswift.catalog.names import SENTENCEPIECES, TEMPLATES, check, is_safe
from autoswift.catalog.templates import LONGEST, check_template
from autoswift.catalog.weights import count, index_of, is_sentencepiece, read_header, weight_files
from autoswift.errors import ModelError
from autoswift.tables import explain, table, told

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
LATER = ("tokenizer.json", "vocab.json", "added_tokens.json")
"""Files of many megabytes, whose content is checked when they are staged and not each time that somebody asks."""
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def inspect_folder(path: Path) -> ModelFacts:
    """Facts of a local model.

    Args:
        path: the folder.

    Raises:
        ModelError: when it cannot be used, or only by running what lies in it.
    """
    folder = path.expanduser().resolve()
    if not folder.is_dir():
        raise ModelError(*explain("folder.absent", path=path))
    check_links(folder)
    check((entry.name for entry in folder.iterdir()), str(folder))
    _config_there(folder)
    headers = {file.name: read_header(file) for file in weight_files(folder)}
    parameters, names = count(headers, index_of(folder), folder)
    check_small(folder)
    return facts_of(folder, parameters, names)


def facts_of(folder: Path, parameters: int, names: set[str], called: str = "") -> ModelFacts:
    """Facts from the configurations of a folder whose weights are known, or are still to come.

    Args:
        folder: with config.json and the tokenizer.
        parameters: number of weights.
        names: of the tensors; empty when unknown.
        called: what errors call the model; the folder by default.

    Raises:
        ModelError: when transformers has no such architecture, or a file is not what it must be.
    """
    config = _config_there(folder)
    _tokenizer(folder)
    row = _architecture(folder, config, called or str(folder))
    text_config = config.get("text_config") if isinstance(config.get("text_config"), dict) else {}
    shape = config | {key: value for key, value in (text_config or {}).items() if value is not None}
    template = chat_template(folder)
    model_type, template_name = _types(row, template)
    heads = _number(shape, "num_attention_heads")
    hidden = _number(shape, "hidden_size")
    tied = "lm_head.weight" not in names if names else bool(shape.get("tie_word_embeddings"))
    return ModelFacts(
        id=folder.name,
        path=str(folder),
        parameters=parameters,
        model_type=model_type,
        template=template_name,
        layers=_number(shape, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=_number(shape, "num_key_value_heads") or heads,
        intermediate=_number(shape, "intermediate_size"),
        vocabulary=_number(shape, "vocab_size"),
        head_dim=_number(shape, "head_dim") or (hidden // heads if heads else 0),
        tied=tied,
        context=_number(shape, "max_position_embeddings") or 2048,
        modality=str(row.get("modality", "text")),
        kind="chat" if template else "base",
        architectures=tuple(str(one) for one in config.get("architectures") or ()),
        released_from="unknown",
    )


def check_links(folder: Path) -> None:
    """Links among a folder's files may not lead out of it: what they lead to would be staged, exported and shared.

    The hub client's own cache is made of links, from `models--*/snapshots/<revision>` to `models--*/blobs/<hash>`;
    these stay within the model.

    Raises:
        ModelError: naming the link.
    """
    root = folder.resolve()
    blobs = root.parent.parent / "blobs"
    is_cache = root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--")
    for entry in sorted(folder.iterdir()):
        if not entry.is_symlink():
            continue
        target = Path(os.path.realpath(entry))
        if target.is_relative_to(root):
            continue
        if is_cache and target.parent == blobs and _BLOB.fullmatch(target.name):
            continue
        raise ModelError(*explain("folder.link_outside", folder=folder, name=entry.name, target=target))


def check_small(folder: Path) -> None:
    """The content of each configuration and template that would be staged.

    Raises:
        ModelError: naming the file, and what is wrong in it.
    """
    for path in sorted(folder.iterdir()):
        if not path.is_file() or not is_safe(path.name):
            continue
        if path.suffix == ".json" and path.name not in LATER:
            schemas.check(path.name, strictjson.read(path), path)
        elif path.name in TEMPLATES:
            if path.stat().st_size > 4 * LONGEST:  # UTF-8: at most 4 bytes a character
                raise ModelError(*explain("folder.template_large", path=path, size=path.stat().st_size, limit=LONGEST))
            check_template(path.read_text(encoding="utf-8", errors="replace"), path)


def chat_template(folder: Path) -> str:
    """The folder's chat template, or an empty text. Of several named ones the one named `default`."""
    single = folder / "chat_template.jinja"
    if single.is_file():
        return single.read_text(encoding="utf-8", errors="replace")
    for name in ("tokenizer_config.json", "chat_template.json"):
        value = strictjson.read(folder / name).get("chat_template") if (folder / name).is_file() else None
        if isinstance(value, list):
            named = {str(one.get("name")): one.get("template") for one in value if isinstance(one, dict)}
            value = named.get("default") or next(iter(named.values()), None)
        if isinstance(value, str) and value:
            return value
    return ""


def _config_there(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if path.is_file():
        config = strictjson.read(path)
        schemas.check_config(config, path)
        return config
    if any(folder.glob("*.gguf")):
        raise ModelError(*explain("folder.gguf", folder=folder))
    if (folder / "adapter_config.json").is_file():
        raise ModelError(*explain("folder.adapter", folder=folder))
    raise ModelError(*explain("folder.no_config", folder=folder))


def _architecture(folder: Path, config: dict[str, Any], called: str) -> dict[str, Any]:
    """The table's row of the architecture, when transformers implements it; *.py files beside it are then not used."""
    known: dict[str, dict[str, Any]] = table("model_types")["architectures"]
    names = [str(one) for one in config.get("architectures") or ()]
    for name in names:
        if name in known:
            schemas.check_type(config, called)
            return known[name]
        if row := _row_of_registry(name):
            schemas.check_type(config, called)
            return row
    what = ", ".join(names) or str(config.get("model_type") or told("error.folder.unnamed"))
    if config.get("auto_map") or any(folder.glob("*.py")):
        raise ModelError(*explain("folder.own_code", folder=called, what=what, instead=instead_of(called)))
    raise ModelError(*explain("folder.unknown_architecture", folder=called, what=what))


def _row_of_registry(architecture: str) -> dict[str, Any]:
    """For an architecture of text that the table does not have, and ms-swift knows as one type only; else empty.

    Of several types, the weights do not tell which one they are.
    """
    rows = [row for row in registry() if architecture in row["architectures"] and not row.get("own_code")]
    if len({row["model_type"] for row in rows}) != 1 or any(row.get("modalities") for row in rows):
        return {}
    templates = Counter(str(row.get("template") or "") for row in rows)
    template = max(sorted(templates), key=lambda name: templates[name])
    return {"default": {"model_type": rows[0]["model_type"], "template": template}} if template else {}


def _types(row: dict[str, Any], template: str) -> tuple[str, str]:
    """ms-swift's model_type and template, by what the chat template contains."""
    for marker in row.get("markers", ()):
        if str(marker["text"]) in template:
            return str(marker["model_type"]), str(marker["template"])
    return str(row["default"]["model_type"]), str(row["default"]["template"])


def _tokenizer(folder: Path) -> None:
    there = [name for name in TOKENIZERS if (folder / name).is_file()]
    if not there:
        raise ModelError(*explain("folder.no_tokenizer", folder=folder, files=", ".join(TOKENIZERS[:3])))
    usable = [name for name in there if name not in SENTENCEPIECES or is_sentencepiece(folder / name)]
    if not usable:
        raise ModelError(*explain("folder.not_sentencepiece", folder=folder, file=there[0]))


def _number(values: dict[str, Any], name: str) -> int:
    value = values.get(name)
    if isinstance(value, list):  # one number a layer: the largest, which memory must hold
        value = max((n for n in value if isinstance(n, int)), default=0)
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0


__all__ = ["chat_template", "check_links", "check_small", "facts_of", "inspect_folder", "read_header", "weight_files"]
