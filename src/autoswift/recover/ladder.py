"""The rungs that remedies are made of: each a change of settings, none of the effective batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoswift.domain.plan import RecoverySettings
from autoswift.hardware.levers import SHORTEST
from autoswift.recover.memory import MemoryModel

NOTHING = RecoverySettings()
Settings = Mapping[str, Any]
Changes = dict[str, Any] | None

CLIP_FACTOR = 0.3
"""Of the gradients' largest norm: a third lets ordinary steps through, whose norms lie well under the default of 1."""
LEAST_CLIP = 0.1
"""Below, the clip sets the length of every step and the rate means nothing."""
RATE_FACTOR = 0.3
"""Of the learning rate: half a decade, the distance at which a rate is clearly another one."""
WARM_UP = 0.15
"""Share of the steps: three times the default; longer would take the time that the rate has to work."""
POINTLESS = 0.01
"""A rung that saves less of the need than this is left out: it would change the training for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a remedy is chosen for.

    Attributes:
        settings: in force for the failed attempt (the plan's, the trial's and earlier remedies').
        recovery: what runs here, and what the user consents to. fixed: settings that the user fixed.
        memory: what the settings need; None where nobody knows.
        tried: failed attempts of this kind so far, this one included.
        final: nothing is compared with this training: its own rate may be changed.
        language: of the decision's texts.
    """

    settings: Settings
    recovery: RecoverySettings = NOTHING
    fixed: frozenset[str] = frozenset()
    memory: MemoryModel | None = None
    tried: int = 1
    final: bool = False
    language: str = "en"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A place on the ladder.

    Attributes:
        names: of the rungs up to here. changes: all of theirs together.
        share: of the room that the settings then need; 0 where nobody knows.
        downgrades: rungs among them that may cost quality.
    """

    names: tuple[str, ...]
    changes: dict[str, Any]
    share: float = 0.0

    @property
    def downgrades(self) -> tuple[str, ...]:
        """Those of the rungs that may cost quality."""
        return tuple(name for name in self.names if name in DOWNGRADES)


def halve_micro_batch(settings: Settings, recovery: RecoverySettings = NOTHING) -> Changes:
    """Half the micro-batch or the next lower divisor, with the accumulation that keeps the effective batch exactly."""
    del recovery
    micro = int(settings["per_device_train_batch_size"])
    share = micro * int(settings["gradient_accumulation_steps"])  # a device's part; their number stays
    if micro <= 1:
        return None
    less = max(d for d in range(1, micro // 2 + 1) if share % d == 0)
    return {"per_device_train_batch_size": less, "gradient_accumulation_steps": share // less}


def checkpoint_activations(settings: Settings, recovery: RecoverySettings = NOTHING) -> Changes:
    """Recompute activations in the backward pass: a third more compute, most of their memory back."""
    del recovery
    return None if settings["gradient_checkpointing"] else {"gradient_checkpointing": True}


def fused_loss(settings: Settings, recovery: RecoverySettings = NOTHING) -> Changes:
    """Liger's kernels: the logits of a batch never exist at once."""
    return {"use_liger_kernel": True} if recovery.liger and not settings.get("use_liger_kernel") else None


def eight_bit_optimizer(settings: Settings, recovery: RecoverySettings = NOTHING) -> Changes:
    """A quarter of the memory of the optimizer's states."""
    usable = recovery.bits and "8bit" not in str(settings.get("optimizer", ""))
    return {"optimizer": "adamw_bnb_8bit"} if usable and settings.get("sharding", "none") == "none" else None


def qlora(settings: Settings, recovery: RecoverySettings = NOTHING) -> Changes:
    """The frozen weights in 4 bits."""
    usable = recovery.bits and settings.get("sharding") not in ("megatron", "zero3")
    return {"method": "qlora"} if usable and settings.get("method") == "lora" else None


def shorter_length(settings: Settings, recovery: RecoverySettings = NOTHING) -> Changes:
    """Rows cut to half the length, their end kept: it is the answer that is trained on."""
    half = int(settings["max_length"]) // 2
    if not recovery.allow_truncate or half < SHORTEST:
        return None
    flags = dict(settings.get("flags") or {}) | {"truncation_strategy": "left"}
    return {"max_length": half, "flags": flags}


