"""Peak memory of a training step, traced over tensors without data: no accelerator is needed.

Runs in the training environment: one JSON request a line on stdin, one JSON answer a line on stdout. A step is laid out
as ms-swift trains on a CUDA device: the base in its precision, adapters in float32 under autocast, the trainer's
conversion of the outputs, its loss. Kernels that only a GPU has (flash attention, 4-bit products, Liger's) are stood in
for by functions that allocate, keep and free what those do. Nothing of autoswift is importable here.

Request: `{"config": {"model_type": …, sizes…}, "method": full|lora|qlora, "rows": …, "length": …}` and any of the
fields of `Request`. Answer: `{"peak": bytes, "weights": bytes, "trained": numbers}`, with `"events"` when asked for.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

BLOCK = 512
"""The CUDA caching allocator hands out multiples of it."""


def _sibling(name: str) -> Any:
    """The module of this folder, by path: the folder is no package in this environment."""
    spec = importlib.util.spec_from_file_location(f"autoswift_child_{name}", Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise ImportError(f"{name}.py is missing beside {__file__}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


KERNELS = _sibling("memory_kernels")
TARGETS = {
    "all": "all-linear",
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"],
    "qv": ["q_proj", "v_proj", "qkv_proj"],
}


@dataclass(kw_only=True)
class Request:
    """What to trace; sizes are in tokens, rows and weights.

    Attributes:
        attention: fused (torch's own choice of kernel) or eager.
        padded: the rows differ in length, so that a mask is made.
        adapter: dtype of the adapters; unless it is float32 there is no autocast.
        reentrant: the kind of checkpointing; ms-swift takes the re-entrant one on a single device.
        slice: tokens of Liger's fused loss that have logits at a time; 0 is its own rule.
        events: also answer every change of the live bytes.
    """

    config: dict[str, Any]
    method: str = "lora"
    rows: int = 1
    length: int = 512
    rank: int = 16
    targets: str = "all"
    precision: str = "bfloat16"
    adapter: str = "float32"
    checkpointing: bool = True
    reentrant: bool = True
    attention: str = "fused"
    padded: bool = False
    liger: bool = False
    dropout: float = 0.0
    optimizer: str = "adamw_torch"
    steps: int = 2
    events: bool = False
    accumulates: bool = False
    slice: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """Of the base."""
        found = getattr(torch, self.precision)
        if not isinstance(found, torch.dtype):
            raise ValueError(f"no such precision: {self.precision}")
        return found


def rounded(nbytes: int) -> int:
    """As the allocator hands it out."""
    return (nbytes + BLOCK - 1) // BLOCK * BLOCK


class LiveBytes(TorchDispatchMode):
    """Bytes of live storages: now, their peak, and each change in order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.events: list[int] = []
        self._seen: dict[int, int] = {}
        self._recording = True

    def hold(self, tensor: torch.Tensor) -> None:
        """Counts a storage that was there before, without an event."""
        self._recording = False
        self.add(tensor)
        self._recording = True

    def add(self, tensor: torch.Tensor) -> None:
        """Counts a tensor's storage once, until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes()
        self._seen[key] = size
        self.now += rounded(size)
        self.peak = max(self.peak, self.now)
        if self._recording:
            self.events.append(size)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        size = self._seen.pop(key, 0)
        if size:
            self.now -= rounded(size)
            self.events.append(-size)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self.add, out)
        return out


@contextlib.contextmanager
def _stand_ins(model_module: Any, request: Request) -> Iterator[None]:
    """Kernels of a GPU, for the time of the trace."""
    from transformers import masking_utils

    def unmasked(mask: Any, q: int, k: int, *_: Any, local_attention_size: int | None = None, **__: Any) -> bool:
        # transformers asks the mask's values, which tensors without data do not have.
        return not request.padded and (local_attention_size is None or k < local_attention_size)

    patches: list[tuple[Any, str, Any]] = [
        (nn.functional, "scaled_dot_product_attention", KERNELS.attend),
        (nn.functional, "dropout", KERNELS.dropout),
        (masking_utils, "_ignore_causal_mask_sdpa", unmasked),
        (masking_utils, "find_packed_sequence_indices", lambda _: None),
        # PEFT's 4-bit layer casts its input to the adapter's precision unless a GPU's autocast is on, as it is there.
        (torch, "is_autocast_enabled", lambda *_, asked=torch.is_autocast_enabled: asked("cpu")),
    ]
    if request.liger and hasattr(model_module, "apply_rotary_pos_emb"):
        patches.append(
            (model_module, "apply_rotary_pos_emb", lambda q, k, c, s, *_, **__: KERNELS.Rotary.apply(q, k, c, s))
        )
    old = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    for owner, name, new in patches:
        setattr(owner, name, new)
    try:
        yield
    finally:
        for owner, name, before in old:
            setattr(owner, name, before)


@contextlib.contextmanager
def _adapters_stay() -> Iterator[None]:
    """PEFT moves new adapters to their base's place, which tensors without data do not survive."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    to, move = nn.Module.to, BaseTunerLayer._move_adapter_to_device_of_base_layer
    nn.Module.to = lambda self, *a, **k: self  # type: ignore[method-assign,assignment]
    BaseTunerLayer._move_adapter_to_device_of_base_layer = lambda *a, **k: None
    try:
        yield
    finally:
        nn.Module.to = to  # type: ignore[method-assign]
        BaseTunerLayer._move_adapter_to_device_of_base_layer = move


def build(request: Request) -> nn.Module:
    """The model with its adapters, its weights without data."""
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(request.config)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    config.use_cache = False
    config._attn_implementation = "eager" if request.attention == "eager" else "sdpa"
    torch.set_default_dtype(request.dtype)
    try:
        model = AutoModelForCausalLM.from_config(config)
    finally:
        torch.set_default_dtype(torch.float32)
    if request.method == "qlora":
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear) and name != "lm_head":
                    setattr(parent, name, KERNELS.packed_linear(child))
        model.is_loaded_in_4bit = True
    if request.liger:
        _use_liger(model, request.slice)
    if request.method == "full":
        model.requires_grad_(True)
    else:
        model = _adapted(model, request)
    model.train()
    if request.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": request.reentrant})
        model.enable_input_require_grads()
    return model


