"""What labelled requests like a sentence ask for: votes of its nearest examples and of a linear fit to all of them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoswift import tables
from autoswift.domain.protocols import Embedder
from autoswift.run.places import cache_folder
from autoswift.tables import table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NEIGHBOURS = 13
"""Examples that vote; 9 to 40 are as good, 1 is four points worse."""
SHARPNESS = 16.0
"""A neighbour's vote is exp(16 (cosine - 1)): one that is 0.1 nearer counts five times."""
RIDGE = 1.0
"""Penalty of the least-squares fit to all examples; 0.3 to 2 give the same within a point."""
LINE_SHARPNESS = 8.0
"""Of the softmax over the fit's values: they lie between 0 and 1, and 0.3 more is ten times as likely."""
LINE = 0.5
"""Share of the fit in the votes. On sentences that neither had seen the neighbours alone were right about the domain in
89 %, the fit alone in 90 %, both together in 92 %: the neighbours know particular cases, the fit the whole picture."""
FACTS = ("domain", "goal", "modality")
SHIPPED = Path(tables.__file__).parent
"""Where the vectors of the shipped examples lie, made by scripts/embed_examples.py."""


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
    known = learned(embedder)
    vectors = embedder.embed(list(sentences)).astype(np.float64)
    cosines = vectors @ known.vectors.T
    lines = {fact: _softmax(_with_one(vectors) @ fit) for fact, fit in known.fits.items()}
    return [_votes(row, {fact: line[n] for fact, line in lines.items()}) for n, row in enumerate(cosines)]


def _votes(cosines: NDArray[np.float64], lines: Mapping[str, NDArray[np.float64]]) -> Neighbours:
    """Of one sentence, from its cosines to all examples and the fit's share of each value."""
    import numpy as np

    known = examples()
    nearest = [int(i) for i in np.argsort(-cosines, kind="stable")[:NEIGHBOURS]]
    votes = np.exp(SHARPNESS * (cosines[nearest] - 1.0))
    votes *= (1.0 - LINE) / votes.sum()
    shares = {
        fact: {value: LINE * float(part) for value, part in zip(values(fact), lines[fact], strict=True)}
        for fact in FACTS
    }
    like: dict[str, dict[str, str]] = {fact: {} for fact in FACTS}
    for i, vote in zip(nearest, votes, strict=True):
        for fact in FACTS:
            value = getattr(known[i], fact)
            shares[fact][value] += float(vote)
            like[fact].setdefault(value, known[i].text)
    return Neighbours(shares, like, float(cosines[nearest[0]]))


@cache
def values(fact: str) -> tuple[str, ...]:
    """The values that the examples have of a fact, sorted."""
    return tuple(sorted({str(getattr(example, fact)) for example in examples()}))


@dataclass(frozen=True, slots=True)
class _Known:
    """What an embedder makes of the examples.

    Attributes:
        vectors: (examples, dimensions), of unit length.
        fits: fact to (dimensions + 1, values): a vector with a one at its end times this is near 1 for its value.
    """

    vectors: NDArray[np.float64]
    fits: dict[str, NDArray[np.float64]]


def _with_one(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    return np.concatenate([vectors, np.ones((len(vectors), 1))], axis=1)


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the last axis, sharpened."""
    import numpy as np

    raised: NDArray[np.float64] = np.exp(LINE_SHARPNESS * (scores - scores.max(axis=-1, keepdims=True)))
    raised /= raised.sum(axis=-1, keepdims=True)
    return raised


_kept: dict[int, tuple[Embedder, _Known]] = {}
"""By embedder; the embedder is kept with them, so that its id stays its own."""


def learned(embedder: Embedder) -> _Known:
    """The vectors and the fits that an embedder makes of the examples."""
    import numpy as np

    if id(embedder) not in _kept:
        vectors = _cached(embedder).astype(np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        _kept[id(embedder)] = embedder, _Known(vectors, _shipped_fits(embedder, vectors.shape[1]) or fitted(vectors))
    return _kept[id(embedder)][1]


def fitted(vectors: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The least-squares fit of each fact to the examples' vectors, see `_Known.fits`: a tenth of a second."""
    import numpy as np

    wide = _with_one(vectors)
    gram = wide.T @ wide + RIDGE * np.eye(wide.shape[1])
    fits = {}
    for fact in FACTS:
        targets = np.asarray([[float(getattr(e, fact) == v) for v in values(fact)] for e in examples()])
        fits[fact] = np.linalg.solve(gram, wide.T @ targets)
    return fits


def fits_file(name: str) -> str:
    """Of the fits to the vectors that are shipped for an encoder, side by side in the order of `FACTS`."""
    return f"fits-{name}-{key_of(name)}.npy"


def _shipped_fits(embedder: Embedder, dimensions: int) -> dict[str, NDArray[np.float64]] | None:
    import numpy as np

    name = getattr(embedder, "name", "")
    if not name:
        return None
    try:
        every: NDArray[np.float64] = np.load(SHIPPED / fits_file(name), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    widths = [len(values(fact)) for fact in FACTS]
    if every.dtype != np.float64 or every.shape != (dimensions + 1, sum(widths)):
        return None
    return dict(zip(FACTS, np.split(every, np.cumsum(widths)[:-1], axis=1), strict=True))


@cache
def key_of(name: str) -> str:
    """Of an encoder's vectors of the table as it is now; another table or encoder has another key."""
    texts = (example.text for example in examples())
    return hashlib.sha256("\n".join((name, *texts)).encode()).hexdigest()[:16]


def embedded(embedder: Embedder) -> NDArray[np.float32]:
    """The examples' vectors, computed: (examples, dimensions)."""
    return embedder.embed([example.text.lower() for example in examples()])


def _cached(embedder: Embedder) -> NDArray[np.floating[Any]] | NDArray[np.int8]:
    """Shipped with the table, or from this machine's cache, or computed and kept there.

    To embed a thousand texts takes two to eight seconds; whoever changes the table has that once.
    """
    import numpy as np

    name = getattr(embedder, "name", "")
    if not name:
        return embedded(embedder)
    file = f"examples-{name}-{key_of(name)}.npy"
    for path in (SHIPPED / file, cache_folder() / file):
        try:
            found: NDArray[np.int8] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            continue  # not there, or cut off: made again below
        if found.dtype == np.int8 and found.ndim == 2 and len(found) == len(examples()):
            return found
    made = embedded(embedder)
    keep(cache_folder() / file, made)
    return made


def keep(path: Path, vectors: NDArray[np.float32]) -> None:
    """Writes vectors, each in bytes (their direction is all that counts, to 0.1 %), if it can.

    A read-only home or a full disk only costs the seconds again.
    """
    import numpy as np

    largest = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-12)
    small = np.rint(vectors / largest * 127).astype(np.int8)
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".examples-", dir=path.parent)
        with os.fdopen(handle, "wb") as f:
            np.save(f, small, allow_pickle=False)
        os.replace(temporary, path)
    except OSError:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
