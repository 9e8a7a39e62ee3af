"""What labelled requests like a sentence ask for: votes of its nearest examples, by the embedding."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from autoswift.domain.protocols import Embedder
from autoswift.run.places import cache_folder
from autoswift.tables import table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NEIGHBOURS = 13
"""Examples that vote; 9 to 20 are as good on the learning set, 1 is four points worse."""
SHARPNESS = 16.0
"""A neighbour's vote is exp(16 (cosine - 1)): one that is 0.1 nearer counts five times."""
FACTS = ("domain", "goal", "modality")


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled request."""

    text: str
    domain: str
    goal: str
    modality: str


@dataclass(frozen=True, slots=True)
class Neighbours:
    """How the nearest examples vote.

    Attributes:
        shares: fact to value to its share of the votes; the shares of a fact sum to 1.
        like: fact to value to the text of its nearest example.
        cosine: of the nearest example.
    """

    shares: dict[str, dict[str, float]]
    like: dict[str, dict[str, str]]
    cosine: float


@cache
def examples() -> tuple[Example, ...]:
    """The shipped table, in its order."""
    found = []
    for domain, kinds in table("examples_tasks").items():
        for kind, texts in kinds.items():
            goal, _, modality = kind.partition(" ")
            found += [Example(text, domain, goal, modality or "text") for text in texts]
    return tuple(found)


def neighbours(sentences: Sequence[str], embedder: Embedder) -> list[Neighbours]:
    """Compares normalised sentences with the examples; many at once cost each a tenth."""
    import numpy as np

    if not sentences:
        return []
    cosines = (embedder.embed(list(sentences)) @ _vectors(embedder).T).astype(np.float64)
    return [_votes(row) for row in cosines]


def _votes(cosines: NDArray[np.float64]) -> Neighbours:
    """Of one sentence, from its cosines to all examples."""
    import numpy as np

    known = examples()
    nearest = [int(i) for i in np.argsort(-cosines, kind="stable")[:NEIGHBOURS]]
    votes = np.exp(SHARPNESS * (cosines[nearest] - 1.0))
    votes /= votes.sum()
    shares: dict[str, dict[str, float]] = {fact: {} for fact in FACTS}
    like: dict[str, dict[str, str]] = {fact: {} for fact in FACTS}
    for i, vote in zip(nearest, votes, strict=True):
        for fact in FACTS:
            value = getattr(known[i], fact)
            shares[fact][value] = shares[fact].get(value, 0.0) + float(vote)
            like[fact].setdefault(value, known[i].text)
    return Neighbours(shares, like, float(cosines[nearest[0]]))


_kept: dict[int, tuple[Embedder, NDArray[np.float32]]] = {}
"""Vectors of the examples by embedder; the embedder is kept with them, so that its id stays its own."""


def _vectors(embedder: Embedder) -> NDArray[np.float32]:
    """Of all examples: (examples, dimensions)."""
    if id(embedder) not in _kept:
        _kept[id(embedder)] = embedder, _cached(embedder, [e.text.lower() for e in examples()])
    return _kept[id(embedder)][1]


def _cached(embedder: Embedder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Embedded once a machine: a thousand texts take some two seconds, reading them back a few milliseconds."""
    import numpy as np

    name = getattr(embedder, "name", "")
    if not name:
        return embedder.embed(list(texts))
    key = hashlib.sha256("\n".join((name, *texts)).encode()).hexdigest()[:16]
    path = cache_folder() / f"examples-{name}-{key}.npy"
    try:
        found: NDArray[np.float32] = np.load(path, allow_pickle=False)
        if found.dtype == np.float32 and found.ndim == 2 and len(found) == len(texts):
            return found
    except (OSError, ValueError, EOFError):
        pass  # not there yet, or cut off: made again below
    made = embedder.embed(list(texts))
    _keep(path, made)
    return made


def _keep(path: Path, vectors: NDArray[np.float32]) -> None:
    """Writes the cache if it can: a read-only home or a full disk only costs the second again."""
    import numpy as np

    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".examples-", dir=path.parent)
        with os.fdopen(handle, "wb") as f:
            np.save(f, vectors, allow_pickle=False)
        os.replace(temporary, path)
    except OSError:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
