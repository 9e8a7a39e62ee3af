"""Predicted against measured peak memory of training steps on a CUDA device.

    python benchmarks/memory_gpu.py --predict            on any machine, writes benchmarks/data/memory_predictions.json
    python benchmarks/memory_gpu.py [CELL …] [--out F]   on the device: measures, compares, prints a table
    python benchmarks/memory_gpu.py --second [--out F]   the same of the cells marked so: those near the card's limit,
                                                         4-bit ones, padded ones
    python benchmarks/memory_gpu.py --compare FILE …     what was measured before against today's predictions

Each cell is a process of its own, kept at the ready with everything imported and no device touched; it makes random
weights on the card and takes three steps as ms-swift's trainer does, once with the allocator as it comes and once with
expandable segments. Cells that fit beside one another run at the same time; those near the card's limit alone, once
every other process is gone and NVML says that the card is empty. Needs
torch, transformers and peft there; cells that need bitsandbytes or liger_kernel are left out where those are missing.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import math
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CELLS = HERE / "data" / "memory_cells.json"
PREDICTIONS = HERE / "data" / "memory_predictions.json"
GIB = 2**30
CELL_SECONDS = 75
ROOM = 64 * GIB
"""Of cells that run beside one another: each is counted with its upper bound and its context."""
ALONE = 44 * GIB
"""A cell that needs more runs alone."""
EMPTY = 1.0 * GIB
"""A card with less in use than this has no other process's tensors: the driver itself keeps half of it."""
CONTEXT = 1.0 * GIB
"""Of a process on the device, rounded up (0.75 GiB on an H100)."""
LEAST_CONTEXT = 0.5 * GIB
"""Of a process on any card: what it cannot reserve of the card's total, at least."""
FOREIGN = 1.5 * GIB
"""In use beyond what torch reserved: more than a context, so another process's."""
USABLE = 0.997
"""Of what the driver reports as a card's total: what it calls free before anything runs."""
NEAR = 0.9
"""Of it: a cell that needs more is near the limit."""
SURELY = 70 * GIB
"""A cell that needs less fits an empty 80 GB card; out of memory there says that the card was not empty."""
TOGETHER = 6
LIMIT_SECONDS = 480
SECOND_SECONDS = 180
"""Limit of a run with --second."""
EXPANDABLE = "expandable_segments:True"


def cells() -> dict[str, dict[str, Any]]:
    """The cells by name, with their shapes filled in."""
    table = json.loads(CELLS.read_text(encoding="utf-8"))
    return {name: cell | {"config": table["shapes"][cell["shape"]]} for name, cell in table["cells"].items()}


# ---------------------------------------------------------------- predictions, without a device


def estimates(cell: dict[str, Any]) -> dict[str, Any]:
    """What the closed form says of a cell: `parameters`, and of either setting the bytes."""
    from autoswift.hardware.memory import MemorySettings, peak_memory
    from autoswift.hardware.shape import shape_of_config

    shape = shape_of_config(cell["config"])
    row: dict[str, Any] = {"parameters": shape.parameters}
    for kind, expandable in (("plain", False), ("expandable", True)):
        settings = MemorySettings(
            length=cell["length"],
            micro_batch=cell["rows"],
            rank=cell.get("rank", 16),
            targets=cell.get("targets", "all"),
            gradient_checkpointing=cell["checkpointing"],
            optimizer=cell.get("optimizer", "adamw_torch"),
            attention=cell.get("attention", "sdpa"),
            padded=cell.get("padded", False),
            liger=cell.get("liger", False),
            dropout=cell.get("dropout", 0.0),
            accumulates=False,
            expandable_segments=expandable,
            card="h100",
        )
        found = peak_memory(shape, cell["method"], settings)
        row[kind] = {
            "peak": found.peak_bytes,
            "low": found.low,
            "reserved": found.reserved_bytes,
            "high": found.high,
            "device": found.device_bytes,
            "least": found.least_bytes,
            "moment": found.moment,
        }
    return row


