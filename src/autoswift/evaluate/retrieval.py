"""How well documents are ranked: for embedding and re-ranking."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

AT = 10
"""nDCG@10 and recall@10, as in BEIR and MTEB."""


def dcg(gains: Sequence[float], k: int = AT) -> float:
    """Discounted cumulative gain of gains in their order (Järvelin & Kekäläinen 2002)."""
    return sum(gain / math.log2(place + 2) for place, gain in enumerate(gains[:k]))


def ndcg(ranked: Sequence[str], relevant: Mapping[str, float], k: int = AT) -> float:
    """nDCG@k of one query, 0 to 1; 0 where nothing is relevant.

    Args:
        ranked: documents, best first. relevant: document to its gain.
    """
    best = dcg(sorted(relevant.values(), reverse=True), k)
    return dcg([relevant.get(one, 0.0) for one in ranked], k) / best if best > 0 else 0.0


def recall(ranked: Sequence[str], relevant: Mapping[str, float], k: int = AT) -> float:
    """Share of what is relevant among the first k."""
    wanted = {one for one, gain in relevant.items() if gain > 0}
    return len(wanted & set(ranked[:k])) / len(wanted) if wanted else 0.0


def reciprocal_rank(ranked: Sequence[str], relevant: Mapping[str, float], k: int = AT) -> float:
    """1 / place of the first relevant document, 0 when none is among the first k."""
    for place, one in enumerate(ranked[:k], 1):
        if relevant.get(one, 0.0) > 0:
            return 1.0 / place
    return 0.0


def retrieval_rows(
    rankings: Sequence[Sequence[str]], relevant: Sequence[Mapping[str, float]], k: int = AT
) -> dict[str, list[float]]:
    """ndcg, recall and mrr, a value a query each."""
    pairs = list(zip(rankings, relevant, strict=True))
    return {
        "ndcg": [ndcg(r, w, k) for r, w in pairs],
        "recall": [recall(r, w, k) for r, w in pairs],
        "mrr": [reciprocal_rank(r, w, k) for r, w in pairs],
    }


def score_rankings(
    rankings: Sequence[Sequence[str]], relevant: Sequence[Mapping[str, float]], k: int = AT
) -> dict[str, float]:
    """The means over queries.

    Raises:
        ValueError: without queries.
    """
    if not rankings:
        raise ValueError("no queries to score")
    return {name: fmean(values) for name, values in retrieval_rows(rankings, relevant, k).items()}


def ranked_by(scores: Mapping[str, float]) -> list[str]:
    """Documents by their scores, best first; ties by name, so that the order is always the same."""
    return sorted(scores, key=lambda one: (-scores[one], one))
