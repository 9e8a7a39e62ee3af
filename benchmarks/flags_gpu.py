"""Over a grid of flags: how near the plan's choice comes to the fastest setting that fits, on data of skewed lengths.

    python benchmarks/flags_gpu.py --plan     on any machine: the planner's choice and what it predicts of every cell,
                                              into benchmarks/data/flags_plan.json
    python benchmarks/flags_gpu.py [--out F] [--site DIR] [--seconds N] [--top N]
                                              on the device: times the cells, prints a table and the plan's rank
    python benchmarks/flags_gpu.py --read F   the table of an earlier run against today's flags_plan.json
    python benchmarks/flags_gpu.py --tiny     a small model on the processor: does it run at all

Qwen2.5-1.5B's shape with random weights, lognormal lengths (median 180 tokens, 99th percentile 1900). A cell is LoRA or
QLoRA, checkpointing, Liger's kernels, a micro-batch, and whether rows of like length go together; the effective batch
is the same in all. A cell's micro-batches are made as the trainer's sampler makes them; a few that stand for equal
parts of the epoch are timed, and the rows a second follow. Its memory is that of a micro-batch padded to the longest
row. The caps are the whole card and 24 GB; a cell is out where what torch reserved, with the context, is more.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import math
import os
import random
import sys
import time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHOICE = HERE / "data" / "flags_plan.json"
MODEL = "qwen2.5-1.5b-instruct"
GIB = 2**30
MEDIAN, P99, LONGEST = 180, 1900, 2048
ROWS = 2000
MICROS = (1, 2, 4, 8, 16)
CAPS = {"card": 79.15, "24 GB": 23.65}
"""GiB that processes can have of 80 and 24 GB."""
CONTEXT = 0.75
"""GiB of a process on the device, beyond what torch reserves."""
WITHIN = 0.05
"""Of the fastest cell that fits: the bar."""
SECONDS = 345


@dataclass(frozen=True, slots=True)
class Cell:
    """A setting of the flags."""

    method: str
    checkpointing: bool
    liger: bool
    micro: int
    grouped: bool

    @property
    def name(self) -> str:
        words = (self.method, "ckpt" if self.checkpointing else "keep", "liger" if self.liger else "plain")
        return " ".join([*words, f"{self.micro:>2}", "grouped" if self.grouped else "random"])


def lengths(rows: int = ROWS) -> list[int]:
    """Tokens of the rows."""
    draw = random.Random(0)  # noqa: S311 - the same lengths each time
    sigma = math.log(P99 / MEDIAN) / 2.3263
    return [min(LONGEST, max(16, round(MEDIAN * math.exp(sigma * draw.gauss(0, 1))))) for _ in range(rows)]


def grid(batch: int) -> list[Cell]:
    """All cells, those whose kernels patch modules for good last, the likeliest micro-batches first."""
    order = sorted((m for m in MICROS if m <= batch), key=lambda m: abs(math.log2(m / 8)))
    every = product((False, True), ("lora", "qlora"), order, (False, True), (False, True))
    return [Cell(method, ckpt, liger, micro, grouped) for liger, method, micro, ckpt, grouped in every
            if micro > 1 or not grouped]  # fmt: skip


# ---------------------------------------------------------------- the plan, without a device


def choose() -> None:
    """Writes what the planner chooses for the card and for 24 GB of it, and what it predicts of the cells."""
    from autoswift.catalog.availability import Availability
    from autoswift.catalog.models import catalog
    from autoswift.catalog.tokens import TokenStats
    from autoswift.decide.fit import Need, Room, ways
    from autoswift.decide.inputs import Inputs
    from autoswift.decide.planner import make_plan
    from autoswift.domain.budget import Budget
    from autoswift.domain.profile import DataProfile, LengthStats, TaskProfile
    from autoswift.domain.task import Task
    from autoswift.hardware.probe import from_json
    from autoswift.hardware.shape import shape_of

    found = sorted(lengths())
    mean = sum(found) / len(found)
    quantile = [float(found[int(q * (len(found) - 1))]) for q in (0.5, 0.95)]
    rows = LengthStats(mean=mean, p50=quantile[0], p95=quantile[1], max=float(found[-1]), total=float(sum(found)))
    answers = replace(rows, mean=mean / 2, p50=quantile[0] / 2, p95=quantile[1] / 2, max=rows.max / 2)
    letters = LengthStats(mean=4 * mean, p50=4 * rows.p50, p95=4 * rows.p95, max=4 * rows.max, total=4 * rows.total)
    data = DataProfile(
        path="/data.jsonl", sha256="0", format="jsonl", task="sft", language="en", domain="general", modality="text",
        rows=ROWS, conversations=ROWS, turns_mean=1.0, splits={"train": ROWS, "validation": 200, "test": 200},
        characters=letters, answer_characters=letters, cjk_share=0.0,
    )  # fmt: skip
    probe = from_json(HERE.parent / "tests" / "probes" / "h100.json")
    packages = tuple(sorted({"bitsandbytes", "liger-kernel", *(probe.packages or ())}))
    models = tuple(one for one in catalog() if one.id == MODEL)
    written: dict[str, Any] = {"model": MODEL, "plans": {}, "cells": {}}
    for cap, gib in CAPS.items():
        memory = int(gib * GIB)
        device = replace(probe.device, memory_bytes=memory + 1, free_bytes=memory)
        hardware = replace(probe, devices=(device,), packages=packages)
        task = Task(sentence="x", data="/data.jsonl", model=MODEL, budget=Budget(trials=5, hours=8))
        asked = Inputs(
            task=task, profile=TaskProfile(text="x", language="en", domain="general"), data=data, hardware=hardware,
            availability=Availability(huggingface=True, modelscope=True, packaged=True), models=models,
            tokens=TokenStats(rows=rows, answers=answers),
        )  # fmt: skip
        plan = make_plan(asked)
        one = plan.training
        grouped = str(one.flags.get("group_by_length", "")).lower() == "true"
        cell = Cell(
            one.method, one.gradient_checkpointing, one.use_liger_kernel, one.per_device_train_batch_size, grouped
        )
        written["plans"][cap] = {
            "cell": cell.name,
            "batch": one.effective_batch_size,
            "max_length": one.max_length,
            "peak_gib": round(plan.estimate.peak_memory_bytes / GIB, 2),
        }
        print(cap, written["plans"][cap])
        if cap == "card":
            written["batch"] = one.effective_batch_size
            need = Need(
                length=one.max_length, rows=rows, batch=one.effective_batch_size, rank=16,
                largest_micro=one.effective_batch_size,
            )  # fmt: skip
            room = Room(device=device, bytes=10**15, liger=True, optimizer=one.optimizer, attention=one.attention)
            for fit in ways(shape_of(plan.model), ("lora", "qlora"), need, room):
                name = Cell(fit.method, fit.gradient_checkpointing, fit.liger, fit.micro_batch,
                            fit.grouped).name  # fmt: skip
                written["cells"][name] = {
                    "rows_per_second": round(1 / fit.seconds_per_row, 2),
                    "peak_gib": round(fit.estimate.peak_bytes / GIB, 2),
                    "high_gib": round(fit.needed_bytes / GIB, 2),
                }
    CHOICE.write_text(json.dumps(written, indent=1, sort_keys=True) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- on the device


class Bench:
    """The models, one after the other, and the cells on each.

    Args:
        config: of the model, with `model_type`. batch: rows of an optimizer step. device: cuda or cpu.
        end: of the measurement, by `time.monotonic`.
    """

    def __init__(self, config: dict[str, Any], batch: int, device: str, end: float) -> None:
        sys.path.insert(0, str(HERE / "children"))
        self.config, self.batch, self.device, self.end = config, batch, device, end
        self.rows = lengths() if device == "cuda" else [max(8, one // 16) for one in lengths()[:200]]
        self.built: tuple[str, bool] | None = None
        self.model: Any = None
        self.parameters: list[Any] = []
        self.optimizer: Any = None
        self.schedules: dict[tuple[int, bool], list[list[int]]] = {}

    def build(self, method: str, liger: bool) -> None:
        """A model with random weights, its adapters, its optimizer."""
        import memory_cell
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        self.model, self.parameters, self.optimizer = None, [], None
        gc.collect()
        self._empty()
        values = dict(self.config)
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        config.use_cache = False
        config._attn_implementation = "sdpa"
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(self.device):
            model = AutoModelForCausalLM.from_config(config)
        torch.set_default_dtype(torch.float32)
        if method == "qlora":
            memory_cell._pack(model)
        if liger:
            from liger_kernel.transformers import _apply_liger_kernel_to_instance

            _apply_liger_kernel_to_instance(model=model)
        self.model = memory_cell._adapted(model, {"rank": 16})
        self.model.train()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, fused=self.device == "cuda" or None)
        self.built = (method, liger)

    def schedule(self, micro: int, grouped: bool) -> list[list[int]]:
        """The epoch's micro-batches, by the lengths of their rows."""
        import torch
        from transformers.trainer_pt_utils import get_length_grouped_indices

        if (micro, grouped) not in self.schedules:
            generator = torch.Generator().manual_seed(0)
            if grouped:
                order = get_length_grouped_indices(self.rows, micro, generator=generator)
            else:
                order = torch.randperm(len(self.rows), generator=generator).tolist()
            chosen = [[self.rows[i] for i in order[at : at + micro]] for at in range(0, len(order), micro)]
            self.schedules[micro, grouped] = sorted((b for b in chosen if len(b) == micro), key=max)
        return self.schedules[micro, grouped]

    def one(self, batch: list[int]) -> None:
        """Forward and backward as the trainer makes them: outputs to float32, accuracy from the logits."""
        import torch

        longest = max(batch)
        ids = torch.randint(0, self.config["vocab_size"] - 1, (len(batch), longest), device=self.device)
        mask = (torch.arange(longest, device=self.device) < torch.tensor(batch, device=self.device)[:, None]).long()
        labels = ids.masked_fill(mask == 0, -100)
        with torch.autocast(self.device, dtype=torch.bfloat16):
            outputs = self.model(input_ids=ids, labels=labels, attention_mask=mask)
        loss = outputs.loss.float()
        logits = outputs.logits.float() if outputs.logits is not None else None
        del outputs
        if logits is not None:
            logits.argmax(-1)
        del logits
        loss.backward()

    def update(self) -> None:
        """The optimizer's part of a step."""
        import torch

        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def timed(self, work: Any, repeats: int) -> float:
        """Median seconds."""
        spent = []
        for _ in range(repeats):
            self._wait()
            begin = time.perf_counter()
            work()
            self._wait()
            spent.append(time.perf_counter() - begin)
        return sorted(spent)[len(spent) // 2]

    def cell(self, one: Cell) -> dict[str, Any]:
        """Rows and tokens a second, and what the longest micro-batch took."""
        import torch

        if self.built != (one.method, one.liger):
            self.build(one.method, one.liger)
        if one.checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
            self.model.enable_input_require_grads()
        answer: dict[str, Any] = {}
        try:
            answer = self._memory(one)
            schedule = self.schedule(one.micro, one.grouped)
            parts, repeats = (2, 2) if one.micro < 4 else (5, 3)
            seconds, share = 0.0, len(schedule) / parts
            for part in range(parts):
                own = schedule[round(part * share) : round((part + 1) * share)]
                middle = sum(map(max, own)) / len(own)
                batch = min(own, key=lambda b: abs(max(b) - middle))
                seconds += self.timed(lambda batch=batch: self.one(batch), repeats) / parts
            step = seconds * (self.batch // one.micro) + self.timed(self.update, 1)
            useful = sum(map(sum, schedule)) / (len(schedule) * one.micro)
            answer |= {
                "rows_per_second": self.batch / step,
                "tokens_per_second": useful * self.batch / step,
                "pass_seconds": seconds,
            }
        except torch.OutOfMemoryError:
            answer |= {"oom": True}
        self.optimizer.zero_grad()
        if one.checkpointing:
            self.model.gradient_checkpointing_disable()
            self.model.disable_input_require_grads()
        return answer

    def _memory(self, one: Cell) -> dict[str, Any]:
        """The peaks of a micro-batch with the longest row, gradients of the one before kept; it also warms up."""
        import torch

        longest = max(self.rows)
        worst = [longest] + [min(longest, 180)] * (one.micro - 1)
        self.one([64] * one.micro)
        self._wait()
        self._empty()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.one(worst)
        self.update()
        self._wait()
        if self.device != "cuda":
            return {"allocated": 0, "reserved": 0}
        found = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
        self._empty()
        return found

    def _wait(self) -> None:
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def _empty(self) -> None:
        import torch

        if self.device == "cuda":
            torch.cuda.empty_cache()


def likeliest(cells: list[Cell], choice: dict[str, Any], most: int) -> list[Cell]:
    """Of those that are predicted to fit under either cap, the fastest so many, in the order given."""
    kept: set[str] = set()
    for gib in CAPS.values():
        fit = [one.name for one in cells if choice["cells"].get(one.name, {}).get("high_gib", math.inf) <= gib]
        kept |= set(sorted(fit, key=lambda name: -choice["cells"][name]["rows_per_second"])[:most])
    return [one for one in cells if one.name in kept]


def measure(bench: Bench, cells: list[Cell], out: Path | None) -> dict[str, dict[str, Any]]:
    """All cells within the time; one with a larger micro-batch than one that ran out of memory is not tried."""
    found: dict[str, dict[str, Any]] = {}
    too_large: dict[tuple[str, bool, bool], int] = {}
    for one in cells:
        flags = (one.method, one.checkpointing, one.liger)
        begin = time.monotonic()
        if begin > bench.end:
            print(f"{one.name:28} not reached", flush=True)
            continue
        if one.micro >= too_large.get(flags, 1 << 30):
            answer: dict[str, Any] = {"oom": True}
        else:
            answer = bench.cell(one)
        if answer.get("oom"):
            too_large[flags] = min(one.micro, too_large.get(flags, 1 << 30))
        answer["seconds"] = round(time.monotonic() - begin, 1)
        found[one.name] = answer
        if out is not None:
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"cell": one.name} | answer) + "\n")
        rate = "out of memory" if answer.get("oom") else f"{answer['rows_per_second']:8.2f} rows/s"
        print(f"{one.name:28} {rate}  {answer.get('reserved', 0) / GIB:6.2f} GiB  {answer['seconds']} s", flush=True)
    return found