def predict() -> None:
    """Writes what the closed form says of each cell."""
    sys.path.insert(0, str(HERE.parent / "src"))
    answers = {name: estimates(cell) for name, cell in cells().items()}
    PREDICTIONS.write_text(json.dumps(answers, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for name, row in answers.items():
        print(f"{name:44} {row['expandable']['peak'] / GIB:7.2f} GiB, at least {row['expandable']['least'] / GIB:7.2f}")


# ---------------------------------------------------------------- all cells


class Card:
    """What NVML says is in use on the first card; None where there is no NVML."""

    class _Memory(ctypes.Structure):
        _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))

    def __init__(self) -> None:
        self._library: Any = None
        self._handle = ctypes.c_void_p()
        try:
            library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return
        if library.nvmlInit_v2() == 0 and library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self._handle)) == 0:
            self._library = library

    def used(self) -> int | None:
        """Bytes."""
        memory = self._Memory()
        if self._library is None or self._library.nvmlDeviceGetMemoryInfo(self._handle, ctypes.byref(memory)) != 0:
            return None
        return int(memory.used)

    def empty(self) -> bool:
        """Whether no process has anything there; yes where it cannot be known."""
        used = self.used()
        return used is None or used < EMPTY


class Pool:
    """A process that starts cells under one setting of the allocator."""

    def __init__(self, kind: str) -> None:
        env = os.environ | {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", "TOKENIZERS_PARALLELISM": "false"}
        env.pop("PYTORCH_CUDA_ALLOC_CONF", None)
        if kind == "expandable":
            env["PYTORCH_CUDA_ALLOC_CONF"] = EXPANDABLE
        self.kind = kind
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "children" / "memory_cell.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
            bufsize=0,
        )
        self._rest = b""

    def send(self, name: str, cell: dict[str, Any]) -> None:
        """Starts a cell."""
        if self.process.stdin is None:
            raise RuntimeError("no pipe")
        self.process.stdin.write((json.dumps({"name": name, "cell": cell}) + "\n").encode())

    def first(self) -> dict[str, Any]:
        """What it says of itself once it is ready."""
        answers: list[dict[str, Any]] = []
        while not answers:
            answers = self.read()
        return answers[0]

    def read(self) -> list[dict[str, Any]]:
        """Answers that are there, after half a second at most."""
        if self.process.stdout is None:
            raise RuntimeError("no pipe")
        if not select.select([self.process.stdout], [], [], 0.5)[0]:
            return []
        data = os.read(self.process.stdout.fileno(), 1 << 16)
        if not data:
            raise RuntimeError(f"the {self.kind} process ended")
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines if line.strip().startswith(b"{")]


class Schedule:
    """Which cells run beside one another: by what they are predicted to need."""

    def __init__(self, chosen: dict[str, dict[str, Any]], predictions: dict[str, Any], card: Card) -> None:
        self.card = card
        self.need = {n: max(predictions[n][k]["high"] for k in ("plain", "expandable")) + CONTEXT for n in chosen}
        order = list(chosen)
        # Near the limit one setting is enough: the engine trains with expandable segments. Those cells come first.
        self.waiting = [(n, k) for n in chosen for k in ("expandable", "plain") if k[0] == "e" or self.need[n] <= ALONE]
        self.waiting.sort(key=lambda job: (self.need[job[0]] <= ALONE, order.index(job[0])))
        self.running: dict[tuple[str, str], float] = {}

    def start(self) -> list[tuple[str, str]]:
        """Jobs that may start now; they count as running until their process is gone."""
        started = []
        for job in list(self.waiting):
            if self._room(self.need[job[0]]):
                self.waiting.remove(job)
                self.running[job] = time.monotonic()
                started.append(job)
        return started

    def _room(self, size: float) -> bool:
        if not self.running:
            return self.card.empty()
        busy = [self.need[name] for name, _ in self.running]
        return max(size, *busy) <= ALONE and len(busy) < TOGETHER and sum(busy) + size <= ROOM

    def overdue(self) -> list[tuple[str, str]]:
        """Jobs that took too long; they no longer count as running."""
        late = [job for job, since in self.running.items() if time.monotonic() - since > CELL_SECONDS + 5]
        for job in late:
            del self.running[job]
        return late


