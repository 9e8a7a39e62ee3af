"""One trial of a pack: its settings, optimizer, schedule, order of rows and what its log line will say."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoswift.engines.children.packed_data import Encoded, Order, Rows
from autoswift.engines.children.packed_head import Refused
from autoswift.engines.children.packed_layers import RowPlan, convert, initial_row

NAN_GRADIENTS_IN_A_ROW = 3  # as the plug-in of a lone training: a few in a row train nothing

OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")

SEED_STRIDE = 1_000_003
"""Micro-batches of one seed before its dropout stream could meet that of the next seed."""


@dataclass(frozen=True)
class Settings:
    """By swift's names, with swift's defaults."""

    max_steps: int
    learning_rate: float = 1e-4
    lora_rank: int = 8
    lora_alpha: float = 32
    lora_dropout: float = 0.0
    use_dora: bool = False
    use_rslora: bool = False
    per_device_train_batch_size: int = 1
    gradient_accumulation_steps: int = 16
    weight_decay: float = 0.1
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    warmup_ratio: float = 0.0
    warmup_steps: float = 0.0
    lr_scheduler_type: str = "cosine"
    lr_scheduler_kwargs: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 42
    data_seed: int = 42
    max_length: int | None = None
    logging_steps: int = 1
    eval_steps: int = 0
    stable_steps: int = 0
    optimizer: str = "adamw_torch"

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """From a trial's settings; names that are of no use here are left aside.

        Raises:
            Refused: for what a packed trial cannot do.
        """
        values = {name: given[name] for name in cls.__dataclass_fields__ if given.get(name) is not None}
        if "data_seed" not in values and "seed" in values:
            values["data_seed"] = values["seed"]
        if isinstance(values.get("lr_scheduler_kwargs"), str):
            values["lr_scheduler_kwargs"] = json.loads(values["lr_scheduler_kwargs"])
        if values.get("stable_steps") and "lr_scheduler_kwargs" not in values:
            values["lr_scheduler_kwargs"] = {"num_decay_steps": values["max_steps"] - values["stable_steps"]}
        made = cls(**values)
        if made.optimizer not in OPTIMIZERS:
            raise Refused("optimizer", f"{made.optimizer} keeps its state in blocks that would span trials")
        if made.use_dora and made.lora_dropout:
            raise Refused("dora_dropout", "DoRA with dropout needs the base's product twice")
        return made

    @property
    def scale(self) -> float:
        """What the adapter's product is multiplied with."""
        return self.lora_alpha / (math.sqrt(self.lora_rank) if self.use_rslora else self.lora_rank)

    def warmup(self) -> int:
        """Steps of the linear warm-up, rounded as the Trainer does."""
        share = self.warmup_steps or self.warmup_ratio
        return int(share) if share >= 1 else math.ceil(self.max_steps * share)


@dataclass
class Log:
    """What gathers between two log lines."""

    loss: float = 0.0
    right: int = 0
    counted: int = 0
    steps: int = 0
    seconds: float = 0.0


