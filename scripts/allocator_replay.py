"""What torch's CUDA caching allocator reserves in a training step: its large and small pools, replayed over a trace.

The trace gives every allocation and release of three steps in order; the replay hands out blocks as the allocator does:
the smallest that is large enough, split where it may be; without expandable segments from segments that never join,
with them from one growing range of pages whose free neighbours do. cuBLAS's workspaces are made at the first product of
forward and of backward. Needs the training environment; no device.

    python scripts/allocator_replay.py [CELL …] [--limit GIB]     cells of benchmarks/data/memory_cells.json

With `--limit` also whether the steps go through on a card with so much for tensors: a request beyond it first gives
back what is only kept.
"""

from __future__ import annotations

import argparse
import bisect
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CHILD = ROOT / "src" / "autoswift" / "engines" / "children" / "memory_trace.py"
CELLS = ROOT / "benchmarks" / "data" / "memory_cells.json"
MIB, GIB = 2**20, 2**30
BLOCK = 512
SMALL = MIB
"""Requests up to it come from the small pool."""
WORKSPACE = 32 * MIB
"""Of cuBLAS on Hopper."""
STEPS = 3

Events = list[tuple[int, int]]
"""(number of the storage, its bytes), and (minus its number, 0) when it is freed."""


class OutOfMemory(Exception):
    """No page is left, though all that was only kept was given back."""


class Block:
    """A range of addresses; its neighbours are linked."""

    __slots__ = ("after", "before", "free", "mapped", "size", "start")

    def __init__(self, start: int, size: int, mapped: bool) -> None:
        self.start, self.size, self.mapped, self.free = start, size, mapped, True
        self.before: Block | None = None
        self.after: Block | None = None

    def cut(self, size: int) -> Block:
        """Keeps the first `size` bytes; returns the rest."""
        rest = Block(self.start + size, self.size - size, self.mapped)
        rest.before, rest.after = self, self.after
        if self.after is not None:
            self.after.before = rest
        self.after, self.size = rest, size
        return rest

    def join(self) -> None:
        """Takes in the neighbour after it."""
        gone = self.after
        if gone is None:
            raise ValueError("no neighbour")
        self.size += gone.size
        self.after = gone.after
        if gone.after is not None:
            gone.after.before = self


class Card:
    """What may be reserved, and what is."""

    def __init__(self, limit: float) -> None:
        self.limit, self.now, self.peak = limit, 0, 0

    def reserve(self, size: int) -> None:
        """Raises OutOfMemory when there is not so much."""
        if self.now + size > self.limit:
            raise OutOfMemory
        self.now += size
        self.peak = max(self.peak, self.now)


class Pool:
    """Blocks of one size class, without expandable segments."""

    def __init__(self, small: bool, card: Card) -> None:
        self.small, self.card = small, card
        self.blocks: list[tuple[int, int, Block]] = []
        self.live: dict[int, Block] = {}
        self._next = 1

    def _put(self, block: Block) -> None:
        bisect.insort(self.blocks, (block.size, block.start, block))

    def _take(self, block: Block) -> None:
        self.blocks.pop(bisect.bisect_left(self.blocks, (block.size, block.start)))

    def _find(self, size: int) -> Block | None:
        index = bisect.bisect_left(self.blocks, (size, -1))
        return self.blocks.pop(index)[2] if index < len(self.blocks) else None

    def _grow(self, size: int) -> Block:
        segment = 2 * MIB if self.small else 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
        self.card.reserve(segment)
        self._next += 2 * segment  # never a neighbour of another
        return Block(self._next - segment, segment, True)

    def _splits(self, rest: int) -> bool:
        return rest >= BLOCK if self.small else rest > SMALL

    def allocate(self, number: int, size: int) -> None:
        """A block for a storage."""
        block = self._find(size) or self._grow(size)
        if self._splits(block.size - size):
            self._put(block.cut(size))
        block.free = False
        self.live[number] = block

    def release(self, number: int) -> None:
        """A storage is freed; its block joins free neighbours."""
        self._join(self.live.pop(number))

    def _join(self, block: Block) -> Block:
        block.free = True
        before, after = block.before, block.after
        if before is not None and before.free and before.mapped:
            self._take(before)
            before.join()
            block = before
        if after is not None and after.free and after.mapped:
            self._take(after)
            block.join()
        self._put(block)
        return block

    def give_back(self) -> None:
        """Segments that are free as a whole."""
        for _, _, block in list(self.blocks):
            if block.before is None and block.after is None:
                self._take(block)
                self.card.now -= block.size


