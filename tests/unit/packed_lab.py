"""Tiny random models, rows and packs; and the same training done alone, with PEFT and the Trainer's arithmetic."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, get_scheduler

from autoswift.engines.children.packed_data import Encoded, Order, stacked
from autoswift.engines.children.packed_graphs import Graphs
from autoswift.engines.children.packed_head import Head
from autoswift.engines.children.packed_pack import Pack
from autoswift.engines.children.packed_trial import Settings, Trial

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 16},
    "phi3": {},
    "qwen3_moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
TARGETS = {
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "qwen3_moe": ATTENTION,  # the experts' weights are no linear maps, and no targets
}


def targets(family: str) -> list[str]:
    return TARGETS.get(family, [*ATTENTION, "gate_proj", "up_proj", "down_proj"])


def model(family: str = "llama", **changes: Any) -> Any:
    config = AutoConfig.for_model(family, **(SMALL | FAMILIES[family] | changes))
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").float()
    with torch.no_grad():  # the usual tiny start leaves every logit the same
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    made.requires_grad_(False)
    return made


class Rows(list[Encoded]):
    """What a trial reads; of random lengths, half of each row is learnt."""

    @classmethod
    def some(cls, count: int = 22, longest: int = 30, seed: int = 1) -> Rows:
        generator = torch.Generator().manual_seed(seed)
        made = cls()
        for _ in range(count):
            length = int(torch.randint(6, longest, (1,), generator=generator))
            ids = torch.randint(3, SMALL["vocab_size"], (length,), generator=generator).tolist()
            made.append(Encoded(ids, [-100] * (length // 2) + ids[length // 2 :]))
        return made

    def lengths(self) -> list[int]:
        return [len(row.ids) for row in self]


def pack(base: Any, family: str = "llama", capacity: int = 8) -> Pack:
    head = Head(base)
    head.check()
    bank, _ = stacked(base, targets(family), torch.device("cpu"))
    base.train()
    return Pack(head, bank, Graphs(torch.device("cpu"), enabled=False), capacity)


def trial(number: int, rows: Rows, folder: Path | str = "/nonexistent", **settings: Any) -> Trial:
    values = {
        "max_steps": 12,
        "learning_rate": 1e-3,
        "lora_rank": 4,
        "lora_alpha": 8,
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 2,
        "warmup_ratio": 0.1,
        "seed": 10 + number,
    }
    return Trial({"trial": number, "settings": values | settings, "folder": str(folder)}, rows)  # type: ignore[arg-type]


class Run:
    """Ticks a pack and keeps each trial's losses; a trial ends by itself after its last step."""

    def __init__(self, made: Pack) -> None:
        self.pack = made
        self.losses: dict[int, list[float]] = {}
        self.weights: dict[int, dict[str, Any]] = {}

    def steps(self, number: int, steps: int) -> None:
        """Until a trial has made so many steps in all."""
        while len(self.losses.get(number, [])) < steps:
            self.tick()

    def until_empty(self) -> None:
        while self.pack.trials or self.pack.waiting:
            self.tick()

    def tick(self) -> None:
        self.pack.tick()
        for stepped in list(self.pack.stepped):
            self.losses.setdefault(stepped.trial.number, []).append(stepped.loss)
            if stepped.trial.step >= stepped.trial.settings.max_steps or stepped.trial.reason == "nan":
                self.end(stepped.trial)

    def end(self, one: Trial) -> None:
        from autoswift.engines.children.packed_checkpoint import as_peft

        s = one.settings
        assert one.parameter is not None
        self.pack.leave(one)
        self.weights[one.number] = as_peft(one.parameter.data, self.pack.bank.plan, s.lora_rank, dora=s.use_dora)
        self.pack.admit()


def alone(
    base: Any, family: str, rows: Rows, given: Mapping[str, Any], steps: int | None = None
) -> tuple[list[float], dict[str, Any]]:
    """Losses and adapter of one trial by PEFT itself, padded and accumulated as `swift sft` does."""
    s = Settings.of(given)
    torch.manual_seed(s.seed)
    config = LoraConfig(
        r=s.lora_rank,
        lora_alpha=int(s.lora_alpha),
        lora_dropout=s.lora_dropout,
        target_modules=targets(family),
        use_dora=s.use_dora,
        use_rslora=s.use_rslora,
        task_type="CAUSAL_LM",
    )
    tuned = get_peft_model(copy.deepcopy(base), config).train()
    parameters = [p for p in tuned.parameters() if p.requires_grad]
    betas = (s.adam_beta1, s.adam_beta2)
    optimizer = torch.optim.AdamW(parameters, lr=s.learning_rate, betas=betas, weight_decay=s.weight_decay)
    schedule = get_scheduler(
        s.lr_scheduler_type, optimizer, s.warmup(), s.max_steps, dict(s.lr_scheduler_kwargs) or None
    )
    order = Order(len(rows), s.per_device_train_batch_size, s.gradient_accumulation_steps, s.data_seed)
    losses = []
    for step in range(s.max_steps if steps is None else steps):
        window = [[rows[n] for n in numbers] for numbers in order.step(step)]
        items = sum(label != -100 for part in window for row in part for label in row.labels[1:])
        total = 0.0
        for part in window:
            width = max(len(row.ids) for row in part)
            ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in part])
            labels = torch.tensor([row.labels + [-100] * (width - len(row.labels)) for row in part])
            mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in part])
            logits = tuned(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
            )
            (loss / items).backward()
            total += float(loss.detach()) / items
        torch.nn.utils.clip_grad_norm_(parameters, s.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(total)
    names = {}
    for name, parameter in tuned.named_parameters():
        if parameter.requires_grad:
            short = name.replace(".default", "")
            names[short.removesuffix(".weight") if "magnitude" in short else short] = parameter.detach()
    return losses, names


def far(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The largest difference of two adapters."""
    assert sorted(one) == sorted(other)
    return max(float((one[name] - other[name]).abs().max()) for name in one)
