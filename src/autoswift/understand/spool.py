"""All rows of a data file on disk, with a hundred bytes of each in arrays that the system may page out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from autoswift.understand.batch import EXAMPLES, Batch
from autoswift.understand.meta import dtype
from autoswift.understand.near import PERMUTATIONS
from autoswift.understand.problems import SHOWN

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

READ = 4 * 2**20
"""Bytes of rows that are copied at a time."""


class Spool:
    """Rows in their order, written once and then read.

    Args:
        folder: where the files are; it is the caller's to remove.

    Attributes:
        meta: `batch.dtype()`, (rows,). marks: MinHash signatures, (rows, PERMUTATIONS).
        answers: lengths of all answers, in the order of the rows; `meta["answers"]` says how many each has.
        examples: by step, (row, before, after).
        foreign: the first rows of another shape. media: kinds of files that rows name.
        places: file and member by the number that `meta["file"]` holds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = 0
        self.places: list[tuple[str, str | None]] = []
        self.labels: dict[int, str] = {}
        self.examples: dict[str, list[tuple[int, str, str]]] = {}
        self.foreign: list[int] = []
        self.media: set[str] = set()
        self._files = {name: (folder / f"{name}.bin").open("wb") for name in ("rows", "meta", "marks", "answers")}
        self._read: IO[bytes] | None = None
        self.meta: NDArray[np.void]
        self.marks: NDArray[np.uint8]
        self.answers: NDArray[np.uint32]
        self.starts: NDArray[np.int64]

    def add(self, batch: Batch) -> None:
        """Appends the rows of a batch."""
        self._files["rows"].write(batch.lines)
        for name in ("meta", "marks", "answers"):
            self._files[name].write(getattr(batch, name).tobytes())
        for kind, some in batch.examples.items():
            mine = self.examples.setdefault(kind, [])
            mine += [(i + self.rows, before, after) for i, before, after in some[: EXAMPLES - len(mine)]]
        self.foreign += [i + self.rows for i in batch.foreign[: SHOWN - len(self.foreign)]]
        self.media.update(batch.media)
        for mark, label in batch.labels.items():
            self.labels.setdefault(mark, label)
        self.rows += len(batch.meta)

    def finish(self) -> None:
        """Ends the writing; from here on the arrays are there."""
        import numpy as np

        for file in self._files.values():
            file.close()
        self.meta = self._array("meta", dtype())
        self.marks = self._array("marks", np.dtype(np.uint8)).reshape(-1, PERMUTATIONS)
        self.answers = self._array("answers", np.dtype(np.uint32))
        sizes = self.meta["size"].astype(np.int64)
        self.starts = np.cumsum(sizes) - sizes
        self._read = (self.folder / "rows.bin").open("rb")

    def _array(self, name: str, kind: np.dtype[Any]) -> NDArray[Any]:
        import numpy as np

        path = self.folder / f"{name}.bin"
        size = path.stat().st_size // kind.itemsize
        return np.memmap(path, dtype=kind, mode="r", shape=(size,)) if size else np.empty(0, dtype=kind)

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()
        if self._read:
            self._read.close()

    def place(self, row: int) -> dict[str, Any]:
        """Where a row stands, as `Findings` takes it."""
        meta = self.meta[row]
        file, member = self.places[int(meta["file"])]
        line = int(meta["line"])
        return {"file": file, "member": member, "line": line if line > 0 else None, "row": int(meta["row"]) or None}

    def line(self, row: int) -> bytes:
        """One row as JSON, with its line end."""
        if self._read is None:
            raise ValueError("the spool is still written")
        self._read.seek(int(self.starts[row]))
        return self._read.read(int(self.meta["size"][row]))

    def runs(self, rows: Sequence[int] | NDArray[np.int64]) -> Iterator[bytes]:
        """The lines of rows in ascending order, neighbours in one piece."""
        import numpy as np

        if self._read is None:
            raise ValueError("the spool is still written")
        wanted = np.asarray(rows, dtype=np.int64)
        if not len(wanted):
            return
        breaks = np.flatnonzero(np.diff(wanted) != 1) + 1
        first, last = wanted[np.concatenate([[0], breaks])], wanted[np.concatenate([breaks - 1, [len(wanted) - 1]])]
        ends = self.starts[last] + self.meta["size"][last]
        for begin, end in zip(self.starts[first].tolist(), ends.tolist(), strict=True):
            self._read.seek(begin)
            left = end - begin
            while left:
                piece = self._read.read(min(READ, left))
                left -= len(piece)
                yield piece
