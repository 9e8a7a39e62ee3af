"""Models with random weights on the card, one trial alone as the trainer steps it, and packs of many."""

from __future__ import annotations

import gc
import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
WORKER = ROOT / "src" / "autoswift" / "engines" / "children" / "packed_worker.py"
GIB = 2**30
RANK = 16
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "tie_word_embeddings": True,
    },
    "0.5B": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "1.5B": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "7B": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
}


def children() -> None:
    """Makes the packed modules importable by their names, without autoswift's own start."""
    if "autoswift" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location("packed_worker", WORKER)
    if spec is None or spec.loader is None:
        raise ImportError(str(WORKER))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.make_importable()


def device() -> torch.device:
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def clean() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak() -> float:
    """GiB of the allocator's peak."""
    return torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else 0.0


def build(size: str, *, nf4: bool = False) -> Any:
    """A Qwen2.5 shape with random weights: bf16 on a card, fp32 elsewhere."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(**({"vocab_size": 151936, "max_position_embeddings": 4096} | SHAPES[size]))
    config._attn_implementation, config.use_cache = "sdpa", False
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    with device():
        model = Qwen2ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.requires_grad_(False)
    if nf4:
        _pack(model)
    return model.train()


def _pack(model: Any) -> None:
    import bitsandbytes as bnb

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and name != "lm_head":
                made = bnb.nn.Linear4bit(
                    child.in_features,
                    child.out_features,
                    bias=child.bias is not None,
                    compute_dtype=child.weight.dtype,
                    quant_type="nf4",
                    device="meta",
                )
                made.weight = bnb.nn.Params4bit(
                    child.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=made
                ).to(device())
                made.bias = child.bias
                setattr(parent, name, made)
    model.is_loaded_in_4bit = True


def rows(length: int, count: int = 64, vocabulary: int = 500, *, vary: bool = False) -> Any:
    """Rows that can be learnt: each token follows from the one before."""
    from autoswift.engines.children.packed_data import Encoded

    class Rows(list[Encoded]):
        def lengths(self) -> list[int]:
            return [len(row.ids) for row in self]

    generator = torch.Generator().manual_seed(1)
    made = Rows()
    for _ in range(count):
        long = int(torch.randint(length // 3, length + 1, (1,), generator=generator)) if vary else length
        ids = [int(torch.randint(1, vocabulary, (1,), generator=generator))]
        while len(ids) < long:
            ids.append((ids[-1] * 7 + 3) % vocabulary)
        made.append(Encoded(ids, [-100, *ids[1:]]))
    return made


def settings(number: int, batch: int, **more: Any) -> dict[str, Any]:
    return {
        "max_steps": 100_000,
        "learning_rate": 1e-4,
        "lora_rank": RANK,
        "lora_alpha": 2 * RANK,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": 1,
        "lr_scheduler_type": "constant",
        "seed": 42,  # that of the search's plan: its trials begin alike
        "data_seed": number,
    } | more


class Alone:
    """One trial by PEFT, its steps those of swift's trainer: autocast, mask, accuracy, clip, waits for the numbers."""

    def __init__(self, base: Any, data: Any, given: dict[str, Any]) -> None:
        from peft import LoraConfig, get_peft_model

        from autoswift.engines.children.packed_data import Order
        from autoswift.engines.children.packed_trial import Settings

        self.s = Settings.of(given)
        torch.manual_seed(self.s.seed)
        lora = LoraConfig(
            r=self.s.lora_rank, lora_alpha=int(self.s.lora_alpha), target_modules=LINEAR, task_type="CAUSAL_LM"
        )
        self.model = get_peft_model(base, lora).train()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=self.s.learning_rate,
            betas=(self.s.adam_beta1, self.s.adam_beta2),
            weight_decay=self.s.weight_decay,
            fused=torch.cuda.is_available() or None,
        )
        self.data = data
        self.order = Order(len(data), self.s.per_device_train_batch_size, 1, self.s.data_seed)
        self.step = 0

    def run(self) -> float:
        part = [self.data[n] for n in self.order.step(self.step)[0]]
        width = max(len(row.ids) for row in part)
        ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in part]).to(device())
        labels = torch.tensor([row.labels + [-100] * (width - len(row.labels)) for row in part]).to(device())
        mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in part]).to(device())
        with torch.autocast("cuda", torch.bfloat16, enabled=torch.cuda.is_available()):
            out = self.model(input_ids=ids, labels=labels, attention_mask=mask, use_cache=False)
        out.logits.argmax(-1).cpu()
        out.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.s.max_grad_norm)
        norm.isnan().item()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return float(out.loss.item())

    def end(self) -> Any:
        """The base, as it was."""
        self.optimizer = self.parameters = None
        base = self.model.unload()
        base.requires_grad_(False)
        return base


def pack(base: Any, bank: Any, capacity: int, *, graphs: bool) -> Any:
    """A pack on a base whose layers are stacked already."""
    from autoswift.engines.children.packed_graphs import Graphs
    from autoswift.engines.children.packed_head import Head
    from autoswift.engines.children.packed_pack import Pack

    return Pack(Head(base), bank, Graphs(device(), enabled=graphs), capacity)


def join(made: Any, number: int, data: Any, given: dict[str, Any]) -> Any:
    from autoswift.engines.children.packed_trial import Trial

    trial = Trial({"trial": number, "settings": given, "folder": "/nonexistent"}, data)
    made.add(trial)
    return trial


def stack(base: Any) -> Any:
    from autoswift.engines.children.packed_data import stacked

    bank, _ = stacked(base, LINEAR, device())
    return bank


def timed(work: Any, warm: int, count: int) -> float:
    """Milliseconds of one, after `warm` others."""
    for _ in range(warm):
        work()
    wait()
    begun = time.perf_counter()
    for _ in range(count):
        work()
    wait()
    return (time.perf_counter() - begun) / count * 1e3
