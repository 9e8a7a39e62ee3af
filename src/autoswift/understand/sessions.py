"""Tables with one turn a row become conversations, also when a session's rows stand far apart in a long file."""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from autoswift.understand import shapes
from autoswift.understand.batch import Item
from autoswift.understand.shapes import Shape
from autoswift.understand.turns import role_of

IN_MEMORY = 100_000
"""Turns that are put together in memory: 100 MB."""
PARTS = 64
"""Files that the turns of a longer table are dealt to by session: a hundred million turns are 1.5 million each."""


def conversations(items: Iterable[Item], shape: Shape, folder: Path) -> Iterator[Item]:
    """The conversations in the order of their first turns; each has the place of that turn.

    Args:
        items: turns, the value of each an object.
        shape: `turn_per_row`.
        folder: takes temporary files when there are many turns.
    """
    source = iter(items)
    head = list(itertools.islice(source, IN_MEMORY))
    if len(head) < IN_MEMORY:
        yield from _joined(head, shape)
        return
    group = shape.columns.get("group")
    rest = itertools.chain(head, source)
    yield from _by_boundary(rest, shape) if group is None else _by_session(rest, shape, group, folder)


def _joined(items: Sequence[Item], shape: Shape) -> Iterator[Item]:
    for first, row in shapes.join_turns([item[0] for item in items], shape):
        yield (row, *items[first][1:])


def _by_boundary(items: Iterable[Item], shape: Shape) -> Iterator[Item]:
    """Without sessions, the next begins where a user speaks after an answer: a part that ends there is whole."""
    speaker = shape.columns["speaker"]
    part: list[Item] = []
    last = ""
    for item in items:
        role = role_of(item[0].get(speaker)) or "user"
        if len(part) >= IN_MEMORY and last == "assistant" and role != "assistant":
            yield from _joined(part, shape)
            part = []
        last = role
        part.append(item)
    yield from _joined(part, shape)


def _by_session(items: Iterable[Item], shape: Shape, group: str, folder: Path) -> Iterator[Item]:
    paths = [folder / f"turns-{n}.jsonl" for n in range(PARTS)]
    files = [path.open("w", encoding="utf-8", errors="surrogatepass") for path in paths]
    try:
        for number, item in enumerate(items):
            part = crc32(str(item[0].get(group)).encode("utf-8", "replace")) % PARTS
            files[part].write(json.dumps([number, *item], ensure_ascii=False, default=str) + "\n")
    finally:
        for file in files:
            file.close()
    talks = [folder / f"talks-{n}.jsonl" for n in range(PARTS)]
    for path, talk in zip(paths, talks, strict=True):
        with talk.open("w", encoding="utf-8", errors="surrogatepass") as out:
            turns = list(_lines(path))
            for first, row in shapes.join_turns([t[1] for t in turns], shape):
                out.write(json.dumps([turns[first][0], row, *turns[first][2:]], ensure_ascii=False) + "\n")
        path.unlink()
    for _, row, *place in heapq.merge(*map(_lines, talks), key=lambda t: t[0]):
        yield (row, *place)


def _lines(path: Path) -> Iterator[list[Any]]:
    with path.open(encoding="utf-8", errors="surrogatepass") as file:
        for line in file:
            yield json.loads(line)