def told(found: dict[str, dict[str, Any]], choice: dict[str, Any]) -> None:
    """The table, and for either cap the plan's place among the cells that fit."""
    ran = {name: one for name, one in found.items() if not one.get("oom")}
    head = f"\n{'cell':28} rows/s tokens/s  said  allocated reserved  said high  fits"
    print(head)
    for name, one in sorted(ran.items(), key=lambda item: -item[1]["rows_per_second"]):
        said = choice["cells"].get(name, {})
        fits = [cap for cap, gib in CAPS.items() if one["reserved"] / GIB + CONTEXT <= gib]
        print(
            f"{name:28} {one['rows_per_second']:6.1f} {one['tokens_per_second']:8.0f} "
            f"{said.get('rows_per_second', math.nan):5.1f} {one['allocated'] / GIB:10.2f} "
            f"{one['reserved'] / GIB:8.2f} {said.get('high_gib', math.nan):10.2f}  {', '.join(fits)}"
        )
    print(f"{len(found) - len(ran)} cells ran out of memory")
    for cap, gib in CAPS.items():
        for words, kept in (("all cells", ran), ("without grouping", {n: o for n, o in ran.items() if "random" in n})):
            here = {n: o for n, o in kept.items() if o["reserved"] / GIB + CONTEXT <= gib}
            place(cap, words, here, choice["plans"].get(cap, {}).get("cell", ""))


