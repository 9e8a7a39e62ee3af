"""Whether trials share one resident base, and how many of them: by what can be packed, the memory, and measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from autoswift.decide.book import Book
from autoswift.decide.inputs import Inputs
from autoswift.decide.schedule import Schedule
from autoswift.decide.search_shape import search_seconds
from autoswift.decide.way import Way
from autoswift.domain.plan import ModelChoice, TrainingSettings
from autoswift.errors import InputError
from autoswift.hardware.shape import shape_of
from autoswift.tables import explain, table

OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")
"""Those with a state for each number, which can be stacked; 8-bit ones keep it in blocks that would span trials."""
TRIAL_PARTS = ("adapter", "gradients", "optimizer", "activations")
"""Of a training's memory, what each trial has of its own; logits exist for one trial at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How trials share a device.

    Attributes:
        trials: in one resident worker; 0 for a process a trial. speedup: of a step of theirs over one after the other.
    """

    trials: int = 0
    speedup: float = 1.0

    def search_seconds(self, times: Schedule, rungs: tuple[int, ...], rate: float, lanes: int) -> float:
        """Seconds of the search: with a worker its start comes once, and a step does the work of several.

        Args:
            times: trials and their tokens. rungs: tokens at which trials end. rate: tokens a second of one trial.
            lanes: devices, or groups of them.
        """
        if self.trials == 0:
            return search_seconds(times, rungs, rate, lanes)
        warm = replace(times, start_seconds=float(table("packing")["resident_start_seconds"]))
        return times.start_seconds + search_seconds(warm, rungs, rate * self.speedup, lanes)


def choose_packing(
    inputs: Inputs,
    model: ModelChoice,
    training: TrainingSettings,
    way: Way,
    work: tuple[Schedule, str, float],
    book: Book,
) -> Packing:
    """The decision `trial_packing`.

    Args:
        model, training: what is trained. way: how, with its memory.
        work: trials and their tokens, the executor, and the mean tokens of a row.

    Raises:
        InputError: when the user wants trials packed that cannot be.
    """
    times, executor, row = work
    why = reason_against(inputs, model, training, executor)
    wanted, shown, limit = (0, {}, "") if why else _most(inputs, model, training, way, times, row)
    seconds = f"{times.start_seconds:.0f}"
    words: dict[str, Any] = {"seconds": seconds, "trials": times.trials, "packed": wanted}
    if why:
        because, evidence = book.say(f"trial_packing.{why}", model=model.model_type or "?", **words), []
        others: list[tuple[Any, str]] = []
    else:
        if times.trials < 2:
            wanted, key = 0, "single"
        elif not table("packing")["enabled"].get(inputs.hardware.device.kind, False):
            wanted, key = 0, "off"
        else:
            key = "one" if wanted == 1 else "several"
        gain = f"{shown.get(wanted, 1.0):.1f}"
        because = book.say(f"trial_packing.{key}", gain=gain, **words)
        evidence = [book.fact("start_seconds", round(times.start_seconds, 1), book.say("trial_packing.start", **words))]
        if len(shown) > 1:
            curve = ", ".join(f"{k}: {v:.1f}" for k, v in shown.items())
            source = table("packing")["speedup"]["source"]
            evidence.append(
                book.fact(
                    "packed_speedup",
                    {str(k): v for k, v in shown.items()},
                    book.say("trial_packing.curve", curve=curve, source=source),
                )
            )
        others = [(0, book.say("trial_packing.not_process", total=f"{times.start_seconds * times.trials:.0f}"))]
        if wanted and limit:
            others.append((wanted * 2, book.say(f"trial_packing.not_more.{limit}")))
        others = others if wanted else [(1, book.say(f"trial_packing.not_worker.{key}"))]
    chosen = int(
        book.add(
            "trial_packing",
            wanted,
            because,
            evidence=evidence,
            alternatives=others,
            levers=("task.budget.trials", "hardware.devices.0.free_bytes", "hardware.devices.0.kind"),
            source="rule" if why else "measurement",
        )
    )
    if chosen and why:
        raise InputError(*explain("decide.packing", packed=chosen, because=because))
    return Packing(trials=chosen, speedup=speedup_of(shown, chosen) if chosen else 1.0)


def reason_against(inputs: Inputs, model: ModelChoice, training: TrainingSettings, executor: str) -> str:
    """Why trials cannot be packed, as a word; empty when they can."""
    known = model.model_type.lower().replace("-", "").replace("_", "").replace(".", "")
    checks = {
        "engine": training.engine != "swift",
        "executor": executor != "local",
        "task": inputs.data.task != "sft",
        "full": training.method == "full",
        "megatron": training.sharding == "megatron",
        "sharded": training.devices > 1,
        "experts": shape_of(model).mixture or model.active > 0 or "moe" in known,
        "architecture": not known.startswith(tuple(table("packing")["families"])),
        "device": inputs.hardware.device.kind not in ("cpu", "cuda"),
        "precision": training.precision == "float16",
        "optimizer": training.optimizer not in OPTIMIZERS,
    }
    return next((word for word, true in checks.items() if true), "")


def _most(
    inputs: Inputs, model: ModelChoice, training: TrainingSettings, way: Way, times: Schedule, row: float
) -> tuple[int, dict[int, float], str]:
    """How many trials share a step, the speed-up by their number, and what speaks against twice as many."""
    rules = table("packing")
    if inputs.on_cpu:  # its products take all of its time already
        return 1, {1: 1.0}, "cpu"
    tokens = training.per_device_train_batch_size * row
    shown = measured_speedup(model.parameters, tokens, inputs.hardware.device.tflops)
    within = {
        "memory": fitting(way, training.per_device_train_batch_size),
        "waves": max(1, times.trials // int(rules["waves"]) // max(1, inputs.lanes)),
        "measured": int(rules["largest"]),
    }
    most, limit = 1, "gain"
    for fewer, more in pairwise(shown):
        small = next((word for word, bound in within.items() if more > bound), "")
        if small or shown[more] < float(rules["gain"]) * shown[fewer]:
            limit = small or "gain"
            break
        most = more
    else:
        limit = "measured"
    return most, shown, limit


def fitting(way: Way, micro_batch: int) -> int:
    """How many trials fit into the device: the base is there once, each has its own adapter and activations.

    Args:
        way: whose memory is known, with the largest micro-batch that may come. micro_batch: that is trained with.
    """
    fit = way.fit
    parts = {name: fit.estimate.parts.get(name, 0) for name in TRIAL_PARTS}
    parts["activations"] = int(parts["activations"] * micro_batch / fit.micro_batch)
    each = sum(parts.values()) * _margin(way)
    left = way.room.bytes - fit.needed_bytes
    return 1 + max(0, int(left / each)) if each > 0 else 1


def _margin(way: Way) -> float:
    """What the allocator takes above the live tensors, by the estimate's upper bound."""
    estimate = way.fit.estimate
    return max(1.0, estimate.high / estimate.peak_bytes) if estimate.peak_bytes else 1.0


