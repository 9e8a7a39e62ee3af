"""Packed trials on a CUDA device against one trial alone, with random weights of Qwen2.5's shapes.

    python benchmarks/packed_gpu.py [--part NAMES] [--seconds N] [--site DIR] [--out FILE.jsonl]
    python benchmarks/packed_gpu.py --tiny     a small model on the processor: does it run at all

Parts (comma-separated, in this order by default):
    bars     the cells of the bars: 0.5B, 1.5B, 7B in bf16, b=1, T=256, the bar's K and K=1
    search   16 trials of 100 steps with rows of mixed lengths at 1.5B
    parity   paired curves of trials packed and alone, bf16 and NF4
    cold     after search: a process that imports, makes the model and takes one trial's steps
    nf4      1.5B and 7B with 4-bit weights
    more     K of 4, 8 and 32, eager packs beside the recorded ones, longer rows
    faults   a NaN in a pack of 16, an out-of-memory in a pack of 16
    grid     the rest of the grid: T of 256, 512, 1024, b of 1, 2, 4, K of 8 and 16

Alone is one PEFT adapter, stepped as swift's trainer steps it (autocast, mask, accuracy, clipped gradient), warm. The
speed-up is K times its step, by the step of the pack. Needs torch, transformers, peft; bitsandbytes for NF4. It begins
no cell after --seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PARTS = ("bars", "search", "parity", "cold", "nf4", "more", "faults", "grid")
BARS = {("0.5B", 16): 35.0, ("1.5B", 16): 20.0, ("7B", 8): 8.0}
"""Least speed-up at b=1, T=256 by size and K."""
STEPS = 24
"""Of a paired curve."""
WARM, TIMED = 3, 5
"""Steps before and under the clock; a shape is recorded in its third."""
COLD_SWIFT = 49.0
"""Seconds of a cold `swift sft` of 20 steps at 7B on an H100, measured before: where no cold process is run here."""


class Bench:
    """Runs cells and keeps what they gave."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.begun = time.monotonic()
        self.rows: list[dict[str, Any]] = []
        self.searched: dict[str, Any] = {}
        self.out = Path(options.out) if options.out else None
        if self.out:
            self.out.write_text("", encoding="utf-8")

    def late(self) -> bool:
        return time.monotonic() - self.begun > self.options.seconds

    def tell(self, **row: Any) -> None:
        row["at"] = round(time.monotonic() - self.begun, 1)
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        if self.out:
            with self.out.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")

    def model(self, size: str, *, nf4: bool = False) -> Any:
        import packed_cell as cell

        cell.clean()
        begun = time.perf_counter()
        base = cell.build(size, nf4=nf4)
        cell.wait()
        self.tell(part="model", size=size, nf4=nf4, seconds=round(time.perf_counter() - begun, 1))
        return base

    def cells(self, part: str, size: str, shapes: list[tuple[int, int, list[int]]], *, nf4: bool = False) -> None:
        """Steps alone and in packs: `shapes` holds (b, T, the K)."""
        import packed_cell as cell

        base = self.model(size, nf4=nf4)
        alone: dict[tuple[int, int], float] = {}
        for batch, length, _ in shapes:
            if self.late():
                return
            cell.clean()
            one = cell.Alone(base, cell.rows(length), cell.settings(1, batch))
            alone[batch, length] = cell.timed(one.run, WARM, TIMED)
            memory = cell.peak()
            base = one.end()
            del one
            milliseconds = round(alone[batch, length], 1)
            self.tell(part=part, size=size, nf4=nf4, b=batch, T=length, alone_ms=milliseconds, gib=round(memory, 1))
        bank = cell.stack(base)
        for batch, length, packs in shapes:
            for count in packs:
                if self.late():
                    return
                self.cell(part, base, bank, {"size": size, "nf4": nf4, "b": batch, "T": length, "K": count}, alone)

    def cell(self, part: str, base: Any, bank: Any, named: dict[str, Any], alone: dict[tuple[int, int], float]) -> None:
        import packed_cell as cell
        import torch

        count, batch, length = named["K"], named["b"], named["T"]
        found: dict[str, Any] = {}
        made = None
        try:
            for kind in ("graph", "eager") if part == "more" and batch * length == 256 else ("graph",):
                made = None
                bank.allocate(1, bank.plan)
                cell.clean()
                made = cell.pack(base, bank, count, graphs=kind == "graph")
                data = cell.rows(length)
                for number in range(count - 1):
                    cell.join(made, number, data, cell.settings(number, batch))
                if count > 1:
                    made.tick()
                cell.wait()
                begun = time.perf_counter()
                cell.join(made, count - 1, data, cell.settings(count - 1, batch))
                found[f"{kind}_join_s"] = round(time.perf_counter() - begun, 2)
                made.tick()
                cell.wait()
                found[f"{kind}_start_s"] = round(time.perf_counter() - begun, 2)
                found[f"{kind}_ms"] = round(cell.timed(made.tick, WARM, TIMED), 1)
                found[f"{kind}_gib"] = round(cell.peak(), 1)
                if kind == "graph":
                    found["recorded"] = len(made.graphs.made)
                    found["record_s"] = round(made.graphs.seconds, 2)
                made.graphs.drop()
        except torch.OutOfMemoryError:
            found["oom"] = True
        best = min((found[k] for k in ("graph_ms", "eager_ms") if k in found), default=0.0)
        if best:
            found["speedup"] = round(count * alone[batch, length] / best, 1)
            found["tokens_per_s"] = round(count * batch * length / best * 1e3)
            bar = BARS.get((named["size"], count)) if (batch, length, named["nf4"]) == (1, 256, False) else None
            if bar:
                found |= {"bar": bar, "met": found["speedup"] >= bar}
        self.tell(part=part, **named, **found)

    # parts ------------------------------------------------------------------------------------------------------

    def bars(self) -> None:
        if self.options.tiny:
            self.cells("bars", "tiny", [(1, 64, [1, 4]), (2, 64, [4])])
            return
        self.cells("bars", "0.5B", [(1, 256, [16, 1])])
        self.cells("bars", "1.5B", [(1, 256, [16, 1])])
        self.cells("bars", "7B", [(1, 256, [8, 1])])

    def more(self) -> None:
        if self.options.tiny:
            self.cells("more", "tiny", [(1, 256, [2]), (2, 64, [2])])
            return
        self.cells("more", "0.5B", [(1, 256, [8, 16, 32]), (2, 512, [8])])
        self.cells("more", "1.5B", [(1, 256, [8, 16]), (2, 512, [8])])
        self.cells("more", "7B", [(1, 256, [4, 8]), (2, 512, [4])])

    def nf4(self) -> None:
        if self.options.tiny:
            self.cells("nf4", "tiny", [(1, 64, [2])], nf4=True)
            return
        self.cells("nf4", "1.5B", [(1, 256, [8, 16])], nf4=True)
        self.cells("nf4", "7B", [(1, 256, [8])], nf4=True)

    def grid(self) -> None:
        shapes = [(b, t, [8, 16]) for t in (256, 512, 1024) for b in (1, 2, 4)]
        for size in ["tiny"] if self.options.tiny else ["0.5B", "1.5B", "7B"]:
            self.cells("grid", size, [(1, 64, [2])] if self.options.tiny else shapes)

    def parity(self) -> None:
        import packed_cell as cell

        size, steps, length = ("tiny", 12, 48) if self.options.tiny else ("0.5B", STEPS, 256)
        for nf4 in (False, True):
            if self.late():
                return
            base = self.model(size, nf4=nf4)
            data = cell.rows(length, vary=True)
            given = [
                cell.settings(1, 1, learning_rate=3e-4, lora_rank=8, lora_alpha=16),
                cell.settings(2, 2, learning_rate=1e-3),
                cell.settings(3, 1, learning_rate=1e-4, lora_rank=32, lora_alpha=64),
            ]
            curves: list[list[float]] = []
            for one in [*given, given[1] | {"seed": 99}]:
                trial = cell.Alone(base, data, one)
                curves.append([trial.run() for _ in range(steps)])
                base = trial.end()
            bank = cell.stack(base)
            made = cell.pack(base, bank, len(given), graphs=True)
            trials = [cell.join(made, n, data, one) for n, one in enumerate(given)]
            packed: dict[int, list[float]] = {n: [] for n in range(len(trials))}
            for _ in range(steps):
                made.tick()
                for stepped in made.stepped:
                    packed[stepped.trial.number].append(stepped.loss)

            def apart(one: list[float], other: list[float]) -> float:
                return sum(abs(a - b) / b for a, b in zip(one, other, strict=True)) / len(other)

            self.tell(
                part="parity",
                nf4=nf4,
                mean_relative=[round(apart(packed[n], curves[n]), 5) for n in range(len(trials))],
                other_seed=round(apart(curves[-1], curves[1]), 5),
                last=[[round(curves[n][-1], 4), round(packed[n][-1], 4)] for n in range(len(trials))],
                recorded=len(made.graphs.made),
            )
            made.graphs.drop()

    def faults(self) -> None:
        import packed_cell as cell
        import torch

        count = 4 if self.options.tiny else 16
        size, length = ("tiny", 48) if self.options.tiny else ("0.5B", 256)
        base = self.model(size)
        bank = cell.stack(base)
        data = cell.rows(length, vary=True)

        def run(poison: bool) -> tuple[list[list[float]], Any]:
            made = cell.pack(base, bank, count, graphs=True)
            trials = [cell.join(made, n, data, cell.settings(n, 1)) for n in range(count)]
            losses: list[list[float]] = [[] for _ in trials]
            for tick in range(6):
                if poison and tick == 2:
                    bank.values[3].fill_(float("nan"))
                    bank.refresh(3)
                made.tick()
                for stepped in made.stepped:
                    losses[stepped.trial.number].append(stepped.loss)
            values = bank.values[:count].cpu()
            made.graphs.drop()
            return losses, values

        again, _ = run(False)
        sound, before = run(False)
        broken, after = run(True)
        others = [n for n in range(count) if n != 3]
        same = all(sound[n] == broken[n] for n in others) and torch.equal(before[others], after[others])
        self.tell(
            part="nan",
            K=count,
            poisoned=str(broken[3][-1]),
            neighbours_equal_to_the_bit=same,
            repeat_equal=again == sound,
        )
        if torch.cuda.is_available():
            self._memory(base, bank, count)

    def _memory(self, base: Any, bank: Any, count: int) -> None:
        """A pack that needs more than there is: the limit lies between what half and what all of it take."""
        import packed_cell as cell
        import torch

        data, batch = cell.rows(512), 4
        peaks = []
        for some in (count // 2, count):
            bank.allocate(1, bank.plan)
            cell.clean()
            made = cell.pack(base, bank, some, graphs=False)
            for n in range(some):
                cell.join(made, n, data, cell.settings(n, batch))
            made.tick()
            made.tick()
            peaks.append(torch.cuda.max_memory_reserved())
        made = None
        bank.allocate(1, bank.plan)
        cell.clean()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((0.6 * peaks[0] + 0.4 * peaks[1]) / total)
        made = cell.pack(base, bank, count, graphs=False)
        trials = [cell.join(made, n, data, cell.settings(n, batch)) for n in range(count)]
        shrunk, ticks = 0, 0
        while any(trial.step < 4 for trial in trials) and ticks < 60:
            ticks += 1
            short = False
            try:
                made.tick()
            except torch.OutOfMemoryError:
                short = True
            if short:
                torch.cuda.empty_cache()
                made.shrink()
                shrunk += 1
            for trial in [t for t in made.trials if t.step >= 4]:
                made.leave(trial)
            made.admit()
        torch.cuda.set_per_process_memory_fraction(1.0)
        self.tell(
            part="oom",
            K=count,
            gib=[round(p / 2**30, 1) for p in peaks],
            halved=shrunk,
            capacity=made.capacity,
            steps=[trial.step for trial in trials],
            all_went_on=all(trial.step == 4 for trial in trials),
        )

    def search(self) -> None:
        import packed_cell as cell

        size, count, steps, length = ("tiny", 4, 5, 48) if self.options.tiny else ("1.5B", 16, 100, 256)
        begun = time.perf_counter()
        base = self.model(size)
        bank = cell.stack(base)
        data = cell.rows(length, 256, vary=True)
        made = cell.pack(base, bank, count, graphs=True)
        ready = time.perf_counter()
        for n in range(count):
            cell.join(made, n, data, cell.settings(n, 1, max_steps=steps))
        made.tick()
        cell.wait()
        first = time.perf_counter() - ready
        while made.trials:
            made.tick()
            for trial in [t for t in made.trials if t.step >= steps]:
                made.leave(trial)
        cell.wait()
        ended = time.perf_counter()
        warm, load = ended - ready, ready - begun
        start = self.options.imports + load
        named = {"part": "search", "size": size, "trials": count, "steps": steps}
        found = {"recorded": len(made.graphs.made), "record_s": round(made.graphs.seconds, 1)}
        found |= {"warm_s": round(warm, 1), "worker_start_s": round(start, 1), "first_s": round(first, 2)}
        self.searched = {"count": count, "warm": warm, "start": start, "size": size, "steps": steps, "length": length}
        self.tell(**named, **found, keys=len(made.graphs.seen), **self.against("cold_swift", COLD_SWIFT))
        made.graphs.drop()

    def against(self, name: str, one: float) -> dict[str, Any]:
        """A whole search against a process of `one` seconds for each trial."""
        s = self.searched
        gain = {"with_start": round(s["count"] * one / (s["warm"] + s["start"]), 1)}
        gain["warm"] = round(s["count"] * one / s["warm"], 1)
        return {f"{name}_s": round(one, 1), f"speedup_{name}": gain}

    def cold(self) -> None:
        if not self.searched:
            return
        s = self.searched
        argv = [sys.executable, "-W", "ignore", __file__, "--cold", s["size"], "--steps", str(s["steps"])]
        argv += ["--length", str(s["length"]), *(["--site", self.options.site] if self.options.site else [])]
        left = self.options.seconds + 15 - (time.monotonic() - self.begun)
        begun = time.perf_counter()
        try:
            subprocess.run(argv, capture_output=True, text=True, timeout=left, check=True)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            self.tell(part="cold", failed=type(error).__name__, after_s=round(time.perf_counter() - begun, 1))
            return
        self.tell(part="cold", **self.against("cold_process", time.perf_counter() - begun))

    def table(self) -> None:
        print("\n| size | b | T | K | alone ms | eager ms | graph ms | speed-up | bar | tokens/s | GiB |", flush=True)
        print("| --- " * 11 + "|")
        alone = {(r["size"], r["nf4"], r["b"], r["T"]): r["alone_ms"] for r in self.rows if "alone_ms" in r}
        for r in self.rows:
            if "K" not in r or "b" not in r:
                continue
            name = r["size"] + (" NF4" if r["nf4"] else "")
            bar = f"{r['bar']:g} {'met' if r['met'] else 'MISSED'}" if "bar" in r else ""
            values = [name, r["b"], r["T"], r["K"], alone.get((r["size"], r["nf4"], r["b"], r["T"]), "")]
            values += [r.get("eager_ms", ""), r.get("graph_ms", "oom" if r.get("oom") else ""), r.get("speedup", "")]
            values += [bar, r.get("tokens_per_s", ""), r.get("graph_gib", "")]
            print("| " + " | ".join(str(v) for v in values) + " |", flush=True)


def cold(options: argparse.Namespace) -> None:
    """What a process per trial does at the least: imports, the model, the steps."""
    import packed_cell as cell

    base = cell.build(options.cold)
    one = cell.Alone(base, cell.rows(options.length, 256, vary=True), cell.settings(1, 1))
    for _ in range(options.steps):
        one.run()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default=",".join(PARTS[:-1]))
    parser.add_argument("--seconds", type=float, default=170)
    parser.add_argument("--site")
    parser.add_argument("--out")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--cold")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--length", type=int, default=256)
    options = parser.parse_args()
    if options.site:
        sys.path.insert(0, options.site)
    sys.path.insert(0, str(HERE / "children"))
    begun = time.perf_counter()
    import packed_cell as cell

    cell.children()
    import peft  # noqa: F401
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    options.imports = time.perf_counter() - begun
    if options.cold:
        cold(options)
        return 0
    if options.tiny:
        torch.set_num_threads(1)
    card = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no card"
    bench = Bench(options)
    bench.tell(part="machine", card=card, torch=torch.__version__, transformers=transformers.__version__)
    for part in options.part.split(","):
        if bench.late():
            print(f"no time left for {part}", flush=True)
            continue
        try:
            getattr(bench, part)()
        except Exception as error:
            traceback.print_exc()
            bench.tell(part=part, error=f"{type(error).__name__}: {error}"[:300])
        cell.clean()
    bench.table()
    return 0


if __name__ == "__main__":
    sys.exit(main())
