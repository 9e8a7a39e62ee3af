"""stub"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoswift.domain.profile import LengthStats


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStats:
    """Tokens of whole rows, and of their answers."""

    rows: LengthStats
    answers: LengthStats


class TokenCounter:
    """Counts tokens as the model's own tokenizer and chat template make them."""

    def __init__(self, model_dir: Path) -> None:
        raise NotImplementedError

    def count_text(self, text: str) -> int:
        """Tokens of a plain text, no special tokens added."""
        raise NotImplementedError

    def count(self, messages: Sequence[dict[str, Any]]) -> int:
        """Tokens of a dialogue, template included."""
        raise NotImplementedError

    def stats(self, rows: Iterable[Sequence[dict[str, Any]]]) -> TokenStats:
        """Lengths over many dialogues."""
        raise NotImplementedError