def measured_speedup(parameters: int, tokens: float, tflops: float) -> dict[int, float]:
    """Trials in a step to speed-up, in doublings, as on the measured shape that is nearest.

    A slower card is as busy with fewer tokens, so they count in proportion.

    Args:
        parameters: of the base. tokens: of one trial's micro-batch. tflops: that a step sustains on the card.
    """
    one = table("packing")["speedup"]
    busy = max(1.0, tokens) * (float(one["card_tflops"]) / tflops if tflops > 0 else 1.0)

    def away(row: Mapping[str, Any]) -> float:
        size = math.log(parameters / row["parameters"]) if parameters > 0 else 0.0
        return abs(size) + abs(math.log(busy / (row["micro_batch"] * row["length"])))

    nearest = min(one["rows"], key=away)
    points = {1: 1.0} | {int(k): float(v) for k, v in nearest["trials"].items()}
    count, found = 1, dict[int, float]()
    while count <= max(points):
        found[count] = round(speedup_of(points, count), 2)
        count *= 2
    return found


def speedup_of(points: Mapping[int, float], trials: int) -> float:
    """Between two measured numbers of trials the speed-up is linear in their logarithms; beyond the last it stays."""
    known = sorted(points)
    if not known or trials >= known[-1]:
        return points[known[-1]] if known else 1.0
    for low, high in pairwise(known):
        if low <= trials <= high:
            part = math.log(trials / low) / math.log(high / low)
            return math.exp((1 - part) * math.log(points[low]) + part * math.log(points[high]))
    return points[known[0]]