def _adapted(model: Any, request: Request) -> Any:
    from peft import LoraConfig, get_peft_model

    model.requires_grad_(False)
    targets = TARGETS[request.targets]
    if request.targets == "all":
        targets = sorted({n.rsplit(".", 1)[-1] for n, m in model.named_modules()
                          if isinstance(m, nn.Linear) and "lm_head" not in n})  # fmt: skip
    lora = LoraConfig(
        r=request.rank,
        lora_alpha=2 * request.rank,
        lora_dropout=request.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, lora, autocast_adapter_dtype=False)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(getattr(torch, request.adapter))
    return model


def _use_liger(model: Any, size: int) -> None:
    """Norms, the gated map and the loss as Liger replaces them."""
    for module in list(model.modules()):
        name = type(module).__name__
        if name.endswith("RMSNorm"):
            module.forward = lambda x, m=module: KERNELS.Norm.apply(x, m.weight)
        elif name.endswith("MLP") and hasattr(module, "gate_proj"):
            module.forward = lambda x, m=module: m.down_proj(KERNELS.Gate.apply(m.gate_proj(x), m.up_proj(x)))
        elif name.endswith("MLP") and hasattr(module, "gate_up_proj"):
            module.forward = lambda x, m=module: m.down_proj(KERNELS.Gate.apply(*m.gate_up_proj(x).chunk(2, dim=-1)))

    def forward(input_ids: Any, labels: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import CausalLMOutputWithPast

        kwargs = {k: v for k, v in kwargs.items() if k in ("position_ids", "use_cache")}
        x = model.model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)[0]
        x = x.reshape(-1, x.shape[-1])
        with torch.autocast("cpu", enabled=False):
            loss = KERNELS.FusedLoss.apply(x, model.lm_head.weight, labels, size)
        return CausalLMOutputWithPast(loss=loss)

    model.forward = forward


def _optimizer(request: Request, parameters: list[Any]) -> Any:
    if request.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=1e-4)
    if request.optimizer.endswith("fused"):
        return torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    return torch.optim.AdamW(parameters, lr=1e-4, foreach=True)


def _steps(model: Any, request: Request, mark: Any) -> None:
    """Training steps as the trainer makes them."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = _optimizer(request, parameters) if request.steps > 1 or not request.events else None
    ids = torch.zeros(request.rows, request.length, dtype=torch.long)
    inputs: dict[str, Any] = {"input_ids": ids, "labels": ids.clone()}
    if request.padded:
        inputs["attention_mask"] = torch.ones(request.rows, request.length, dtype=torch.long)
    autocast = request.precision != "float32" and request.adapter == "float32"
    for _ in range(request.steps):
        for _ in range(2 if request.accumulates else 1):
            with torch.autocast("cpu", dtype=request.dtype if autocast else torch.bfloat16, enabled=autocast):
                outputs = model(**inputs)
            # The trainer hands on float32 outputs, and reads the accuracy from them.
            loss = outputs.loss.float()
            logits = None if outputs.get("logits") is None else outputs.logits
            if logits is not None and autocast:
                logits = logits.float()
            del outputs
            if logits is not None:
                logits.argmax(-1)
            del logits
            mark()
            loss.backward()
            del loss
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()


def trace(request: Request) -> dict[str, Any]:
    """The answer to a request."""
    with FakeTensorMode(), torch.device("cpu"), _adapters_stay():
        model = build(request)
        live = LiveBytes()
        for tensor in [*model.parameters(), *model.buffers()]:
            live.hold(tensor)
        weights = live.now
        trained = [p.numel() for p in model.parameters() if p.requires_grad]
        live.peak = live.now
        base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        module = sys.modules[type(base).__module__]
        marks: list[int] = []
        with _stand_ins(module, request), live:
            _steps(model, request, lambda: marks.append(len(live.events)))
        events = list(live.events)
    answer: dict[str, Any] = {"peak": live.peak, "weights": weights, "trained": sum(trained)}
    if request.events:
        answer |= {"events": events, "mark": marks[0]}
    return answer


def main() -> None:
    """Answers requests until the input ends; one that fails is answered with its error."""
    for line in sys.stdin:
        if not line.strip():
            continue
        try:
            answer = trace(Request(**json.loads(line)))
        except Exception as exc:
            answer = {"error": f"{type(exc).__name__}: {exc}"[:2000]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
