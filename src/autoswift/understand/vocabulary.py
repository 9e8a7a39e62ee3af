"""The words that a fact may take, and how a person's or a model's spelling of one is read."""

from __future__ import annotations

import re

from autoswift.errors import InputError
from autoswift.tables import explain, table

FACTS = ("domain", "goal", "modality", "deploy")
_FIXED: dict[str, tuple[str, ...]] = {
    "goal": (
        "chat",
        "classification",
        "extraction",
        "reasoning",
        "preference",
        "continued_pretraining",
        "embedding",
        "reranking",
    ),
    "modality": ("text", "image", "audio", "video"),
    "deploy": ("cloud", "k8s", "edge", "none"),
    "language": ("zh", "en", "mixed"),
}
_ISO = re.compile(r"[a-z]{2}")


def vocabulary(fact: str) -> tuple[str, ...]:
    """The words of a fact; a domain that is added to the lexicon's table is one from then on."""
    if fact != "domain":
        return _FIXED[fact]
    return (*(name for name in table("understand")["domain"] if name != "none"), "general")


def word(fact: str, said: str) -> str | None:
    """The vocabulary's spelling of a value ("Customer Service" is customer_service), or None when it is no value."""
    plain = re.sub(r"[\s-]+", "_", said.strip().lower())
    if plain in vocabulary(fact):
        return plain
    near = {"role_play": "roleplay", "kubernetes": "k8s", "re_ranking": "reranking", "summarisation": "summarization"}
    found = near.get(plain, plain)
    if found in vocabulary(fact):
        return found
    return plain if fact == "language" and _ISO.fullmatch(plain) else None


def required(fact: str, said: object) -> str:
    """The value that a user gave for a fact.

    Raises:
        InputError: when it is no value of the fact; it lists those that are.
    """
    found = word(fact, said) if isinstance(said, str) else None
    if found is None:
        raise InputError(*explain("understand.no_such_word", fact=fact, said=said, known=", ".join(vocabulary(fact))))
    return found