class Trial:
    """The state of one trial, on the device while it has a slot and on the host while it waits."""

    def __init__(self, request: Mapping[str, Any], rows: Rows) -> None:
        self.number, self.attempt = int(request["trial"]), int(request.get("attempt", 1))
        self.settings = Settings.of(request["settings"])
        self.folder = Path(request["folder"])
        self.deadline = request.get("deadline")
        self.request = dict(request)
        self.rows = rows
        s = self.settings
        grouped = str((request["settings"].get("flags") or {}).get("group_by_length", "")).lower() == "true"
        lengths = rows.lengths() if grouped else None
        self.order = Order(
            len(rows), s.per_device_train_batch_size, s.gradient_accumulation_steps, s.data_seed, lengths
        )
        self.slot: int | None = None
        self.step, self.tokens, self.micro = 0, 0, 0
        self.nan_gradients = 0
        self.reason: str | None = None
        self.stop_asked = False
        self.log, self.loss = Log(), 0.0
        self.right = self.counted = 0
        self.window: list[list[Encoded]] = []
        self.items, self.position = 0, 0
        self.asked = self.begun = self.saved = self.ended = time.time()
        self.announced = False
        self.joules = 0.0
        self.parameter: nn.Parameter | None = None
        self.optimizer: Any = None
        self.scheduler: Any = None

    @property
    def batch(self) -> int:
        """Rows of a full micro-batch."""
        return self.settings.per_device_train_batch_size

    @property
    def seed(self) -> int:
        """Names the random stream of the next micro-batch."""
        return self.settings.seed * SEED_STRIDE + self.micro

    def beginning(self, plan: RowPlan, magnitudes: Mapping[str, Any]) -> Any:
        """The adapter that training begins with, as a row on the host."""
        generator = torch.Generator()
        generator.manual_seed(self.settings.seed)
        return initial_row(plan, self.settings.lora_rank, generator, dict(magnitudes))

    def start(self, row: Any) -> None:
        """Takes the adapter (on the host), and makes the optimizer and the schedule."""
        self.parameter = nn.Parameter(row)
        self.make_optimizer()

    def make_optimizer(self) -> None:
        """As the Trainer makes them; every adapter weight decays."""
        from transformers import get_scheduler

        s = self.settings
        self.optimizer = torch.optim.AdamW(
            [self.parameter],
            lr=s.learning_rate,
            betas=(s.adam_beta1, s.adam_beta2),
            eps=s.adam_epsilon,
            weight_decay=s.weight_decay,
            fused=torch.cuda.is_available() or None,
        )
        self.scheduler = get_scheduler(
            s.lr_scheduler_type,
            optimizer=self.optimizer,
            num_warmup_steps=s.warmup(),
            num_training_steps=s.max_steps,
            scheduler_specific_kwargs=dict(s.lr_scheduler_kwargs) or None,
        )

    def resume_schedule(self) -> None:
        """Puts the schedule where `step` steps would have brought it."""
        self.scheduler.last_epoch = self.step
        rates = [
            base * f(self.step) for base, f in zip(self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True)
        ]
        self.scheduler._last_lr = rates
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def micro_batch(self) -> list[Encoded]:
        """The rows of the next micro-batch."""
        if not self.window:
            self.window = [[self.rows[n] for n in numbers] for numbers in self.order.step(self.step)]
            self.items = sum(len(row.places) for rows in self.window for row in rows)
            self.position = 0
        return self.window[self.position]

    def took(self, loss: float, right: int, counted: int, tokens: int) -> bool:
        """After a micro-batch; says whether an optimizer step is due."""
        self.loss += loss
        self.right += right
        self.counted += counted
        self.tokens += tokens
        self.position += 1
        self.micro += 1
        return self.position == len(self.window)

    def rewind(self) -> None:
        """Back to the beginning of the step that was under way: its gradients are lost."""
        for rows in self.window[: self.position]:
            self.tokens -= sum(len(row.ids) for row in rows)
            self.micro -= 1
        self.position, self.loss, self.right, self.counted = 0, 0.0, 0, 0

    def clip(self, norm: float) -> float:
        """What the gradient is multiplied with, by its own norm; 0 where swift drops it (its norm is NaN)."""
        if math.isnan(norm):
            return 0.0
        limit = self.settings.max_grad_norm
        return min(1.0, limit / (norm + 1e-6)) if limit > 0 else 1.0

    def update(self, norm: float) -> None:
        """The optimizer's step, with a clipped gradient; where that is NaN only the schedule goes on, as in swift."""
        if not math.isnan(norm):
            self._optimize()
        self.scheduler.step()
        self.step += 1
        self.log.loss += self.loss
        self.log.right += self.right
        self.log.counted += self.counted
        self.log.steps += 1
        self.window, self.position, self.loss, self.right, self.counted = [], 0, 0.0, 0, 0

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _optimize(self) -> None:
        state = self.optimizer.state.get(self.parameter)
        if not state or self.parameter is None or not self.parameter.is_cuda:
            self.optimizer.step()
            return
        # the same kernel without the optimizer's wrapping, which would cost more host time than the step itself
        group = self.optimizer.param_groups[0]
        state["step"] += 1
        torch._fused_adamw_(
            [self.parameter],
            [self.parameter.grad],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            amsgrad=False,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
            grad_scale=None,
            found_inf=None,
        )

    def watch(self, loss: float, norm: float) -> str | None:
        """The symptom that this step shows, and `reason` set where the trial must end."""
        self.nan_gradients = 0 if math.isfinite(norm) else self.nan_gradients + 1
        if not math.isfinite(loss):
            self.reason = "nan"
            return "nan"
        if self.nan_gradients:
            self.reason = "nan" if self.nan_gradients >= NAN_GRADIENTS_IN_A_ROW else self.reason
            return "nan_gradient"
        return None

    def bind(self, value: Any, grad: Any) -> None:
        """The trial's row is elsewhere now: a slot's view, or a tensor of the host (`grad` None)."""
        if self.parameter is None:
            raise RuntimeError("the trial has not begun")
        self.parameter.grad = None
        self.parameter.data = value
        self.parameter.grad = grad
        for state in self.optimizer.state.values():
            for name, tensor in state.items():
                if isinstance(tensor, torch.Tensor) and tensor.ndim:
                    state[name] = tensor.to(value.device)
                elif isinstance(tensor, torch.Tensor):  # the fused kernel wants its step beside the weights
                    state[name] = tensor.to(value.device if torch.cuda.is_available() else "cpu")

    def convert(self, old: RowPlan, new: RowPlan) -> None:
        """The row and the optimizer's moments in another plan; the trial is on the host."""
        if self.parameter is None:
            raise RuntimeError("the trial has not begun")
        self.parameter.data = convert(self.parameter.data, old, new)
        for state in self.optimizer.state.values():
            for name, tensor in state.items():
                if isinstance(tensor, torch.Tensor) and tensor.ndim:
                    state[name] = convert(tensor, old, new)
