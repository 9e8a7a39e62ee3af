"""Stand-ins, for a trace over tensors without data, for kernels that only a GPU has.

Each allocates, keeps and frees what the kernel does, and computes nothing. Nothing of autoswift is importable here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

NF4_BLOCK = 64
"""Weights that share a scale in bitsandbytes' 4-bit format; 256 scales share one again."""
MULTIPROCESSORS = 132
"""Of an H100: Liger's norm makes one partial gradient of its weight for each."""


class Flash(torch.autograd.Function):
    """Flash attention's buffers: keeps the inputs, the output and a float32 statistic a row and head."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, bias: Any) -> Any:
        """Allocates the output and keeps what backward needs."""
        rows, heads, length, _ = q.shape
        out = q.new_empty(rows, length, heads, v.shape[-1]).transpose(1, 2)
        statistics = torch.empty(rows, heads, length, dtype=torch.float32)
        ctx.save_for_backward(q, k, v, bias, out, statistics)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        """Allocates the gradients and their temporaries."""
        q, k, v, _, _, _ = ctx.saved_tensors
        rows, heads, length, width = q.shape
        products = torch.empty(rows, heads, length, dtype=torch.float32)
        accumulated = torch.empty(rows, heads, length, width, dtype=torch.float32)
        dq = torch.empty_like(q)
        if k.shape[1] != heads:  # gradients of shared heads are made a query head at a time, then summed
            wide_k, wide_v = q.new_empty(rows, heads, length, width), q.new_empty(rows, heads, length, v.shape[-1])
            dk, dv = torch.empty_like(k), torch.empty_like(v)
            del wide_k, wide_v
        else:
            dk, dv = torch.empty_like(k), torch.empty_like(v)
        del products, accumulated
        return dq, dk, dv, None


def attend(query: Any, key: Any, value: Any, attn_mask: Any = None, *_: Any, **__: Any) -> Any:
    """In place of torch's attention: a boolean mask is turned into a bias, which is kept, at each call."""
    bias = None
    if attn_mask is not None:
        bias = attn_mask if attn_mask.dtype != torch.bool else torch.empty_like(attn_mask, dtype=query.dtype)
    return Flash.apply(query, key, value, bias)


class Product4(torch.autograd.Function):
    """A product with 4-bit weights: unpacked for it, forward and backward, and kept packed only."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, shape: Any) -> Any:
        """Allocates the output and keeps what backward needs."""
        ctx.save_for_backward(weight)
        ctx.shape = shape
        scales = torch.empty(shape[0] * shape[1] // NF4_BLOCK, dtype=torch.float32)
        unpacked = x.new_empty(shape)
        out = nn.functional.linear(x, unpacked, bias)
        del scales, unpacked
        return out

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        """Allocates the gradients and their temporaries."""
        scales = torch.empty(ctx.shape[0] * ctx.shape[1] // NF4_BLOCK, dtype=torch.float32)
        unpacked = grad.new_empty(ctx.shape)
        del scales
        return torch.matmul(grad, unpacked), None, None, None


def packed_linear(linear: nn.Linear) -> nn.Module:
    """bitsandbytes' layer with its weight packed."""
    import bitsandbytes as bnb

    class Packed(bnb.nn.Linear4bit):  # type: ignore[misc,no-any-unimported]
        def forward(self, x: Any) -> Any:
            return Product4.apply(x, self.weight, self.bias, (self.out_features, self.in_features))

    packed = Packed.__new__(Packed)
    nn.Module.__init__(packed)
    packed.in_features, packed.out_features = linear.in_features, linear.out_features
    count = linear.in_features * linear.out_features
    weight = nn.Parameter(torch.empty(count // 2, 1, dtype=torch.uint8), requires_grad=False)
    weight.compress_statistics, weight.quant_type, weight.quant_state = True, "nf4", None  # type: ignore[attr-defined]
    packed.weight = weight
    packed.bias = linear.bias
    packed.compute_dtype, packed.compute_type_is_set = torch.bfloat16, True
    packed.quant_storage = torch.uint8
    scales = count // NF4_BLOCK
    packed.register_buffer("absmax", torch.empty(scales, dtype=torch.uint8), persistent=False)
    packed.register_buffer("absmax2", torch.empty(scales // 256 + 1, dtype=torch.float32), persistent=False)
    return packed


class Norm(torch.autograd.Function):
    """Liger's RMS norm: keeps its input and a statistic a row; writes the gradient over the incoming one."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any) -> Any:
        """Allocates the output and keeps what backward needs."""
        out = torch.empty_like(x)
        statistics = torch.empty(x.numel() // x.shape[-1], dtype=torch.float32)
        ctx.save_for_backward(x, weight, statistics)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        """Allocates the gradients and their temporaries."""
        _, weight, _ = ctx.saved_tensors
        partial = (
            torch.empty(MULTIPROCESSORS, weight.shape[0], dtype=torch.float32) if ctx.needs_input_grad[1] else None
        )
        dweight = torch.empty_like(weight) if partial is not None else None
        return grad, dweight


class Gate(torch.autograd.Function):
    """Liger's gated activation: keeps both inputs, makes the output; the gradients go where the inputs were."""

    @staticmethod
    def forward(ctx: Any, gate: Any, up: Any) -> Any:
        """Allocates the output and keeps what backward needs."""
        out = torch.empty_like(gate)
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        """Allocates the gradients and their temporaries."""
        gate, up = ctx.saved_tensors
        return gate, up


class Rotary(torch.autograd.Function):
    """Liger's rotary embedding: in place, after a copy to contiguous memory."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, cos: Any, sin: Any) -> Any:
        """Allocates the output and keeps what backward needs."""
        ctx.save_for_backward(cos, sin)
        q, k = q.transpose(1, 2).contiguous(), k.transpose(1, 2).contiguous()
        return q.view_as(q).transpose(1, 2), k.view_as(k).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, dq: Any, dk: Any) -> Any:
        """Allocates the gradients and their temporaries."""
        dq, dk = dq.transpose(1, 2).contiguous(), dk.transpose(1, 2).contiguous()
        return dq.transpose(1, 2), dk.transpose(1, 2), None, None


class FusedLoss(torch.autograd.Function):
    """Liger's fused projection and cross-entropy: logits of a slice of the tokens at a time, gradient made at once."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, labels: Any, size: int) -> Any:
        """Allocates the output and keeps what backward needs."""
        tokens, hidden = x.shape
        vocabulary = weight.shape[0]
        grad_x = torch.zeros_like(x)
        grad_weight = torch.zeros_like(weight) if weight.requires_grad else None
        loss = torch.zeros(tokens, dtype=torch.float32)
        parts = -(-vocabulary // hidden)
        size = size or min(1 << (-(-tokens // parts) - 1).bit_length(), tokens)
        logits = x.new_empty(size, vocabulary)
        del logits
        ctx.save_for_backward(grad_x, grad_weight)
        return loss.sum()

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        """Allocates the gradients and their temporaries."""
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x, grad_weight, None, None


def dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """As on an accelerator: the output and a mask of one byte."""
    return torch.ops.aten.native_dropout(x, p, training)[0] if training and p > 0 else x
