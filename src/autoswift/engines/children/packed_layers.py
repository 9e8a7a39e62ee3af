"""Stacked LoRA: the adapters of many trials on one frozen linear map, in one batched product.

All that a trial trains lies in one row of a matrix `[slots, size]` (`Bank.values`), its gradient in the same row of
another: a trial joins, leaves and moves by copying a row, its optimizer sees one flat tensor, and no operation ever
mixes two rows. A layer's `A [slots, in, rank]` and `B [slots, rank, out]` are views of that matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

ALIGN = 64
"""Elements that a piece of a row starts at a multiple of: the fast matrix kernels want 16-byte addresses."""


@dataclass(frozen=True)
class Target:
    """A linear map of the base that gets adapters."""

    name: str
    inputs: int
    outputs: int
    rounded: torch.dtype | None  # the base's number format, through which PEFT rounds a new adapter

    @property
    def base(self) -> str:
        """As PEFT names it in an adapter file."""
        return f"base_model.model.{self.name}"


@dataclass(frozen=True)
class Piece:
    """Where one target's matrices lie in a row; `m` is -1 where no trial uses DoRA."""

    target: Target
    a: int
    b: int
    m: int


class RowPlan:
    """How a row is laid out for a rank (the largest in the pack) and with or without DoRA's magnitudes."""

    def __init__(self, targets: list[Target], rank: int, *, dora: bool) -> None:
        self.rank, self.dora = rank, dora
        self.pieces: list[Piece] = []
        place = 0

        def take(count: int) -> int:
            nonlocal place
            begin = place
            place += math.ceil(count / ALIGN) * ALIGN
            return begin

        for target in targets:
            a, b = take(target.inputs * rank), take(rank * target.outputs)
            self.pieces.append(Piece(target, a, b, take(target.outputs) if dora else -1))
        self.size = place

    def split(self, row: Any) -> Iterator[tuple[Target, Any, Any, Any]]:
        """Views of a row's (or of a matrix of rows') A `[…, in, rank]`, B `[…, rank, out]` and m `[…, out]` or None."""
        for piece in self.pieces:
            ins, outs = piece.target.inputs, piece.target.outputs
            a = row[..., piece.a : piece.a + ins * self.rank].unflatten(-1, (ins, self.rank))
            b = row[..., piece.b : piece.b + outs * self.rank].unflatten(-1, (self.rank, outs))
            yield piece.target, a, b, row[..., piece.m : piece.m + outs] if piece.m >= 0 else None


def convert(row: Any, old: RowPlan, new: RowPlan) -> Any:
    """A row of one plan as a row of another; what the new one has no room for must be zero, and is dropped."""
    made = torch.zeros(new.size, dtype=row.dtype, device=row.device)
    rank = min(old.rank, new.rank)
    for (_, a, b, m), (_, new_a, new_b, new_m) in zip(old.split(row), new.split(made), strict=True):
        new_a[:, :rank].copy_(a[:, :rank])
        new_b[:rank].copy_(b[:rank])
        if m is not None and new_m is not None:
            new_m.copy_(m)
    return made


def initial_row(plan: RowPlan, rank: int, generator: torch.Generator, magnitudes: dict[str, Any]) -> Any:
    """A new adapter, number for number what PEFT makes after `torch.manual_seed`, as a row on the host.

    Args:
        plan: of the row. rank: the trial's own, at most the plan's.
        generator: on the host, freshly seeded; the draws are PEFT's, in PEFT's order.
        magnitudes: by target name, the norms of the base's rows, for a trial with DoRA; else empty.
    """
    row = torch.zeros(plan.size)
    for target, a, _, m in plan.split(row):
        first = torch.empty(rank, target.inputs)
        second = torch.empty(target.outputs, rank)
        for matrix in (first, second, first):  # the constructors of A and B, then PEFT's own reset of A
            nn.init.kaiming_uniform_(matrix, a=math.sqrt(5), generator=generator)
        if target.rounded is not None:
            first = first.to(target.rounded).float()
        a[:, :rank].copy_(first.T)
        if m is not None and target.name in magnitudes:
            m.copy_(magnitudes[target.name])
    return row


@dataclass(frozen=True)
class Group:
    """Neighbouring slots with the same number of rows each."""

    slot: int
    slots: int
    rows: int


@dataclass(frozen=True)
class Layout:
    """Which rows of the batch belong to which slots, in order.

    Attributes:
        lengths: by slot, the tokens a row has before padding; only for dropout, whose stream must not depend on the
            padding that a neighbour asks for.
        count: of the micro-batches before, by slot, and `seeds`: what names a trial's random stream.
    """

    groups: tuple[Group, ...]
    lengths: tuple[int, ...] = ()
    dropout: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """Of the whole batch."""
        return sum(group.slots * group.rows for group in self.groups)


