"""What a model's JSON files may say: checked value by value, and freed of everything that leads to foreign code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoswift.catalog import strictjson
from autoswift.catalog.templates import check_template
from autoswift.errors import ModelError
from autoswift.tables import explain, table

WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,119}")
TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
MOST = {
    "hidden_size": 2**17,
    "intermediate_size": 2**20,
    "num_hidden_layers": 2**12,
    "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12,
    "head_dim": 2**14,
    "vocab_size": 2**24,
    "max_position_embeddings": 2**31,
}
"""Far above every published model; memory and time are computed from these, and loaders allocate by them."""
LEADS_TO_CODE = ("auto_map", "custom_pipelines", "custom_generate", "trust_remote_code")
"""Keys that transformers follows to Python files, of this folder or of another repository. ms-swift loads with
trust_remote_code and has no switch for it, so what is staged must not have them."""
KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
"""owner/name here is a repository of compiled kernels, fetched and loaded."""
STRIPPED = frozenset(
    (
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "video_preprocessor_config.json",
        "image_processor_config.json",
        "chat_template.json",
    )
)
"""Configurations. Not the vocabularies: there, such a key is a word of the language."""


def check_config(config: dict[str, Any], path: Path | str) -> None:
    """`config.json`: types and sizes of what is read from it, and a type that goes with its architecture.

    Raises:
        ModelError: naming the field.
    """
    named = config.get("architectures")
    if named is not None and not (
        isinstance(named, list) and len(named) <= 8 and all(isinstance(n, str) and WORD.fullmatch(n) for n in named)
    ):
        raise _field(path, "architectures", named)
    model_type = config.get("model_type")
    if model_type is not None and not (isinstance(model_type, str) and TYPE.fullmatch(model_type)):
        raise _field(path, "model_type", model_type)
    inner = config.get("text_config")
    if inner is not None and not isinstance(inner, dict):
        raise _field(path, "text_config", inner)
    for values in (config, inner or {}):
        for name, most in MOST.items():
            if not _within(values.get(name), most):
                raise _field(path, name, values.get(name))


def check_type(config: dict[str, Any], folder: Path | str) -> None:
    """The pair of `model_type` and architecture must be one that transformers has.

    Another pair is not what the weights were made with: it asks for other code than the architecture's, and fails at
    best.

    Raises:
        ModelError: naming the pair.
    """
    known: dict[str, str] = table("transformers_types")
    model_type, named = config.get("model_type"), config.get("architectures") or []
    if model_type is None or not named:
        return
    if not any(name in known.get(model_type, "").split() for name in named):
        raise ModelError(*explain("folder.odd_type", folder=folder, type=model_type, architectures=", ".join(named)))


def _within(value: Any, most: int) -> bool:
    if value is None:
        return True
    if isinstance(value, list):  # one number a layer, in some architectures
        return len(value) <= MOST["num_hidden_layers"] and all(_within(one, most) for one in value)
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


def check_tokenizer_config(values: dict[str, Any], path: Path | str) -> None:
    """`tokenizer_config.json`: a class is a plain name, and each chat template can be parsed."""
    for name in ("tokenizer_class", "processor_class"):
        value = values.get(name)
        if value is not None and not (isinstance(value, str) and WORD.fullmatch(value)):
            raise _field(path, name, value)
    check_chat_template(values, path)


def check_chat_template(values: dict[str, Any], path: Path | str) -> None:
    """`chat_template`: one template, or several with names."""
    template = values.get("chat_template")
    if template is None:
        return
    named = template if isinstance(template, list) else [{"template": template}]
    for one in named:
        source = one.get("template") if isinstance(one, dict) else None
        if not isinstance(source, str):
            raise _field(path, "chat_template", template)
        check_template(source, path)


def check_vocabulary(values: dict[str, Any], path: Path | str) -> None:
    """`vocab.json`, `added_tokens.json`: words and their numbers."""
    for word, number in values.items():
        if type(number) is not int or not 0 <= number < MOST["vocab_size"]:
            raise _field(path, word[:80], number)


def check_tokenizer(values: dict[str, Any], path: Path | str) -> None:
    """`tokenizer.json`: of the tokenizers library."""
    model = values.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") not in ("BPE", "WordPiece", "WordLevel", "Unigram"):
        raise _field(path, "model.type", model.get("type") if isinstance(model, dict) else model)


def _class_names(values: dict[str, Any], path: Path | str) -> None:
    for name, value in values.items():
        if name.endswith(("_processor_type", "_extractor_type", "_class")) and not (
            value is None or (isinstance(value, str) and WORD.fullmatch(value))
        ):
            raise _field(path, name, value)


CHECKS: dict[str, Callable[[dict[str, Any], Path | str], None]] = {
    "config.json": check_config,
    "tokenizer_config.json": check_tokenizer_config,
    "chat_template.json": check_chat_template,
    "vocab.json": check_vocabulary,
    "added_tokens.json": check_vocabulary,
    "tokenizer.json": check_tokenizer,
    "preprocessor_config.json": _class_names,
    "processor_config.json": _class_names,
    "video_preprocessor_config.json": _class_names,
    "image_processor_config.json": _class_names,
}


def check(name: str, values: dict[str, Any], path: Path | str) -> None:
    """Checks the content of a JSON file by its name.

    Raises:
        ModelError: when it says what it must not.
    """
    if name in CHECKS:
        CHECKS[name](values, path)


def cleaned(name: str, raw: bytes, path: Path | str) -> tuple[bytes, tuple[str, ...]]:
    """A JSON file as it is staged: checked, and without what leads to foreign code.

    Args:
        name: of the file.
        raw: its content.
        path: for errors.

    Returns:
        The content (byte for byte the same when nothing had to go), and the keys that went.

    Raises:
        ModelError: when it is damaged or says what it must not.
    """
    values = strictjson.parse(raw, path)
    check(name, values, path)
    gone: set[str] = set()
    if name in STRIPPED:
        # By the parsed value, never by the text: "auto\u005fmap" is the same key to a reader.
        values = _without(values, gone)
    if not gone:
        return raw, ()
    return (json.dumps(values, ensure_ascii=False, indent=2) + "\n").encode(), tuple(sorted(gone))


def _without(value: Any, gone: set[str]) -> Any:
    """Depth is bounded by strictjson."""
    if isinstance(value, list):
        return [_without(one, gone) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, one in value.items():
        if key in LEADS_TO_CODE or (key in KERNELS and "/" in json.dumps(one)):
            gone.add(key)
        else:
            kept[key] = _without(one, gone)
    return kept


def _field(path: Path | str, name: str, value: Any) -> ModelError:
    return ModelError(*explain("folder.field", path=path, field=name, value=ascii(value)[:80]))