def run_all(
    chosen: dict[str, dict[str, Any]], predictions: dict[str, Any], out: Path | None, limit: float = LIMIT_SECONDS
) -> dict[str, dict[str, Any]]:
    """Measures the cells under both settings.

    Returns:
        By cell: `plain` and `expandable` answers.
    """
    pools = {kind: Pool(kind) for kind in ("expandable", "plain")}
    facts = [one.first() for one in pools.values()]
    print(facts[0], flush=True)
    results: dict[str, dict[str, Any]] = {name: {} for name in chosen}
    plan, started = Schedule(chosen, predictions, Card()), time.monotonic()
    while facts[0]["cuda"] and (plan.waiting or plan.running) and time.monotonic() - started < limit:
        for name, kind in plan.start():
            pools[kind].send(name, chosen[name])
        for one in pools.values():
            for answer in one.read():
                if "ended" in answer:
                    plan.running.pop((answer["ended"], one.kind), None)
                    continue
                name = answer.pop("name", "")
                answer["alone"] = len(plan.running) == 1
                results[name][one.kind] = answer
                _report(name, one.kind, answer, predictions[name], out)
        for name, kind in plan.overdue():
            results[name][kind] = {"error": "took too long"}
            print(f"{name:44} {kind:10} took too long", flush=True)
    for one in pools.values():
        one.process.kill()
    if not facts[0]["cuda"]:
        print("no CUDA device here: nothing measured")
    return results


def _report(name: str, kind: str, answer: dict[str, Any], prediction: dict[str, Any], out: Path | None) -> None:
    predicted = prediction[kind]
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"cell": name, "kind": kind, "predicted": predicted, **answer}) + "\n")
    if "error" in answer:
        print(f"{name:44} {kind:10} {answer['error'][:150]}", flush=True)
        return
    over = "OUT OF MEMORY " if answer.get("oom") else ""
    context = (answer["used_now"] - answer["reserved_now"]) / GIB if answer["alone"] else math.nan
    print(
        f"{name:44} {kind:10} {over}predicted {predicted['peak'] / GIB:6.2f} allocated {answer['allocated'] / GIB:6.2f}"
        f" ({predicted['peak'] / max(answer['allocated'], 1) - 1:+.2%}) reserved {answer['reserved'] / GIB:6.2f}"
        f" in {predicted['low'] / GIB:.2f}..{predicted['high'] / GIB:.2f} context {context:.2f} {answer['seconds']} s",
        flush=True,
    )


def _share(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(math.ceil(share * len(ordered)) - 1, len(ordered) - 1)] if ordered else math.nan


def sound(answer: dict[str, Any], prediction: dict[str, Any]) -> bool:
    """Whether an answer says something of its cell: it ran, and what stopped it was not another process's memory."""
    if "error" in answer:
        return False
    foreign = answer["used_now"] - answer["reserved_now"] > FOREIGN
    return not answer.get("oom") or not (foreign or prediction["peak"] < SURELY)


def earlier(files: list[Path]) -> dict[str, dict[str, Any]]:
    """Answers of earlier runs by cell and setting; a later file's take the place of an earlier one's, if sound."""
    known, found = cells(), dict[str, dict[str, Any]]()
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["cell"] in known and sound(row, row["predicted"]):
                found.setdefault(row["cell"], {})[row["kind"]] = row
    return found


