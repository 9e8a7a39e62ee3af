"""A simulated engine whose device has only so much memory, and what torch says when it is full."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoswift.domain.plan import ModelChoice, Plan, RecoverySettings
from autoswift.domain.profile import GIB, Device
from autoswift.domain.protocols import Event
from autoswift.domain.trial import Trial
from autoswift.engines.simulated import Landscape, SimulatedEngine, SimulatedSession, _Lane
from autoswift.recover.memory import MemoryModel
from autoswift.search.configuration import settings_in_force
from unit.plans import make_plan

H100 = Device(kind="cuda", name="NVIDIA H100 80GB HBM3", memory_bytes=80 * GIB, free_bytes=79 * GIB, bf16=True)
MODELS = {
    "0.5b": ModelChoice(id="qwen2.5-0.5b", source="folder", location="/m", model_type="qwen2", template="qwen2_5",
                        parameters=494_032_768, layers=24, hidden=896, heads=14, kv_heads=2, intermediate=4864,
                        vocabulary=151936, head_dim=64, tied=True),
    "1.5b": ModelChoice(id="qwen2.5-1.5b", source="folder", location="/m", model_type="qwen2", template="qwen2_5",
                        parameters=1_543_714_304, layers=28, hidden=1536, heads=12, kv_heads=2, intermediate=8960,
                        vocabulary=151936, head_dim=128, tied=True),
    "7b": ModelChoice(id="qwen2.5-7b", source="folder", location="/m", model_type="qwen2", template="qwen2_5",
                      parameters=7_615_616_512, layers=28, hidden=3584, heads=28, kv_heads=4, intermediate=18944,
                      vocabulary=152064, head_dim=128, tied=False),
}  # fmt: skip


def said(asked: float, used: float, free: float, total: float) -> str:
    """torch 2.x's sentence, sizes in bytes."""
    a, u, f, t = (f"{x / GIB:.2f} GiB" for x in (asked, used, free, total))
    return (
        f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {a}. GPU 0 has a total capacity of {t} of which"
        f" {f} is free. Including non-PyTorch memory, this process has {u} memory in use. Of the allocated memory"
        f" {u} is allocated by PyTorch, and 12.00 MiB is reserved by PyTorch but unallocated. If reserved but"
        " unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden(Landscape):
    """The formula, where 4-bit weights and cut rows cost what the papers say they may."""

    noise: float = 0.0

    def nll(self, settings: Mapping[str, Any], tokens: float) -> float | None:
        cost = 0.01 * (settings["method"] == "qlora") + 0.05 * ("truncation_strategy" in settings["flags"])
        return Landscape._curve(self, settings, tokens) + cost


class FullDevice(SimulatedEngine):
    """Args: cap: bytes that a training may take. truth: what it really takes, over what the model of the plan says.

    phase: where it shows. figures: the message has numbers. answers: largest generation batch that fits.
    """

    def __init__(
        self, folder: Path, plan: Plan, *, cap: float, truth: float = 1.0, phase: str = "first_step",
        figures: bool = True, answers: int = 64,
    ) -> None:  # fmt: skip
        super().__init__(folder, Hidden(), own_clock=True)
        self.cap, self.truth, self.phase, self.figures, self.answers = cap, truth, phase, figures, answers
        self.model = MemoryModel(plan, H100)
        self.refused: list[tuple[Trial, dict[str, Any]]] = []

    def open(self, plan: Plan, device: Device) -> SimulatedSession:
        del device
        return _FullSession(self, plan, 1)

    def real(self, settings: Mapping[str, Any]) -> float:
        return self.model.needs(settings) * self.truth


class _FullSession(SimulatedSession):
    engine: FullDevice

    def _events(self, lane: _Lane) -> list[Event]:
        events = super()._events(lane)
        engine, phase = self.engine, self.engine.phase
        if phase == "evaluation":
            full = int(lane.settings["generation_batch_size"]) > engine.answers
        else:
            full = engine.real(lane.settings) > engine.cap
        if not full:
            return events
        engine.refused.append((lane.trial, lane.settings))
        kept = {"load": 0, "first_step": 1, "long_batch": 8, "save": len(events) - 2, "evaluation": len(events) - 2}
        need = engine.real(lane.settings)
        words = said(max(need - engine.cap * 0.97, 2**20), engine.cap * 0.97, engine.cap * 0.03, 80 * GIB)
        words = words if engine.figures else "RuntimeError: NPU out of memory"
        at = min(kept[phase], len(events) - 2)
        last = events[at]
        evidence = {"text": words, "phase": phase}
        stamp: dict[str, Any] = {"trial": lane.trial.number, "time": last.time, "step": last.step}
        failed = Event(kind="failed", symptom="device_out_of_memory", evidence=evidence, **stamp)
        return [*events[:at], failed]


def plan_for(
    size: str,
    method: str,
    *,
    micro: int,
    batch: int,
    length: int,
    devices: int = 1,
    room: float = 79 * GIB,
    **more: Any,
) -> Plan:
    """A plan for an H100; `more` are fields of its recovery settings."""
    base = make_plan(trials=1)
    training = replace(
        base.training, method=method, precision="bfloat16", max_length=length, per_device_train_batch_size=micro,
        gradient_accumulation_steps=batch // micro // devices, devices=devices, optimizer="adamw_torch_fused",
        sharding="ddp" if devices > 1 else "none",
    )  # fmt: skip
    allowed: dict[str, Any] = {"liger": True, "bits": True, "bfloat16": True} | more
    return replace(
        base,
        model=MODELS[size],
        training=training,
        estimate=replace(base.estimate, memory_limit_bytes=int(room), stage_seconds={"search": 60.0, "train": 60.0}),
        search=replace(base.search, space={}, trial_tokens=32_000),
        recovery=RecoverySettings(**allowed),
    )


def start_settings(plan: Plan) -> dict[str, Any]:
    return settings_in_force(plan, Trial(number=1, attempt=1, parameters={}, tokens=plan.search.trial_tokens))


def seeded(n: int) -> random.Random:
    return random.Random(f"oom/{n}")
