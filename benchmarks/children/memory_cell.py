"""One cell of the memory benchmark: a model with random weights on the card, three steps, the allocator's peaks.

`pool` keeps processes at the ready that have imported everything and touched no device: a fork would do, but an import
of PEFT may already touch one.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

CELL_SECONDS = 75
READY = 5
POLL_SECONDS = 0.1


def build(cell: dict[str, Any]) -> Any:
    """The model with random weights, on the card."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(cell["config"])
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    config.use_cache = False
    config._attn_implementation = cell.get("attention", "sdpa")
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config)
    torch.set_default_dtype(torch.float32)
    if cell["method"] == "qlora":
        _pack(model)
    if cell.get("liger"):
        from liger_kernel.transformers import _apply_liger_kernel_to_instance

        _apply_liger_kernel_to_instance(model=model)
    if cell["method"] != "full":
        model = _adapted(model, cell)
    model.train()
    if cell["checkpointing"]:
        model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": cell.get("reentrant", True)}
        )
        model.enable_input_require_grads()
    return model


def _pack(model: Any) -> None:
    """Linear maps but the output projection to NF4, scales quantized again."""
    import bitsandbytes as bnb
    import torch

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Linear) and name != "lm_head":
                packed = bnb.nn.Linear4bit(
                    child.in_features,
                    child.out_features,
                    bias=child.bias is not None,
                    compute_dtype=torch.bfloat16,
                    quant_type="nf4",
                    device="meta",
                )
                packed.weight = bnb.nn.Params4bit(
                    child.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=packed
                ).to("cuda")
                packed.bias = child.bias
                setattr(parent, name, packed)
                del child
    model.is_loaded_in_4bit = True


def _adapted(model: Any, cell: dict[str, Any]) -> Any:
    from peft import LoraConfig, get_peft_model

    model.requires_grad_(False)
    targets = {"all": "all-linear", "qv": ["q_proj", "v_proj"], "attention": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    rank = cell.get("rank", 16)
    lora = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=cell.get("dropout", 0.0),
        target_modules=targets[cell.get("targets", "all")],
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)  # its default keeps the adapters in float32


def _optimizer(cell: dict[str, Any], model: Any, parameters: list[Any]) -> Any:
    import torch

    kind = cell.get("optimizer", "adamw_torch")
    if "8bit" in kind:
        import bitsandbytes as bnb

        found = bnb.optim.AdamW8bit(parameters, lr=1e-5)
        for module in model.modules():  # as the trainer does: an embedding's states stay in 32 bits
            if isinstance(module, torch.nn.Embedding):
                bnb.optim.GlobalOptimManager.get_instance().register_module_override(
                    module, "weight", {"optim_bits": 32}
                )
        return found
    return torch.optim.AdamW(parameters, lr=1e-5, fused=kind == "adamw_torch_fused" or None)


def steps(model: Any, cell: dict[str, Any], count: int = 3) -> None:
    """As the trainer makes them: outputs to float32, accuracy from the logits, clipped gradients."""
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = _optimizer(cell, model, parameters)
    rows, length = cell["rows"], cell["length"]
    vocabulary = cell["config"]["vocab_size"]
    for _ in range(count):
        ids = torch.randint(0, vocabulary - 1, (rows, length), device="cuda")
        inputs = {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}
        if cell.get("padded"):
            inputs["attention_mask"][0, length // 2 :] = 0
        with torch.autocast("cuda", dtype=torch.bfloat16):
            outputs = model(**inputs)
        loss = outputs.loss.float()
        logits = outputs.logits.float() if outputs.logits is not None else None
        del outputs
        if logits is not None:
            logits.argmax(-1)
        del logits
        loss.backward()
        del loss
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def measure(cell: dict[str, Any]) -> dict[str, Any]:
    """Allocated and reserved peaks of a cell in this process."""
    import torch

    started = time.monotonic()
    answer: dict[str, Any] = {}
    torch.cuda.init()
    torch.zeros(1, device="cuda")
    try:
        model = build(cell)
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        answer["weights"] = torch.cuda.memory_allocated()
        steps(model, cell)
        torch.cuda.synchronize()
    except torch.OutOfMemoryError as exc:
        answer["oom"] = True
        answer["message"] = str(exc)[:300]
    statistics = torch.cuda.memory_stats()
    free, total = torch.cuda.mem_get_info()
    answer |= {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "retries": statistics.get("num_alloc_retries", 0),
        "used_now": total - free,
        "reserved_now": torch.cuda.memory_reserved(),
        "total": total,
        "seconds": round(time.monotonic() - started, 1),
    }
    return answer


def one() -> None:
    """Imports everything, waits for a line of input, measures its cell and ends."""
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers
    from transformers.models.qwen2 import modeling_qwen2  # noqa: F401

    transformers.logging.set_verbosity_error()
    line = sys.stdin.readline()
    if not line:
        return
    request = json.loads(line)
    signal.alarm(CELL_SECONDS)
    try:
        answer = measure(request["cell"])
    except Exception as exc:
        answer = {"error": f"{type(exc).__name__}: {exc}"[:400]}
    os.write(1, (json.dumps({"name": request["name"]} | answer) + "\n").encode())


def pool() -> None:
    """Keeps processes at the ready that have imported everything; each measures one cell of those sent.

    Once a cell's process is gone, and with it the last of its memory, a line `{"ended": name}` says so.
    """
    import torch
    import transformers

    facts = {"torch": torch.__version__, "transformers": transformers.__version__, "cuda": torch.cuda.is_available()}
    print(json.dumps(facts), flush=True)

    def ready() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, __file__, "one"], stdin=subprocess.PIPE)

    waiting = [ready() for _ in range(READY)]
    running: dict[str, subprocess.Popen[bytes]] = {}
    rest, open_ = b"", True
    while open_ or running:
        if open_ and select.select([0], [], [], POLL_SECONDS)[0]:
            data = os.read(0, 1 << 16)
            open_ = bool(data)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                taken = waiting.pop(0)
                waiting.append(ready())
                if taken.stdin is None:
                    raise RuntimeError("no pipe")
                taken.stdin.write(line + b"\n")
                taken.stdin.close()
                running[json.loads(line)["name"]] = taken
        elif not open_:
            time.sleep(POLL_SECONDS)
        for name in [name for name, child in running.items() if child.poll() is not None]:
            del running[name]
            print(json.dumps({"ended": name}), flush=True)
    for child in waiting:
        child.kill()


if __name__ == "__main__":
    one() if sys.argv[1:] == ["one"] else pool()
