"""A second process that turns records into rows: `python -m autoswift.understand.worker`.

It reads frames from its standard input and writes one for each to its standard output. A frame is a line of JSON, the
header, and the bytes that the header announces. The first frame is the settings.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import IO, Any

from autoswift.understand.batch import Batch, Item, Settings, Worker
from autoswift.understand.meta import dtype
from autoswift.understand.near import PERMUTATIONS


def send(stream: IO[bytes], header: dict[str, Any], *blobs: bytes) -> None:
    """Writes a frame."""
    line = json.dumps(header | {"blobs": [len(b) for b in blobs]}, ensure_ascii=True) + "\n"
    for part in (line.encode(), *blobs):
        stream.write(part)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], list[bytes]] | None:
    """The next frame; None at the end.

    Raises:
        EOFError: when the stream ends inside a frame.
    """
    line = stream.readline()
    if not line:
        return None
    header = json.loads(line)
    blobs = [stream.read(size) for size in header["blobs"]]
    if [len(b) for b in blobs] != header["blobs"]:
        raise EOFError
    return header, blobs


def pack_items(items: Sequence[Item]) -> bytes:
    """Records for the pipe; half characters go through as they are."""
    return json.dumps(items, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")


def pack(batch: Batch) -> tuple[dict[str, Any], list[bytes]]:
    """A batch for the pipe."""
    header = {
        "rows": len(batch.meta),
        "labels": [[k, v] for k, v in batch.labels.items()],
        "examples": batch.examples,
        "foreign": batch.foreign,
        "media": batch.media,
    }
    return header, [batch.lines, batch.meta.tobytes(), batch.marks.tobytes(), batch.answers.tobytes()]


def unpack(header: dict[str, Any], blobs: list[bytes]) -> Batch:
    """A batch from the pipe."""
    import numpy as np

    return Batch(
        lines=blobs[0],
        meta=np.frombuffer(blobs[1], dtype=dtype()),
        marks=np.frombuffer(blobs[2], dtype=np.uint8).reshape(-1, PERMUTATIONS),
        answers=np.frombuffer(blobs[3], dtype=np.uint32),
        labels={int(k): str(v) for k, v in header["labels"]},
        examples={k: [(int(i), str(b), str(a)) for i, b, a in some] for k, some in header["examples"].items()},
        foreign=list(header["foreign"]),
        media=list(header["media"]),
    )


def settings_frame(settings: Settings) -> dict[str, Any]:
    """The first frame's header."""
    return {"settings": asdict(settings)}


def main() -> int:
    """Serves until the input ends."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else may get between the frames
    first = receive(source)
    if first is None:
        return 0
    worker = Worker(Settings(**first[0]["settings"]))
    while frame := receive(source):
        items: list[Item] = [tuple(item) for item in json.loads(frame[1][0].decode("utf-8", "surrogatepass"))]
        header, blobs = pack(worker.batch(items))
        send(sink, header, *blobs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
