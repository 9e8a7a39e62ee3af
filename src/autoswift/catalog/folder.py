"""A local model folder: its facts, or why it cannot be used. Reads JSON and headers only, never weights."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from autoswift.catalog.models import ModelFacts
from autoswift.errors import ModelError
from autoswift.tables import table

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
        raise ModelError(f"There is no model folder {path}.", "A local model is named by its folder.", _HUB)
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
            raise _damaged(path, f"it has {size} bytes and no valid header")
        raw = f.read(length)
    try:
        header = json.loads(raw)
        tensors = {str(k): dict(v) for k, v in header.items() if k != "__metadata__"}
        end = max((int(v["data_offsets"][1]) for v in tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as exc:
        raise _damaged(path, "its header cannot be read") from exc
    if 8 + length + end > size:
        raise _damaged(path, f"its header says {8 + length + end} bytes, the file has {size}")
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
            raise ModelError(f"{index} names no weights.", "Its weight_map is missing.", _AGAIN)
        shards = sorted({str(name) for name in mapping.values()})
        for name in shards:
            if Path(name).name != name:
                raise ModelError(f"{index} names a file outside the folder: {name}.", "That is not allowed.", _AGAIN)
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"{folder} lacks {len(missing)} of its {len(shards)} weight files, first {missing[0]}.",
                f"{index.name} names them, but they are not in the folder (a download that broke off?).",
                _AGAIN,
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
                raise ModelError(
                    f"{folder} holds quantized weights ({path.name}: {name}).",
                    "Training starts from the original weights; 4-bit training quantizes them itself.",
                    "Use the folder of the unquantized model.",
                )
            names.add(name)
            count += math.prod(int(n) for n in tensor.get("shape", ()))
    return count, names


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if path.is_file():
        return _json(path)
    if any(folder.glob("*.gguf")):
        raise ModelError(
            f"{folder} holds only GGUF files.",
            "GGUF is a format for answering; training needs the original weights as safetensors.",
            "Use the model's original folder (config.json, *.safetensors, tokenizer).",
        )
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} holds an adapter, not a model.", "It has no config.json.", "Name the folder of its base model."
        )
    raise ModelError(
        f"{folder} has no config.json.",
        "So it is not a model in the Hugging Face format.",
        "Name the folder that holds config.json, *.safetensors and the tokenizer.",
    )


def _architecture(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The table's row of the architecture, when transformers implements it; *.py files beside it are then not used."""
    known: dict[str, dict[str, Any]] = table("model_types")["architectures"]
    named = config.get("architectures")
    names = [str(one) for one in named] if isinstance(named, list) else []
    for name in names:
        if name in known:
            return known[name]
    what = ", ".join(names) or str(config.get("model_type") or "unnamed")
    if config.get("auto_map") or any(folder.glob("*.py")):
        raise ModelError(
            f"{folder} needs its own Python code ({what}).",
            "The architecture is not part of transformers; loading it would run the *.py files of the folder.",
            "Choose a model whose architecture transformers has: `autoswift models` lists some.",
        )
    raise ModelError(
        f"The architecture {what} of {folder} is not known.",
        "It is not in the table of architectures that can be trained.",
        "Choose another model: `autoswift models` lists some.",
    )


def _types(row: dict[str, Any], template: str) -> tuple[str, str]:
    """ms-swift's model_type and template, by what the chat template contains."""
    for marker in row.get("markers", ()):
        if str(marker["text"]) in template:
            return str(marker["model_type"]), str(marker["template"])
    return str(row["default"]["model_type"]), str(row["default"]["template"])


def _tokenizer(folder: Path) -> None:
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ModelError(
            f"{folder} has no tokenizer.",
            f"None of {', '.join(TOKENIZERS[:3])} is there.",
            "Copy the tokenizer's files from the model's original folder.",
        )


def _no_safetensors(folder: Path) -> ModelError:
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES and p.is_file())
    if pickles:
        return ModelError(
            f"{folder} holds its weights only as {pickles[0]}.",
            "Such files are pickles: loading one can run any code.",
            "Convert it to safetensors where you trust it, or take the safetensors version from the hub.",
        )
    if any(folder.glob("*.gguf")):
        return ModelError(
            f"{folder} holds only GGUF weights.",
            "Training needs the original weights as safetensors.",
            "Use the model's original folder.",
        )
    return ModelError(f"{folder} holds no weights.", "There is no *.safetensors file.", _AGAIN)


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError(f"{path} is damaged.", f"As a safetensors file, {why}.", _AGAIN)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ModelError(f"{path} cannot be read.", str(exc), _AGAIN) from exc
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object.", "A model's configuration is one.", _AGAIN)
    return value


def _number(values: dict[str, Any], name: str) -> int:
    value = values.get(name)
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0


_AGAIN = "Download or copy the model again."
_HUB = "Correct the path; a model of the catalogue is named without slashes (`autoswift models` lists them)."