def place(cap: str, words: str, fits: dict[str, dict[str, Any]], chosen: str) -> None:
    """The plan's rank and distance among those."""
    if not fits:
        return
    order = sorted(fits, key=lambda name: -fits[name]["rows_per_second"])
    best = fits[order[0]]["rows_per_second"]
    if chosen not in fits:
        print(f"{cap}, {words}: fastest {order[0]}; the plan's choice, {chosen or '?'}, is not among them")
        return
    behind = 1 - fits[chosen]["rows_per_second"] / best
    verdict = "within" if behind <= WITHIN else "NOT within"
    print(
        f"{cap}, {words}: the plan's choice, {chosen}, is number {order.index(chosen) + 1} of {len(order)}, "
        f"{behind:.1%} behind {order[0]}: {verdict} {WITHIN:.0%}"
    )


def run(asked: argparse.Namespace) -> None:
    """On the device, or the tiny model on the processor."""
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    begin = time.monotonic()
    if asked.site:
        sys.path.insert(0, str(asked.site))
    import torch

    shapes = json.loads((HERE / "data" / "memory_cells.json").read_text(encoding="utf-8"))["shapes"]
    config = dict(shapes["qwen2.5-1.5b"])
    choice = json.loads(CHOICE.read_text(encoding="utf-8")) if CHOICE.exists() else {"plans": {}, "cells": {}}
    device = "cpu" if asked.tiny else "cuda"
    if asked.tiny:
        config |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                   "num_key_value_heads": 2, "vocab_size": 512, "layer_types": None}  # fmt: skip
    elif not torch.cuda.is_available():
        print("no CUDA device here: nothing measured; --tiny runs on the processor")
        return
    batch = 4 if asked.tiny else int(choice.get("batch", 16))
    cells = grid(batch)
    for module, wanting in (("bitsandbytes", "qlora"), ("liger_kernel", "liger")):
        if asked.tiny or importlib.util.find_spec(module) is None:
            cells = [one for one in cells if wanting not in one.name.split()]
            print(f"{module} is not used: cells of {wanting} are left out", flush=True)
    if asked.top:
        cells = likeliest(cells, choice, asked.top)
    if not asked.tiny:
        print(torch.cuda.get_device_name(), torch.__version__, f"batch {batch}, {len(cells)} cells", flush=True)
    found = measure(Bench(config, batch, device, begin + asked.seconds), cells, asked.out)
    told(found, choice)


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--read", type=Path)
    parser.add_argument("--out", type=Path, help="one JSON line a cell")
    parser.add_argument("--site", type=Path, help="where bitsandbytes and liger_kernel are installed")
    parser.add_argument("--top", type=int, default=0, help="only so many cells a cap, those predicted to be fastest")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    asked = parser.parse_args()
    if asked.plan:
        choose()
    elif asked.read:
        lines = [json.loads(line) for line in asked.read.read_text(encoding="utf-8").splitlines()]
        told({row.pop("cell"): row for row in lines}, json.loads(CHOICE.read_text(encoding="utf-8")))
    else:
        run(asked)


if __name__ == "__main__":
    main()
