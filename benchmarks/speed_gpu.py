"""Times training steps on a GPU: random weights, Qwen2.5 shapes, LoRA on every linear map. Prints JSON lines.

`python benchmarks/speed_gpu.py OUT.jsonl [--seconds 240] [--variants]`. Needs torch and transformers; LoRA is written
out here, the way PEFT computes it under autocast (adapters in float32, products in bfloat16).
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, Qwen2Config

SHAPES: dict[str, dict[str, Any]] = {
    "0.5b": dict(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
                 num_key_value_heads=2, vocab_size=151936, tie_word_embeddings=True),
    "1.5b": dict(hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
                 num_key_value_heads=2, vocab_size=151936, tie_word_embeddings=True),
    "7b": dict(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
               num_key_value_heads=4, vocab_size=152064, tie_word_embeddings=False),
}  # fmt: skip
BATCHES = ((1, 256), (1, 1024), (4, 512), (4, 1024), (8, 1024), (1, 8192), (8, 2048))
RANK = 16
DEVICE = "cuda"


class Lora(nn.Module):
    """A linear map with an adapter."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Parameter(torch.randn(RANK, base.in_features, device=DEVICE) * 0.02)
        self.b = nn.Parameter(torch.zeros(base.out_features, RANK, device=DEVICE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = nn.functional.linear(nn.functional.linear(x.float(), self.a), self.b)
        return self.base(x) + 2.0 * low


class Power(threading.Thread):
    """Mean watts and utilisation while a cell runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, float]] = []
        self.on = False
        self.process = subprocess.Popen(
            ["nvidia-smi", "--query-gpu=power.draw,utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self) -> None:
        for line in self.process.stdout or ():
            if self.on:
                try:
                    watts, busy = (float(part) for part in line.split(","))
                except ValueError:
                    continue
                self.samples.append((watts, busy))

    def take(self) -> dict[str, float]:
        found, self.samples = self.samples, []
        if not found:
            return {}
        return {"watts": round(sum(w for w, _ in found) / len(found), 1),
                "busy": round(sum(b for _, b in found) / len(found) / 100, 3), "samples": len(found)}  # fmt: skip


def quantised(base: nn.Linear) -> nn.Module:
    """The same map in NF4, as bitsandbytes keeps it."""
    import bitsandbytes as bnb

    small = bnb.nn.Linear4bit(base.in_features, base.out_features, bias=base.bias is not None,
                              compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4")  # fmt: skip
    small.weight = bnb.nn.Params4bit(base.weight.data.cpu(), requires_grad=False, quant_type="nf4")
    small.bias = base.bias
    small.in_features, small.out_features = base.in_features, base.out_features
    return small.to(DEVICE)


def build(name: str, method: str) -> tuple[nn.Module, list[nn.Parameter]]:
    config = Qwen2Config(max_position_embeddings=32768, use_cache=False, **SHAPES[name])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    model = model.to_empty(device=DEVICE)
    model.tie_weights()
    for parameter in model.parameters():
        parameter.data.normal_(0.0, 0.02)
    rotary = model.model.rotary_emb
    rotary.inv_freq = rotary.original_inv_freq = rotary.compute_default_rope_parameters(config)[0].to(DEVICE)
    if method in ("lora", "qlora"):
        model.requires_grad_(False)
        for layer in model.model.layers:
            for block in (layer.self_attn, layer.mlp):
                for key, child in list(block.named_children()):
                    if isinstance(child, nn.Linear):
                        setattr(block, key, Lora(quantised(child) if method == "qlora" else child))
        model.enable_input_require_grads()
    return model, [p for p in model.parameters() if p.requires_grad]


def cell(model: Any, trained: list[nn.Parameter], rows: int, length: int, power: Power) -> dict[str, Any]:
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    ids = torch.randint(0, 150000, (rows, length), device=DEVICE)

    def step() -> None:
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    times = []
    power.samples, power.on = [], True
    begin_all = time.perf_counter()
    while len(times) < 4 or (time.perf_counter() - begin_all < 1.2 and len(times) < 40):
        begin = time.perf_counter()
        step()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    power.on = False
    return {"seconds": sorted(times)[len(times) // 2], "fastest": min(times), "steps": len(times),
            "peak": torch.cuda.max_memory_allocated(), **power.take()}  # fmt: skip


def generation(model: Any, rows: int, autocast: bool = True) -> dict[str, Any]:
    model.config.use_cache = True
    ids = torch.randint(0, 150000, (rows, 64), device=DEVICE)
    with torch.inference_mode(), torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=autocast):
        for new in (4, 64):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)
            torch.cuda.synchronize()
            spent = time.perf_counter() - begin
    model.config.use_cache = False
    return {"tokens_per_second": rows * 64 / spent}


class Sheet:
    """The file that the numbers go to; a cell that does not fit the card says so."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.out, self.end = path.open("w", encoding="utf-8"), time.monotonic() + seconds
        self.power = Power()
        self.power.start()

    def tell(self, **row: Any) -> None:
        self.out.write(json.dumps(row) + "\n")
        self.out.flush()
        print(json.dumps(row), flush=True)

    def measure(self, model: Any, trained: list[nn.Parameter], batches: Any, **row: Any) -> None:
        for rows, length in batches:
            if time.monotonic() > self.end:
                sys.exit("out of time")
            row |= {"rows": rows, "length": length}
            torch.cuda.reset_peak_memory_stats()
            try:
                self.tell(**row, **cell(model, trained, rows, length, self.power))
            except torch.cuda.OutOfMemoryError:
                self.tell(**row, oom=True)
                for parameter in trained:
                    parameter.grad = None
            gc.collect()
            torch.cuda.empty_cache()


def grid(sheet: Sheet) -> None:
    """LoRA and full training, with and without checkpointing; generation with the adapters attached."""
    for name, method in (("0.5b", "lora"), ("1.5b", "lora"), ("7b", "lora"), ("0.5b", "full"), ("1.5b", "full")):
        model, trained = build(name, method)
        model.train()
        sheet.measure(model, trained, BATCHES, shape=name, method=method, checkpointing=False)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        sheet.measure(model, trained, BATCHES, shape=name, method=method, checkpointing=True)
        if method == "lora":
            model.eval()
            model.gradient_checkpointing_disable()
            for rows in (1, 8, 32):
                sheet.tell(shape=name, adapters=True, generate=rows, **generation(model, rows))
        del model, trained
        gc.collect()
        torch.cuda.empty_cache()


def variants(sheet: Sheet, only: list[str]) -> None:
    """QLoRA, the fused loss, the other kind of checkpointing, generation of a plain model."""
    few = ((1, 256), (4, 512), (8, 1024))
    for method, name in [(m, n) for m in ("plain", "lora", "qlora", "liger") for n in ("0.5b", "1.5b", "7b")]:
        if only and f"{method}-{name}" not in only:
            continue
        if method == "liger":  # it patches the classes for good, so it comes last
            from liger_kernel.transformers import apply_liger_kernel_to_qwen2

            apply_liger_kernel_to_qwen2()
        model, trained = build(name, {"liger": "lora", "plain": "full"}.get(method, method))
        if method == "plain":
            model.eval()
            for rows in (1, 8, 32):
                sheet.tell(shape=name, adapters=False, generate=rows, **generation(model, rows, autocast=False))
        else:
            model.train()
            if method != "lora":
                sheet.measure(model, trained, few, shape=name, method=method, checkpointing=False)
            for reentrant in (True, False):
                model.gradient_checkpointing_enable({"use_reentrant": reentrant})
                sheet.measure(
                    model, trained, few, shape=name, method=method, checkpointing=True, use_reentrant=reentrant
                )
                model.gradient_checkpointing_disable()
        del model, trained
        gc.collect()
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--variants", action="store_true", help="needs bitsandbytes and liger-kernel")
    parser.add_argument("--only", nargs="*", default=[], help="of the variants, for instance qlora-7b liger-0.5b")
    arguments = parser.parse_args()
    sheet = Sheet(arguments.out, arguments.seconds)
    sheet.tell(card=torch.cuda.get_device_name(), torch=torch.__version__)
    if arguments.variants:
        variants(sheet, arguments.only)
    else:
        grid(sheet)


if __name__ == "__main__":
    main()
