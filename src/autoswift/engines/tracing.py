"""Traces a training step's memory in the training environment, for shapes that the tables do not have."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoswift.domain.plan import Method
from autoswift.errors import ChildFailed
from autoswift.hardware.memory import MemorySettings
from autoswift.run.process import Child
from autoswift.tables import explain

CHILD = Path(__file__).parent / "children" / "memory_trace.py"
TRACE_SECONDS = 240.0
"""A 7B's two steps took 12 s on a busy two-core machine, its imports 10."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What a trace found, in bytes: the live tensors' peak and the weights; `trained` counts numbers."""

    peak: int
    weights: int
    trained: int


def request_of(config: Mapping[str, Any], method: Method, settings: MemorySettings) -> dict[str, Any]:
    """The child's request for a model's configuration and a training's settings."""
    names = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
             "num_attention_heads", "num_key_value_heads", "head_dim", "tie_word_embeddings", "num_experts",
             "num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "sliding_window",
             "query_pre_attn_scalar", "pad_token_id")  # fmt: skip
    inner = config.get("text_config")
    values = {**config, **inner} if isinstance(inner, Mapping) else config
    return {
        "config": {name: values[name] for name in names if values.get(name) is not None},
        "method": method,
        "rows": settings.micro_batch,
        "length": settings.length,
        "rank": settings.rank,
        "targets": settings.targets,
        "precision": settings.precision,
        "adapter": settings.adapter_precision,
        "checkpointing": settings.gradient_checkpointing,
        "reentrant": settings.devices == 1,
        "attention": "eager" if settings.attention == "eager" else "fused",
        "padded": settings.padded and not settings.attention.startswith("flash"),
        "liger": settings.liger or settings.fused_loss,
        "dropout": settings.dropout,
        "optimizer": settings.optimizer if settings.optimizer in ("sgd", "adamw_torch_fused") else "adamw_torch",
        "accumulates": settings.accumulates,
    }


def trace(
    requests: Iterable[Mapping[str, Any]],
    python: Path,
    folder: Path,
    env: dict[str, str],
    seconds: float = TRACE_SECONDS,
) -> list[Trace]:
    """Traces one request after the other; no accelerator is used.

    Args:
        requests: from `request_of`.
        python: the training environment's interpreter.
        folder: the run folder, for the child's registration and log.
        env: the child's environment.
        seconds: for all requests together.

    Raises:
        ChildFailed: when the child ends, takes too long, or cannot build the model.
    """
    log = folder / "logs" / "memory_trace.log"
    child = Child([str(python), "-P", str(CHILD)], env, folder, "memory trace", log, pipes=True)
    end = time.monotonic() + seconds
    answers = []
    try:
        for request in requests:
            child.stdin.write((json.dumps(dict(request)) + "\n").encode())
            child.stdin.flush()
            answer = json.loads(_line(child, end))
            if "error" in answer:
                raise ChildFailed(*explain("trace.refused", said=answer["error"], log=log))
            answers.append(Trace(peak=answer["peak"], weights=answer["weights"], trained=answer["trained"]))
    except (OSError, ValueError) as exc:
        raise ChildFailed(*explain("trace.ended", said=str(exc) or child.tail(3), log=log)) from exc
    finally:
        child.end()
    return answers


def _line(child: Child, end: float) -> bytes:
    """The next line; an empty one makes the caller's JSON fail, which says that the child ended."""
    buffer = b""
    while b"\n" not in buffer:
        left = end - time.monotonic()
        ready, _, _ = select.select([child.stdout], [], [], max(left, 0.0))
        if not ready:
            raise OSError("no answer in time")
        data = os.read(child.stdout.fileno(), 1 << 16)
        if not data:
            break
        buffer += data
    return buffer