def compared(results: dict[str, dict[str, Any]], predictions: dict[str, Any]) -> dict[str, Any]:
    """Errors against the measurements, beside two rules of thumb; upper bounds over what was reserved; verdicts.

    Returns:
        errors: by who says it, relative, with expandable segments; also by method. upper: by setting. verdicts:
        (cell, said to fit, did fit) of those near the card's limit.
    """
    errors: dict[str, list[float]] = {"autoswift": [], "weights x 1.2": [], "accelerate's estimate": []}
    upper: dict[str, list[float]] = {"plain": [], "expandable": []}
    verdicts = []
    known = {name: found for name, found in results.items() if name in predictions}
    rows = [(n, k, a) for n, found in known.items() for k, a in found.items() if sound(a, predictions[n][k])]
    for name, kind, answer in rows:
        prediction, oom = predictions[name], bool(answer.get("oom"))
        if not oom:
            # Where memory runs short the allocator gives back what it only keeps: no card reserves more than it has.
            most = max(answer["total"] - LEAST_CONTEXT, prediction[kind]["peak"])
            upper[kind].append(min(prediction[kind]["high"], most) / answer["reserved"] - 1)
        room = USABLE * answer["total"]
        if kind == "expandable" and (oom or prediction[kind]["least"] > NEAR * room):
            verdicts.append((name, prediction[kind]["least"] <= room, not oom))
        if not oom:
            guesses = (prediction[kind]["peak"], 2.4 * prediction["parameters"], 8 * prediction["parameters"])
            off = [abs(guess / answer["allocated"] - 1) for guess in guesses]
            errors.setdefault(f"  {name.split()[1]}, {kind}", []).append(off[0])
            for key, value in zip(list(errors)[:3], off, strict=True):
                if kind == "expandable":
                    errors[key].append(value)
    return {"errors": errors, "upper": upper, "verdicts": verdicts}


def summary(found: dict[str, Any]) -> None:
    """Prints the table."""
    print("\nagainst max_memory_allocated      cells   median     p95     max")
    for key, values in sorted(found["errors"].items(), key=lambda item: item[0].startswith("  ")):
        worst = max(values, default=math.nan)
        print(f"{key:32} {len(values):6} {_share(values, 0.5):8.2%} {_share(values, 0.95):7.2%} {worst:7.2%}")
    for kind, values in found["upper"].items():
        low, high = min(values, default=math.nan), max(values, default=math.nan)
        print(
            f"upper bound over reserved, {kind}: {low:+.2%} to {high:+.2%}, median {_share(values, 0.5):+.2%}, "
            f"95th percentile {_share(values, 0.95):+.2%}, {len(values)} cells"
        )
    right = sum(said == was for _, said, was in found["verdicts"])
    print(f"verdict near the limit: {right} of {len(found['verdicts'])} right")
    for name, said, was in found["verdicts"]:
        print(f"  {name:44} said {'fits' if said else 'does not fit'}, {'fitted' if was else 'did not'}")


def _runnable(chosen: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Without the cells whose library is missing here."""
    four = [n for n, c in chosen.items() if c["method"] == "qlora" or "8bit" in c.get("optimizer", "")]
    liger = [n for n, c in chosen.items() if c.get("liger")]
    for module, wanting in (("bitsandbytes", four), ("liger_kernel", liger)):
        if importlib.util.find_spec(module) is None:
            print(f"{module} is missing: {len(wanting)} cells left out", flush=True)
            chosen = {name: cell for name, cell in chosen.items() if name not in wanting}
    return chosen


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", help="names, or beginnings of names; all without")
    parser.add_argument("--predict", action="store_true")
    parser.add_argument("--second", action="store_true", help=f"the cells marked second, {SECOND_SECONDS} s at most")
    parser.add_argument("--compare", type=Path, nargs="+", help="files of earlier runs")
    parser.add_argument("--out", type=Path, help="one JSON line an answer")
    asked = parser.parse_args()
    if asked.predict:
        predict()
        return
    predictions = json.loads(PREDICTIONS.read_text(encoding="utf-8"))
    if asked.compare:
        summary(compared(earlier(asked.compare), predictions))
        return
    chosen = {n: c for n, c in cells().items() if not asked.cells or any(n.startswith(a) for a in asked.cells)}
    if asked.second:
        chosen = {name: cell for name, cell in chosen.items() if cell.get("second")}
    limit = SECOND_SECONDS if asked.second else LIMIT_SECONDS
    results = run_all(_runnable(chosen), predictions, asked.out, limit)
    if any(results.values()):
        summary(compared(results, predictions))


if __name__ == "__main__":
    main()