class Bank:
    """The rows of all slots, and what a layer needs to know of them."""

    def __init__(self, targets: list[Target], device: torch.device, dtype: torch.dtype) -> None:
        self.targets, self.device, self.dtype = targets, device, dtype
        self.plan = RowPlan(targets, 1, dora=False)
        self.slots = 0
        self.layout: Layout | None = None
        # a leaf that asks for gradients: the adapters themselves are no leaves, their gradients are added by hand
        self.anchor = torch.zeros(1, device=device, requires_grad=True)
        self.layers: list[StackedLinear] = []
        self.values = self.grads = self.shadow = torch.empty(0)
        self.scale = torch.empty(0)
        self.is_dora: list[bool] = []

    def allocate(self, slots: int, plan: RowPlan) -> None:
        """Room for rows of a plan, zeroed; whoever holds rows of the old one converts them first."""
        self.values = self.grads = self.shadow = torch.empty(0)
        for layer in self.layers:
            layer.release()
        self.plan, self.slots = plan, slots
        self.values = torch.zeros(slots, plan.size, device=self.device)
        self.grads = torch.zeros(slots, plan.size, device=self.device)
        # what the products read: the same memory in float32, a copy in the base's number format else
        own = self.dtype == torch.float32
        self.shadow = self.values if own else torch.zeros(slots, plan.size, device=self.device, dtype=self.dtype)
        self.scale = torch.zeros(slots, 1, 1, device=self.device)
        self.is_dora = [False] * slots
        parts = zip(plan.split(self.shadow), plan.split(self.values), plan.split(self.grads), strict=True)
        for layer, (read, value, grad) in zip(self.layers, parts, strict=True):
            layer.take(read, value, grad)

    def refresh(self, slot: int) -> None:
        """After a row was written: its copy in the base's number format."""
        if self.shadow is not self.values:
            self.shadow[slot].copy_(self.values[slot])

    def clear(self, slot: int) -> None:
        """An empty slot adds nothing, and holds no number that could spread."""
        self.values[slot].zero_()
        self.grads[slot].zero_()
        self.scale[slot] = 0
        self.is_dora[slot] = False
        self.refresh(slot)


class StackedLinear(nn.Module):
    """A frozen linear map and the adapters of all slots beside it."""

    def __init__(self, base: nn.Module, target: Target, bank: Bank) -> None:
        super().__init__()
        self.base, self.target = base, target
        self.__dict__["bank"] = bank  # no module: it must not be walked
        self.number = len(bank.layers)
        # other kinds of base layers may hand out a view of their own
        self.in_place = type(base) is nn.Linear
        self.squares: Any = None
        self.a: Any
        self.b: Any
        self.m: Any
        self.value_a: Any
        self.value_b: Any
        self.grad_a: Any
        self.grad_b: Any
        self.grad_m: Any
        self.release()
        bank.layers.append(self)

    def take(self, read: Any, value: Any, grad: Any) -> None:
        """The views of the bank's matrices."""
        _, self.a, self.b, _ = read
        _, self.value_a, self.value_b, self.m = value
        _, self.grad_a, self.grad_b, self.grad_m = grad

    def release(self) -> None:
        """Hold no view, so that the memory can be given back."""
        self.a = self.b = self.m = self.grad_a = self.grad_b = self.grad_m = self.value_a = self.value_b = None

    @property
    def weight(self) -> Any:
        """The base's."""
        return self.base.weight

    @property
    def bias(self) -> Any:
        """The base's."""
        return getattr(self.base, "bias", None)

    def forward(self, x: Any) -> Any:
        """`x [rows, tokens, in]` (or flattened), rows in the layout's order."""
        out = self.base(x)
        if self.bank.layout is None:
            return out
        return _Delta.apply(out, x, self.bank.anchor, self)

    def without_bias(self, x: Any) -> Any:
        """The base's product alone, in whatever form its weight is stored."""
        out = self.base(x)
        return out if self.bias is None else out - self.bias

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def squared_norms(self) -> Any:
        """Of the base's rows `[out]`, in float32; kept."""
        if self.squares is None:
            total = torch.zeros(self.target.outputs, device=self.bank.device)
            # the columns of the identity give the weight of any kind of layer, some at a time
            for first in range(0, self.target.inputs, 1024):
                count = min(1024, self.target.inputs - first)
                eye = torch.zeros(count, self.target.inputs, device=self.bank.device, dtype=self.bank.dtype)
                eye[torch.arange(count), torch.arange(first, first + count)] = 1
                total += self.without_bias(eye).float().square().sum(0)
            self.squares = total
        return self.squares

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def dora_scale(self, slots: slice) -> tuple[Any, Any]:
        """(m / |W + s B A|, 1 / |W + s B A|) by slot and output `[slots, 1, out]`; 1 where a slot has plain LoRA.

        The norm is expanded, so that no weight of the base's size is made per trial.
        """
        a, b = self.value_a[slots], self.value_b[slots]
        scale = self.bank.scale[slots]
        count, ins, rank = a.shape
        read = a.transpose(1, 2).reshape(count * rank, ins).to(self.bank.dtype)
        wa = self.without_bias(read).float().view(count, rank, -1)
        cross = (wa * b).sum(1)
        quadratic = (b * torch.bmm(torch.bmm(a.transpose(1, 2), a), b)).sum(1)
        flat = scale.squeeze(-1)
        norm = (self.squared_norms() + 2 * flat * cross + flat.square() * quadratic).clamp(min=1e-24).sqrt()
        ratio = self.m[slots] / norm
        plain = torch.tensor([not self.bank.is_dora[n] for n in range(slots.start, slots.stop)], device=norm.device)
        return ratio.masked_fill(plain[:, None], 1.0).unsqueeze(1), (1 / norm).masked_fill(plain[:, None], 0.0)