def halve_answer_batch(settings: Settings, recovery: RecoverySettings = NOTHING) -> Changes:
    """Fewer answers at a time; training is not touched."""
    del recovery
    size = int(settings.get("generation_batch_size") or 1)
    return {"generation_batch_size": size // 2} if size > 1 else None


def no_loader_workers(settings: Settings, recovery: RecoverySettings = NOTHING) -> Changes:
    """Rows are read by the training process itself."""
    del recovery
    flags = dict(settings.get("flags") or {})
    if str(flags.get("dataloader_num_workers", "0")) == "0":
        return None
    return {"flags": flags | {"dataloader_num_workers": "0", "dataloader_persistent_workers": "false"}}


def plain_kernels(settings: Settings, recovery: RecoverySettings = NOTHING) -> Changes:
    """Torch's own kernels in place of faster ones from elsewhere."""
    del recovery
    changes: dict[str, Any] = {"use_liger_kernel": False} if settings.get("use_liger_kernel") else {}
    if settings.get("attention", "sdpa") not in ("sdpa", "eager"):
        changes["attention"] = "sdpa"
    return changes or None


def bf16_for_fp16(settings: Settings, recovery: RecoverySettings = NOTHING) -> Changes:
    """The same width with float32's range, which does not overflow."""
    usable = recovery.bfloat16 and settings.get("precision") == "float16"
    return {"precision": "bfloat16"} if usable else None


def tighter_clip(settings: Settings, recovery: RecoverySettings = NOTHING) -> Changes:
    """Gradients cut to a smaller norm: one bad batch moves the weights less."""
    del recovery
    norm = float(settings.get("max_grad_norm") or 1.0)
    return {"max_grad_norm": round(norm * CLIP_FACTOR, 6)} if norm * CLIP_FACTOR >= LEAST_CLIP else None


def lower_rate(settings: Settings, recovery: RecoverySettings = NOTHING) -> Changes:
    """A rate half a decade lower."""
    del recovery
    return {"learning_rate": float(f"{float(settings['learning_rate']) * RATE_FACTOR:.3g}")}


def warm_up(settings: Settings, recovery: RecoverySettings = NOTHING) -> Changes:
    """The rate rises for longer before it is at its full height."""
    del recovery
    return {"warmup_ratio": WARM_UP} if float(settings.get("warmup_ratio") or 0.0) < WARM_UP else None


def repeat(settings: Settings, recovery: RecoverySettings = NOTHING) -> Changes:
    """The same again: the cause was not in the configuration."""
    del settings, recovery
    return {}


def smaller_model(settings: Settings, recovery: RecoverySettings = NOTHING) -> Changes:
    """No change of a training: the whole plan is made anew (`recover.smaller`)."""
    del settings, recovery
    return None


RUNGS: dict[str, Callable[..., Changes]] = {
    one.__name__: one
    for one in (
        halve_micro_batch, checkpoint_activations, fused_loss, eight_bit_optimizer, qlora, shorter_length,
        halve_answer_batch, no_loader_workers, plain_kernels, bf16_for_fp16, tighter_clip, lower_rate, warm_up, repeat,
        smaller_model,
    )
}  # fmt: skip

FIXED_BY: dict[str, tuple[str, ...]] = {
    "halve_micro_batch": ("per_device_train_batch_size",),
    "checkpoint_activations": ("gradient_checkpointing",),
    "fused_loss": ("use_liger_kernel",),
    "eight_bit_optimizer": ("optimizer",),
    "qlora": ("method",),
    "shorter_length": ("max_length",),
    "plain_kernels": ("attention", "use_liger_kernel"),
    "bf16_for_fp16": ("precision",),
    "tighter_clip": ("max_grad_norm",),
    "lower_rate": ("learning_rate",),
    "warm_up": ("warmup_ratio",),
    "smaller_model": ("model",),
}
"""The decisions that a rung would change: where the user made one, the rung is not taken."""

DOWNGRADES = frozenset({"eight_bit_optimizer", "qlora", "shorter_length", "smaller_model"})
"""Rungs after which the training is not the same: what they may cost is told."""

REPEATED = frozenset({"halve_micro_batch", "shorter_length", "halve_answer_batch"})
"""Rungs that can be taken several times."""


def is_fixed(name: str, situation: Situation) -> bool:
    """Whether the user fixed what a rung would change."""
    return bool(situation.fixed.intersection(FIXED_BY.get(name, ())))


def climb(names: Sequence[str], situation: Situation) -> Iterator[Step]:
    """The ladder's places in order, each with all that was changed up to there.

    What the user fixed is left out, and what would save nothing by the memory model.
    """
    settings, changes = dict(situation.settings), dict[str, Any]()
    taken: tuple[str, ...] = ()
    memory = situation.memory if situation.memory is not None and situation.memory.believed else None
    share = memory.share(settings) if memory else 0.0
    for name in names:
        while not is_fixed(name, situation):
            made = RUNGS[name](settings, situation.recovery)
            if made is None:
                break
            after = memory.share(settings | made) if memory else 0.0
            if memory and name not in REPEATED and name in SAVING and after > share * (1 - POINTLESS):
                break
            settings, changes, share = settings | made, changes | made, after
            taken = taken if name in taken else (*taken, name)
            yield Step(names=taken, changes=dict(changes), share=share)
            if name not in REPEATED:
                break


SAVING = frozenset({"checkpoint_activations", "fused_loss", "eight_bit_optimizer", "qlora"})
"""Rungs that are there for the memory which they save on the device."""
