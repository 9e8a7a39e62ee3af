"""How near an open answer comes to its reference: ROUGE-L, chrF, nearness of meaning."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from autoswift.domain.protocols import Embedder

LONGEST = 2_000
"""Tokens of a text that ROUGE-L looks at: the table of the longest common subsequence is quadratic."""

_TOKEN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\u3040-\u30ff\uac00-\ud7af]|[^\W_]+", re.UNICODE)


def tokens_of(text: str) -> list[str]:
    """Words of scripts that write spaces, single characters of Chinese, Japanese and Korean."""
    found: list[str] = []
    for word in _TOKEN.findall(unicodedata.normalize("NFKC", text).lower()):
        cut = re.findall(
            r"[\u3400-\u9fff\uf900-\ufaff\u3040-\u30ff\uac00-\ud7af]|[^\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af]+", word
        )
        found += cut
    return found[:LONGEST]


def rouge_l(answer: str, reference: str) -> float:
    """F1 of the longest common subsequence of tokens (Lin 2004, beta 1), 0 to 1."""
    a, b = tokens_of(answer), tokens_of(reference)
    if not a or not b:
        return float(a == b)
    common = _common(a, b)
    return 2 * common / (len(a) + len(b))


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, one bit a token (Hyyrö 2004): a Python integer does a row at once."""
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | (1 << i)
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        hit = row & places.get(word, 0)
        row = ((row + hit) | (row - hit)) & full
    return len(a) - row.bit_count()


def rouge_l_rows(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """ROUGE-L, one a row."""
    return [rouge_l(a, r) for a, r in zip(answers, references, strict=True)]


def similarity_rows(embedder: Embedder, answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """Cosine of each answer's and its reference's meaning, -1 to 1; 0 for an empty answer."""
    import numpy as np

    if not answers:
        return []
    left, right = embedder.embed(list(answers)), embedder.embed(list(references))
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosines = (left * right).sum(axis=1) / np.maximum(norms, 1e-12)
    return [float(c) if a.strip() else 0.0 for c, a in zip(cosines, answers, strict=True)]