def _noise(layer: StackedLinear, layout: Layout, group: Group, x: Any) -> Any:
    """What dropout multiplies `x [slots, rows*tokens, in]` with; drawn anew, the same, in the backward pass."""
    if not any(layout.dropout[group.slot + n] for n in range(group.slots)):
        return None
    made = torch.ones_like(x)
    for n in range(group.slots):
        slot = group.slot + n
        share = layout.dropout[slot]
        if not share:
            continue
        rows = made[n].view(group.rows, -1, x.shape[-1])
        length = min(layout.lengths[slot], rows.shape[1])
        generator = torch.Generator(device=x.device)
        generator.manual_seed((layout.seeds[slot] * 100_003 + layer.number) % 2**63)
        kept = torch.empty(group.rows, length, x.shape[-1], device=x.device).bernoulli_(1 - share, generator=generator)
        rows[:, :length] = (kept / (1 - share)).to(x.dtype)
    return made


class _Delta(torch.autograd.Function):
    """Adds each slot's `scale * B(A(x))` to its own rows; gradients of A, B and m are added to the bank's."""

    @staticmethod
    def forward(ctx: Any, out: Any, x: Any, anchor: Any, layer: StackedLinear) -> Any:
        layout = layer.bank.layout
        if layout is None:
            raise RuntimeError("no layout is set")
        result = out if layer.in_place else out.clone()
        if layer.in_place:
            ctx.mark_dirty(out)
        flat_x, flat_y = x.reshape(-1, x.shape[-1]), result.view(-1, result.shape[-1])
        tokens = flat_x.shape[0] // layout.rows
        kept, first = [], 0
        for group in layout.groups:
            slots = slice(group.slot, group.slot + group.slots)
            last = first + group.slots * group.rows * tokens
            xs = flat_x[first:last].view(group.slots, group.rows * tokens, -1)
            ys = flat_y[first:last].view(group.slots, group.rows * tokens, -1)
            noise = _noise(layer, layout, group, xs) if layout.dropout else None
            if noise is not None:
                xs = xs * noise
            h = torch.bmm(xs, layer.a[slots]).mul_(layer.bank.scale[slots])
            z = None
            if any(layer.bank.is_dora[slots]):
                z = torch.baddbmm(ys if layer.bias is None else ys - layer.bias, h, layer.b[slots])
                ratio, _ = layer.dora_scale(slots)
                new = ratio.to(z.dtype) * z
                ys.copy_(new if layer.bias is None else new + layer.bias)
            else:
                ys.baddbmm_(h, layer.b[slots])
            kept += [xs, h, z]
            first = last
        ctx.save_for_backward(*kept)
        ctx.layer, ctx.layout, ctx.tokens, ctx.shape = layer, layout, tokens, x.shape
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        layer, layout, (grad,) = ctx.layer, ctx.layout, grads
        wants_x = ctx.needs_input_grad[1]
        flat_g = grad.reshape(-1, grad.shape[-1])
        saved = ctx.saved_tensors
        dx = torch.empty(flat_g.shape[0], ctx.shape[-1], dtype=grad.dtype, device=grad.device) if wants_x else None
        base = flat_g
        first = 0
        for place, group in enumerate(layout.groups):
            slots = slice(group.slot, group.slot + group.slots)
            last = first + group.slots * group.rows * ctx.tokens
            xs, h, z = saved[3 * place : 3 * place + 3]
            gs = flat_g[first:last].view(group.slots, group.rows * ctx.tokens, -1)
            if z is not None:
                ratio, over = layer.dora_scale(slots)
                layer.grad_m[slots].add_((gs.float() * z.float()).sum(1) * over)
                gs = gs * ratio.to(gs.dtype)
                if base is flat_g:
                    base = flat_g.clone()
                base[first:last] = gs.reshape(last - first, -1)
            dh = torch.bmm(gs, layer.b[slots].transpose(1, 2)).mul_(layer.bank.scale[slots])
            _accumulate(layer.grad_b[slots], h.transpose(1, 2), gs)
            _accumulate(layer.grad_a[slots], xs.transpose(1, 2), dh)
            if dx is not None:
                part = torch.bmm(dh, layer.a[slots].transpose(1, 2))
                noise = _noise(layer, layout, group, part) if layout.dropout else None
                dx[first:last] = (part if noise is None else part * noise).view(last - first, -1)
            first = last
        return base.view(grad.shape), None if dx is None else dx.view(ctx.shape), None, None


def _accumulate(total: Any, left: Any, right: Any) -> None:
    if total.dtype == left.dtype:
        total.baddbmm_(left, right)
    else:
        total.add_(torch.bmm(left, right))
