"""The third pass: rows to the files of their splits, removed ones to a file of their own, and a manifest."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from autoswift.domain.profile import Problem
from autoswift.run.files import dumps, write_atomic
from autoswift.understand.clean import REASONS
from autoswift.understand.settle import Settled
from autoswift.understand.split import NAMES
from autoswift.understand.spool import Spool

MANIFEST = "manifest.json"
REMOVED = "removed.jsonl"


class _Counted:
    """A file that is hashed while it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.hash.update(data)
        self.bytes += len(data)


@contextmanager
def _whole(path: Path) -> Iterator[_Counted]:
    """A file that is the old one or the new one, never half of it."""
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            yield _Counted(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_rows(
    spool: Spool, settled: Settled, out: Path, lost: tuple[Problem, ...], names: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Writes train, validation, test and removed.

    Args:
        spool: the rows. settled: what became of each.
        out: the folder.
        lost: problems of records that could not be read at all: they are named among the removed.
        names: each file as the output names it: the same wherever the data stands.

    Returns:
        For each file its sha256, bytes and rows, for the manifest.
    """
    files: dict[str, dict[str, Any]] = {}
    kept = settled.reason == 0
    for number, name in enumerate(NAMES):
        rows = (kept & (settled.split == number)).nonzero()[0]
        with _whole(out / f"{name}.jsonl") as file:
            for piece in spool.runs(rows):
                file.write(piece)
        files[f"{name}.jsonl"] = {"sha256": file.hash.hexdigest(), "bytes": file.bytes, "rows": len(rows)}
    removed = (~kept).nonzero()[0].tolist()
    with _whole(out / REMOVED) as file:
        for problem in lost:
            head: dict[str, Any] = {
                "reason": problem.kind,
                "file": names.get(problem.file, problem.file),
                "member": problem.member,
            }
            head |= {"line": problem.line, "row": problem.row, "same_as": None, "record": None}
            file.write((dumps(head) + "\n").encode("utf-8", "replace"))
        for row in removed:
            file.write(_removed(spool, settled, row, names))
    files[REMOVED] = {"sha256": file.hash.hexdigest(), "bytes": file.bytes, "rows": len(lost) + len(removed)}
    return files


def _removed(spool: Spool, settled: Settled, row: int, names: Mapping[str, str]) -> bytes:
    """A removed row with its reason and place; a duplicate with the place of the row that it repeats."""
    head: dict[str, Any] = {"reason": REASONS[int(settled.reason[row]) - 1]} | _named(spool.place(row), names)
    same = int(settled.same[row])
    head["same_as"] = _named(spool.place(same), names) if same >= 0 else None
    text = json.dumps(head, ensure_ascii=False).encode("utf-8", "replace")
    return text[:-1] + b', "record": ' + spool.line(row).rstrip(b"\n") + b"}\n"


def _named(place: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    file = names.get(place["file"], place["file"])
    return {"file": file, "member": place["member"], "line": place["line"], "row": place["row"]}


def write_manifest(out: Path, files: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """What the files hold and were made from; without time and place, so that equal input gives equal bytes."""
    write_atomic(out / MANIFEST, dumps({**facts, "files": files}, indent=1) + "\n")
