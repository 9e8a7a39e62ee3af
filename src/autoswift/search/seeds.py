"""Random numbers that a resume draws again."""

from __future__ import annotations

import hashlib


def draw_seed(seed: int, number: int) -> int:
    """The seed of proposal `number`: 32 bits of SHA-256, so that neighbouring numbers are unrelated."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")