class GrowingPool(Pool):
    """The same with expandable segments: one range of addresses, mapped page by page."""

    def __init__(self, small: bool, card: Card) -> None:
        super().__init__(small, card)
        self.page = 2 * MIB if small else 20 * MIB
        self.unmapped = [Block(0, 1 << 50, False)]

    def _room(self, block: Block) -> int:
        after = block.after
        return block.size + (after.size if after is not None and not after.mapped else 0)

    def _find(self, size: int) -> Block | None:
        index = bisect.bisect_left(self.blocks, (size, -1))
        if index == len(self.blocks):
            return None
        # A block that could grow counts with what it could grow to: a larger one that could not is taken first.
        while index + 1 < len(self.blocks) and self._room(self.blocks[index + 1][2]) < self._room(
            self.blocks[index][2]
        ):
            index += 1
        return self.blocks.pop(index)[2]

    def _splits(self, rest: int) -> bool:
        return rest >= BLOCK

    def _grow(self, size: int) -> Block:
        """The lowest place with pages to map, with the free block before it."""
        for found in self.unmapped:
            block = found.before if found.before is not None and found.before.free else found
            total = 0
            one: Block | None = block
            while total < size and one is not None and one.free:
                total, one = total + one.size, one.after
            if total >= size:
                break
        if not block.mapped:
            block = self._map(block, min(block.size, size))
        while block.size < size:
            if block.after is None:
                raise OutOfMemory
            block = self._map(block.after, min(size - block.size, block.after.size))
        self._take(block)
        return block

    def _map(self, block: Block, size: int) -> Block:
        size = min(-(-size // self.page) * self.page, block.size)
        self.card.reserve(size)
        index = self.unmapped.index(block)
        self.unmapped[index : index + 1] = [block.cut(size)] if block.size > size else []
        block.mapped = True
        return self._join(block)

    def give_back(self) -> None:
        """Pages that are free as a whole."""
        for _, _, block in list(self.blocks):
            first = -(-block.start // self.page) * self.page
            end = (block.start + block.size) // self.page * self.page
            if end <= first:
                continue
            self._take(block)
            if end < block.start + block.size:
                self._put(block.cut(end - block.start))
            if first > block.start:
                rest = block.cut(first - block.start)
                self._put(block)
                block = rest
            block.mapped = False
            self.card.now -= block.size
            self.unmapped.append(block)
        self.unmapped.sort(key=lambda one: one.start)
        for one in list(self.unmapped):
            while one in self.unmapped and one.after is not None and not one.after.mapped:
                self.unmapped.remove(one.after)
                one.join()


def events_of(cell: dict[str, Any], config: dict[str, Any]) -> tuple[Events, int]:
    """The steps' allocations and releases, and the peak of the live bytes."""
    spec = importlib.util.spec_from_file_location("memory_trace", CHILD)
    if spec is None or spec.loader is None:
        raise ImportError(CHILD)
    child = importlib.util.module_from_spec(spec)
    sys.modules["memory_trace"] = child
    spec.loader.exec_module(child)
    torch = child.torch
    products = [getattr(torch.ops.aten, name).default for name in ("mm", "addmm", "bmm", "baddbmm")]

    class Recorder(child.LiveBytes):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.found: Events = []
            self.numbers: dict[int, int] = {}
            self.count, self.backward = 0, False
            self.made: set[bool] = set()

        def add(self, tensor: Any) -> None:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._seen and storage.nbytes():
                self.count += 1
                self.numbers[storage._cdata] = self.count
                self.found.append((self.count, storage.nbytes()))
            super().add(tensor)

        def _drop(self, key: int) -> None:
            if self._seen.get(key):
                self.found.append((-self.numbers[key], 0))
            super()._drop(key)

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = super().__torch_dispatch__(func, types, args, kwargs)
            if func in products and self.backward not in self.made:
                self.made.add(self.backward)
                self.count += 1
                self.found.append((self.count, WORKSPACE))
            return out

    asked = {name: value for name, value in cell.items() if name not in ("shape", "second")}
    asked["attention"] = "eager" if asked.get("attention") == "eager" else "fused"
    request = child.Request(config=config, steps=STEPS, **asked)
    with child.FakeTensorMode(), torch.device("cpu"), child._adapters_stay():
        model = child.build(request)
        live = Recorder()
        for tensor in [*model.parameters(), *model.buffers()]:
            live.hold(tensor)
        base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        with child._stand_ins(sys.modules[type(base).__module__], request), live:
            child._steps(model, request, lambda: setattr(live, "backward", True))
        return list(live.found), live.peak


def replay(events: Events, expandable: bool, limit: float = float("inf")) -> tuple[int, int]:
    """Bytes reserved at most, and how often what was kept had to be given back.

    Raises:
        OutOfMemory: when the card is too small.
    """
    card, kind = Card(limit), GrowingPool if expandable else Pool
    pools = {small: kind(small, card) for small in (True, False)}
    owner: dict[int, Pool] = {}
    retries = 0
    for number, nbytes in events:
        if number > 0:
            size = max(-(-nbytes // BLOCK) * BLOCK, BLOCK)
            owner[number] = pool = pools[size <= SMALL]
            try:
                pool.allocate(number, size)
            except OutOfMemory:
                retries += 1
                for one in pools.values():
                    one.give_back()
                pool.allocate(number, size)
        elif -number in owner:
            owner.pop(-number).release(-number)
    return card.peak, retries


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", help="names, or beginnings of names")
    parser.add_argument("--limit", type=float, help="GiB that tensors may take")
    asked = parser.parse_args()
    table = json.loads(CELLS.read_text(encoding="utf-8"))
    for name, cell in table["cells"].items():
        if asked.cells and not any(name.startswith(one) for one in asked.cells):
            continue
        events, peak = events_of(cell, table["shapes"][cell["shape"]])
        plain, grown = (replay(events, kind)[0] for kind in (False, True))
        said = f"{name:44} live {peak / GIB:6.2f} reserved: plain {plain / GIB:6.2f}, expandable {grown / GIB:6.2f} GiB"
        if asked.limit:
            try:
                reserved, retries = replay(events, True, asked.limit * GIB)
                said += f"; in {asked.limit:g}: fits, {reserved / GIB:.2f}, given back {retries} times"
            except OutOfMemory:
                said += f"; in {asked.limit:g}: does not fit"
        print(said, flush=True)


if __name__ == "__main__":
    main()
