"""File names from strangers: which ones are needed, and which ones say that somebody means harm."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from autoswift.errors import ModelError
from autoswift.tables import explain

JSONS = frozenset(
    (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "chat_template.json",
        "preprocessor_config.json",
        "processor_config.json",
        "video_preprocessor_config.json",
        "image_processor_config.json",
        "model.safetensors.index.json",
    )
)
TEXTS = frozenset(("vocab.txt", "merges.txt"))
TEMPLATES = frozenset(("chat_template.jinja",))
SENTENCEPIECES = frozenset(("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.model"))
LICENCES = re.compile(r"(?:LICEN[CS]E|NOTICE|USE_POLICY)(?:[._-][\w.-]*)?", re.IGNORECASE)
LICENCE_ENDINGS = ("", ".txt", ".md")
WEIGHTS = re.compile(r"(?!adapter_|optimizer|training_args|trainer_state)[A-Za-z0-9][\w.-]*\.safetensors")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".mdl", ".joblib", ".npy", ".npz", ".h5", ".msgpack")
"""Weights whose loading can run code: pickles, what may hold pickled objects, Keras' files with their lambdas."""
LONGEST = 180
"""Bytes of a name: file systems end at 255, and something is put before and behind it while it arrives."""
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def is_id(model_id: str) -> bool:
    """Whether it is owner/name."""
    return bool(_ID.fullmatch(model_id)) and ".." not in model_id


def is_weights(name: str) -> bool:
    """Whether it can be a file of a model's safetensors weights."""
    return bool(WEIGHTS.fullmatch(name))


def is_licence(name: str) -> bool:
    """Whether it is a licence text: kept with the model, and not part of what it does."""
    return bool(LICENCES.fullmatch(name)) and Path(name).suffix.lower() in LICENCE_ENDINGS


def is_safe(name: str) -> bool:
    """Whether a file of that name is staged: weights, the tokenizer, known configurations, templates, the licence.

    Never *.py, *.bin, *.pt, *.pkl, and nothing of subfolders.
    """
    if len(name.encode("utf-8", "replace")) > LONGEST:
        return False
    known = JSONS | TEXTS | TEMPLATES | SENTENCEPIECES
    return name in known or is_weights(name) or is_licence(name)


def check(names: Iterable[str], model: str) -> None:
    """Looks at all names of a model, also those that are not taken: a list with such a name was tampered with.

    Args:
        names: with folders, as the hub lists them.
        model: for the error.

    Raises:
        ModelError: a name leads out of the folder, is too long, has control characters, or two fall together on a
            file system that ignores case.
    """
    seen: dict[str, str] = {}
    for name in names:
        shown = ascii(name)[:200]
        if _leads_out(name):
            raise ModelError(*explain("trust.name_outside", model=model, name=shown))
        # Categories C*: control characters, NUL among them, and those that turn the direction of writing.
        if any(unicodedata.category(c).startswith("C") for c in name):
            raise ModelError(*explain("trust.name_control", model=model, name=shown))
        if any(len(part.encode("utf-8", "replace")) > LONGEST for part in name.split("/")):
            raise ModelError(*explain("trust.name_long", model=model, name=shown, limit=LONGEST))
        folded = unicodedata.normalize("NFKC", name).casefold()
        other = seen.setdefault(folded, name)
        if other != name and (is_safe(name) or is_safe(other)):
            raise ModelError(*explain("trust.name_collision", model=model, name=ascii(name), other=ascii(other)))


def _leads_out(name: str) -> bool:
    parts = name.split("/")
    return "\\" in name or bool(re.match(r"[A-Za-z]:", name)) or any(part in ("", ".", "..") for part in parts)
