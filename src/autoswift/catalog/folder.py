"""A local model folder: its facts, or why it cannot be used. Reads JSON and headers only, never weights."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from autoswift.catalog.models import ModelFacts
from autoswift.errors import ModelError
from autoswift.tables import explain, table, told

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
HEADER_LIMIT = 100_000_000
"""Bytes of a safetensors header: the format's own limit."""
PACKED = ("_packed", ".qweight", ".qzeros", ".scales", ".quant_map", ".absmax")
"""Endings of tensors of already quantized weights, which cannot be trained on and counted this way."""


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
    config = _config(folder)
    parameters, names = _weights(folder)
    _tokenizer(folder)
    row = _architecture(folder, config)
    text_config = config.get("text_config") if isinstance(config.get("text_config"), dict) else {}
    shape = config | {key: value for key, value in (text_config or {}).items() if value is not None}
    model_type, template = _types(row, chat_template(folder))
    heads = _number(shape, "num_attention_heads")
    hidden = _number(shape, "hidden_size")
    tied = "lm_head.weight" not in names if names else bool(shape.get("tie_word_embeddings"))
    return ModelFacts(
        id=folder.name,
        path=str(folder),
        parameters=parameters,
        model_type=model_type,
        template=template,
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
        kind="chat" if chat_template(folder) else "base",
    )


def chat_template(folder: Path) -> str:
    """The folder's chat template, or an empty text. Of several named ones the one named `default`."""
    single = folder / "chat_template.jinja"
    if single.is_file():
        return single.read_text(encoding="utf-8", errors="replace")
    for name in ("tokenizer_config.json", "chat_template.json"):
        value = _json(folder / name).get("chat_template") if (folder / name).is_file() else None
        if isinstance(value, list):
            named = {str(one.get("name")): one.get("template") for one in value if isinstance(one, dict)}
            value = named.get("default") or next(iter(named.values()), None)
        if isinstance(value, str) and value:
            return value
    return ""


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """The tensors of a safetensors file: name to dtype, shape, data_offsets.

    Raises:
        ModelError: when it is not one, or the file is shorter than its header says.
    """
    size = path.stat().st_size
    with path.open("rb") as f:
        start = f.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(HEADER_LIMIT, max(size - 8, 0)):
            raise ModelError(*explain("folder.damaged_start", path=path, size=size))
        raw = f.read(length)
    try:
        header = json.loads(raw)
        tensors = {str(k): dict(v) for k, v in header.items() if k != "__metadata__"}
        end = max((int(v["data_offsets"][1]) for v in tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as exc:
        raise ModelError(*explain("folder.damaged_header", path=path)) from exc
    if 8 + length + end > size:
        raise ModelError(*explain("folder.damaged_size", path=path, said=8 + length + end, size=size))
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model, in order.

    Raises:
        ModelError: when there are none, or one named by the index is missing.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        mapping = _json(index).get("weight_map")
        if not isinstance(mapping, dict) or not mapping:
            raise ModelError(*explain("folder.index_empty", index=index))
        shards = sorted({str(name) for name in mapping.values()})
        for name in shards:
            if Path(name).name != name:
                raise ModelError(*explain("folder.index_outside", index=index, name=name))
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                *explain(
                    "folder.shards",
                    folder=folder,
                    missing=len(missing),
                    all=len(shards),
                    first=missing[0],
                    file=index.name,
                )
            )
        return [folder / name for name in shards]
    # Adapters and optimizer states may lie beside a model; a plain model's weights begin with "model".
    found = sorted(p for p in folder.glob("*.safetensors") if p.is_file() and not p.name.startswith("adapter_"))
    preferred = [p for p in found if p.name.startswith("model")]
    if not (preferred or found):
        raise _no_safetensors(folder)
    return preferred or found


def _weights(folder: Path) -> tuple[int, set[str]]:
    """Number of parameters, and the tensors' names."""
    count, names = 0, set()
    for path in weight_files(folder):
        for name, tensor in read_header(path).items():
            if name.endswith(PACKED):
                raise ModelError(*explain("folder.quantized", folder=folder, file=path.name, tensor=name))
            names.add(name)
            count += math.prod(int(n) for n in tensor.get("shape", ()))
    return count, names


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if path.is_file():
        return _json(path)
    if any(folder.glob("*.gguf")):
        raise ModelError(*explain("folder.gguf", folder=folder))
    if (folder / "adapter_config.json").is_file():
        raise ModelError(*explain("folder.adapter", folder=folder))
    raise ModelError(*explain("folder.no_config", folder=folder))


def _architecture(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The table's row of the architecture, when transformers implements it; *.py files beside it are then not used."""
    known: dict[str, dict[str, Any]] = table("model_types")["architectures"]
    named = config.get("architectures")
    names = [str(one) for one in named] if isinstance(named, list) else []
    for name in names:
        if name in known:
            return known[name]
    what = ", ".join(names) or str(config.get("model_type") or told("error.folder.unnamed"))
    if config.get("auto_map") or any(folder.glob("*.py")):
        raise ModelError(*explain("folder.own_code", folder=folder, what=what))
    raise ModelError(*explain("folder.unknown_architecture", folder=folder, what=what))


def _types(row: dict[str, Any], template: str) -> tuple[str, str]:
    """ms-swift's model_type and template, by what the chat template contains."""
    for marker in row.get("markers", ()):
        if str(marker["text"]) in template:
            return str(marker["model_type"]), str(marker["template"])
    return str(row["default"]["model_type"]), str(row["default"]["template"])


def _tokenizer(folder: Path) -> None:
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ModelError(*explain("folder.no_tokenizer", folder=folder, files=", ".join(TOKENIZERS[:3])))


def _no_safetensors(folder: Path) -> ModelError:
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES and p.is_file())
    if pickles:
        return ModelError(*explain("folder.pickles", folder=folder, file=pickles[0]))
    if any(folder.glob("*.gguf")):
        return ModelError(*explain("folder.gguf_weights", folder=folder))
    return ModelError(*explain("folder.no_weights", folder=folder))


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ModelError(*explain("folder.unreadable", path=path, evidence=exc)) from exc
    if not isinstance(value, dict):
        raise ModelError(*explain("folder.not_object", path=path))
    return value


def _number(values: dict[str, Any], name: str) -> int:
    value = values.get(name)
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0
