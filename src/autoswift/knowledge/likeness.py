"""How alike two tasks are, as far as settings carry over from one to the other."""

from __future__ import annotations

import base64
import binascii
import math
from typing import TYPE_CHECKING

from autoswift.knowledge.entry import Fingerprint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WEIGHTS = {
    "sentence": 0.15,
    "domain": 0.15,
    "language": 0.10,
    "parameters": 0.20,
    "method": 0.10,
    "rows": 0.15,
    "characters": 0.10,
    "answer_characters": 0.05,
}
"""Share of each fact in the likeness of two tasks. What carries over are settings: good learning rates follow the
model's size and the method, then how long training lasts and how long rows are; what a task is about moves them less
("LoRA Without Regret", Schulman et al. 2025, finds one rule over data sets), yet decides about batch and epochs."""
SCALE = {
    "parameters": math.log(30),
    "rows": math.log(100),
    "characters": math.log(10),
    "answer_characters": math.log(10),
}
"""At this ratio two numbers have nothing in common any more. Rates are compared by their ratio to the rule for their
own model size, so that sizes may lie far apart: 0.5B and 7B (a factor of 15) still share a fifth."""
BOUND = 0.5
"""Less alike than this is no source: two tasks with the same model and method, but of other domain, language, length
and amount of data, lie just below it."""
COSINE = (0.1, 0.7)
"""Cosines of the sentence encoder that count as nothing and everything in common: measured on such sentences, other
tasks lie at 0.0 to 0.3, other domains of one task at 0.3 to 0.5, the same task in other words from 0.7 on."""
DIMENSIONS = 1024
"""Longest embedding that is read."""


def similarity(one: Fingerprint, other: Fingerprint, sentence: float | None = None) -> float:
    """Weighted share of what two tasks have in common, from 0 to 1.

    0 when goal or modality differ: the metric is another one then, and no setting carries over. Facts that either
    side does not know are left out.

    Args:
        one, other: the tasks.
        sentence: likeness of their sentences where it is known already; else the embeddings are compared.
    """
    if one.modality != other.modality or one.goal != other.goal:
        return 0.0
    total = common = 0.0
    for name, weight in WEIGHTS.items():
        share = _share(name, one, other) if name != "sentence" else sentence_likeness(one, other, sentence)
        if share is not None:
            total += weight
            common += weight * share
    return min(1.0, common / total) if total else 0.0


def _share(name: str, one: Fingerprint, other: Fingerprint) -> float | None:
    left, right = getattr(one, name), getattr(other, name)
    if not left or not right:
        return None
    if name in SCALE:
        return max(0.0, 1.0 - abs(math.log(left) - math.log(right)) / SCALE[name])
    if left == right:
        return 1.0
    if name == "language" and "mixed" in (left, right):
        return 0.5
    return 0.7 if name == "method" and {left, right} == {"lora", "qlora"} else 0.0  # the same adapters on both


def sentence_likeness(one: Fingerprint, other: Fingerprint, known: float | None = None) -> float | None:
    """Likeness of the sentences from 0 to 1; None where one has no embedding, or another encoder made it."""
    if known is not None:
        return known
    if not one.embedding or not other.embedding or one.encoder != other.encoder:
        return None
    left, right = unpacked(one.embedding), unpacked(other.embedding)
    if left is None or right is None or left.shape != right.shape:
        return None
    low, high = COSINE
    return min(1.0, max(0.0, (float(left @ right) - low) / (high - low)))


def packed(vector: NDArray[np.float32]) -> str:
    """A unit vector as base64 of float16: 512 numbers in 1,368 characters, cosines exact to 0.001."""
    import numpy as np

    return base64.b64encode(np.asarray(vector, dtype="<f2").tobytes()).decode("ascii")


def unpacked(text: str) -> NDArray[np.float32] | None:
    """The unit vector, or None where the text holds none."""
    import numpy as np

    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    if not raw or len(raw) % 2 or len(raw) > 2 * DIMENSIONS:
        return None
    vector = np.frombuffer(raw, dtype="<f2").astype(np.float32)
    length = float(np.linalg.norm(vector))
    return vector / length if math.isfinite(length) and length > 0 else None
