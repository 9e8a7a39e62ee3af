"""The pack: which trial has which slot, and one micro-batch of every trial in one pass."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from autoswift.engines.children.packed_data import Encoded
from autoswift.engines.children.packed_graphs import Graphs
from autoswift.engines.children.packed_head import Head
from autoswift.engines.children.packed_layers import Bank, Group, Layout, RowPlan
from autoswift.engines.children.packed_trial import Trial

LEAST_PLACES = 32
"""Places with labels are rounded up to a power of two, from here: few shapes to record, little work in vain."""

RANK_STEP = 8
"""Ranks are rounded up to a multiple of it: what the matrix kernels take anyway."""

BEGINNINGS = 4
"""New adapters that are kept on the host, by seed and rank: drawing one takes half a second at 7 B."""


@dataclass(frozen=True)
class Stepped:
    """An optimizer step that a trial has just made."""

    trial: Trial
    loss: float
    grad_norm: float
    symptom: str | None


class Pack:
    """Trials with a slot train; those without wait with their state on the host."""

    def __init__(self, head: Head, bank: Bank, graphs: Graphs, capacity: int) -> None:
        self.head, self.bank, self.graphs, self.capacity = head, bank, graphs, max(1, capacity)
        self.trials: list[Trial] = []
        self.waiting: list[Trial] = []
        self.stepped: list[Stepped] = []
        self.room = 0
        self._beginnings: dict[tuple[int, int], Any] = {}

    # who is in -------------------------------------------------------------------------------------------------

    def add(self, trial: Trial) -> None:
        """A trial, new or begun from a checkpoint: it gets a slot now or waits for one."""
        self.fit([trial])
        if trial.parameter is None:
            trial.start(self._beginning(trial))
        self.waiting.append(trial)
        self.admit()

    def _beginning(self, trial: Trial) -> Any:
        """A new adapter; trials of one search mostly share the seed, so the last ones are kept."""
        s = trial.settings
        if s.use_dora:
            return trial.beginning(self.bank.plan, self.magnitudes())
        key = (s.seed, s.lora_rank)
        if key not in self._beginnings:
            while len(self._beginnings) >= BEGINNINGS:
                self._beginnings.pop(next(iter(self._beginnings)))
            self._beginnings[key] = trial.beginning(self.bank.plan, {})
        return self._beginnings[key].clone()

    def fit(self, more: list[Trial]) -> None:
        """Lays the rows out anew where a trial needs a larger rank, or is the first with DoRA."""
        wanted = max(t.settings.lora_rank for t in [*self.trials, *self.waiting, *more])
        rank = max(self.bank.plan.rank, -(-wanted // RANK_STEP) * RANK_STEP)
        dora = self.bank.plan.dora or any(t.settings.use_dora for t in more)
        if self.room >= self.capacity and rank == self.bank.plan.rank and dora == self.bank.plan.dora:
            return
        self.relay(RowPlan(self.bank.targets, rank, dora=dora))

    def relay(self, plan: RowPlan) -> None:
        """New memory for the rows; every trial passes through the host, and begins its step anew."""
        inside = list(self.trials)
        for trial in inside:
            self._unseat(trial)
        for trial in [*inside, *self.waiting]:
            trial.convert(self.bank.plan, plan)
        self.graphs.drop()
        self._beginnings.clear()
        self.bank.allocate(self.capacity, plan)
        self.room = self.capacity
        for trial in inside:
            self._seat(trial)

    def magnitudes(self) -> Mapping[str, Any]:
        """The norms of the base's rows by target name, on the host."""
        return {layer.target.name: layer.squared_norms().sqrt().cpu() for layer in self.bank.layers}

    def admit(self) -> list[Trial]:
        """Free slots go to those that wait, first come first served."""
        new = []
        while self.waiting and len(self.trials) < self.capacity:
            trial = self.waiting[0]
            try:
                self._seat(trial)
            except torch.OutOfMemoryError:
                if not self.trials:
                    raise
                self.capacity = len(self.trials)
                break
            new.append(self.waiting.pop(0))
        if new:
            self._arrange()
        return new

    def leave(self, trial: Trial) -> None:
        """A trial ends, or is set aside: its state moves to the host, its slot is free."""
        if trial in self.waiting:
            self.waiting.remove(trial)
            return
        self._unseat(trial)
        self._arrange()

    def _seat(self, trial: Trial) -> None:
        slot = len(self.trials)
        if trial.parameter is None:
            raise RuntimeError("the trial has not begun")
        self.bank.values[slot].copy_(trial.parameter.data)
        self.bank.grads[slot].zero_()
        trial.bind(self.bank.values[slot], self.bank.grads[slot])
        trial.slot = slot
        self._mark(trial, slot)
        self.trials.append(trial)

    def _mark(self, trial: Trial, slot: int) -> None:
        self.bank.scale[slot] = trial.settings.scale
        self.bank.is_dora[slot] = trial.settings.use_dora
        self.bank.refresh(slot)

    def _unseat(self, trial: Trial) -> None:
        if trial.parameter is None or trial.slot is None:
            raise RuntimeError("the trial has no slot")
        slot = trial.slot
        trial.rewind()
        trial.bind(self.bank.values[slot].cpu().clone(), None)
        trial.slot = None
        self.trials.remove(trial)
        self.bank.clear(slot)

    def _arrange(self) -> None:
        """Slots without gaps, trials of one micro-batch beside each other: few groups in every product."""
        order = sorted(self.trials, key=lambda t: (t.batch, t.settings.use_dora, t.number))
        wanted = [t.slot for t in order if t.slot is not None]
        if wanted != list(range(len(order))):
            count = max(wanted) + 1
            places = [*wanted, *(n for n in range(count) if n not in wanted)]
            index = torch.tensor(places, device=self.bank.device)
            for matrix in (self.bank.values, self.bank.grads):
                matrix[:count] = matrix[index]
            for slot, trial in enumerate(order):
                trial.slot = slot
                trial.bind(self.bank.values[slot], self.bank.grads[slot])
                self._mark(trial, slot)
            for slot in range(len(order), count):
                self.bank.clear(slot)
        self.trials = order

    # one micro-batch of each ------------------------------------------------------------------------------------

    def tick(self) -> None:
        """A micro-batch of every trial that has a slot; `stepped` then holds the optimizer steps that came of it.

        Raises:
            torch.OutOfMemoryError: `shrink` then brings every trial to the beginning of its step.
        """
        begun = time.perf_counter()
        self.stepped = []
        batches = [trial.micro_batch() for trial in self.trials]
        losses, rights, norms = self._pass(batches)
        due = []
        for trial, rows, loss, right in zip(self.trials, batches, losses, rights, strict=True):
            counted = sum(len(row.places) for row in rows)
            if trial.took(loss, right, counted, sum(len(row.ids) for row in rows)):
                due.append(trial)
        self._update(due, norms)
        seconds = time.perf_counter() - begun
        for trial in self.trials:
            trial.log.seconds += seconds

    def _update(self, due: list[Trial], norms: list[float]) -> None:
        """Optimizer steps; what can be done for all rows at once is."""
        slots = [trial.slot for trial in due if trial.slot is not None]
        factors = {trial.slot: trial.clip(norms[slot]) for trial, slot in zip(due, slots, strict=True)}
        if any(factor < 1.0 for factor in factors.values()):
            all_factors = [factors.get(slot, 1.0) for slot in range(len(self.trials))]
            self.bank.grads[: len(self.trials)].mul_(torch.tensor(all_factors).to(self.bank.device).unsqueeze(1))
        for trial, slot in zip(due, slots, strict=True):
            loss = trial.loss
            trial.update(norms[slot])
            self.stepped.append(Stepped(trial, loss, norms[slot], trial.watch(loss, norms[slot])))
        if len(due) == len(self.trials):
            self.bank.grads[: len(due)].zero_()
            if self.bank.shadow is not self.bank.values:
                self.bank.shadow[: len(due)].copy_(self.bank.values[: len(due)])
            return
        for slot in slots:
            self.bank.grads[slot].zero_()
            self.bank.refresh(slot)

    def _pass(self, batches: list[list[Encoded]]) -> tuple[list[float], list[int], list[float]]:
        """Losses, right guesses and the norms of the gradients so far, by slot."""
        inputs, layout = self.inputs(batches)
        due = any(trial.position + 1 == len(trial.window) for trial in self.trials)
        key = (layout.groups, inputs["ids"].shape[1], inputs["index"].shape[1])
        self.bank.layout = layout
        try:
            run = self.graphs.run if not layout.dropout and not any(self.bank.is_dora) else _eagerly
            results = run(key, inputs, self._body)
        finally:
            self.bank.layout = None
        count = len(self.trials)
        found = [results["loss"], results["right"].float()]
        if due:
            found.append(torch.linalg.vector_norm(self.bank.grads[:count], dim=1))
        numbers = torch.stack(found).tolist()  # the one wait for the device
        return numbers[0], [int(n) for n in numbers[1]], numbers[2] if due else [0.0] * count

    def inputs(self, batches: list[list[Encoded]]) -> tuple[dict[str, Any], Layout]:
        """Rows of all trials as tensors: padded on the right to one length, trial after trial."""
        sizes = [max(trial.batch, len(rows)) for trial, rows in zip(self.trials, batches, strict=True)]
        length = self.graphs.length(max(len(row.ids) for rows in batches for row in rows))
        counts = [sum(len(row.places) for row in rows) for rows in batches]
        width = max(1, *counts)
        if self.graphs.enabled:
            width = max(LEAST_PLACES, 1 << (width - 1).bit_length())
        ids = torch.zeros(sum(sizes), length, dtype=torch.long)
        index = torch.empty(len(batches), width, dtype=torch.long)
        wanted = torch.full((len(batches), width), -100)
        first = 0
        for slot, (rows, size) in enumerate(zip(batches, sizes, strict=True)):
            # the filling points into the trial's own rows: what a neighbour holds must not even be read
            index[slot] = first * length
            place = 0
            for n, row in enumerate(rows):
                ids[first + n, : len(row.ids)] = row.tokens
                last = place + len(row.places)
                index[slot, place:last] = row.places + (first + n) * length
                wanted[slot, place:last] = row.targets
                place = last
            first += size
        factor = torch.tensor([1.0 / max(trial.items, 1) for trial in self.trials])
        tensors = {"ids": ids, "index": index, "labels": wanted, "factor": factor}
        tensors = {name: tensor.to(self.bank.device, non_blocking=True) for name, tensor in tensors.items()}
        return tensors, self._layout(sizes, [max((len(row.ids) for row in rows), default=1) for rows in batches])

    def _layout(self, sizes: list[int], lengths: list[int]) -> Layout:
        groups: list[Group] = []
        for slot, size in enumerate(sizes):
            if groups and groups[-1].rows == size:
                groups[-1] = Group(groups[-1].slot, groups[-1].slots + 1, size)
            else:
                groups.append(Group(slot, 1, size))
        shares = tuple(trial.settings.lora_dropout for trial in self.trials)
        if not any(shares):
            return Layout(tuple(groups))
        return Layout(tuple(groups), tuple(lengths), shares, tuple(trial.seed for trial in self.trials))

    def _body(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Forward and backward pass; gradients are added to the bank's."""
        index = inputs["index"]
        hidden = self.head.hidden(inputs["ids"])
        picked = hidden.reshape(-1, hidden.shape[-1]).index_select(0, index.view(-1))
        values = picked.detach().view(*index.shape, -1)
        slope = torch.empty_like(values)
        losses, rights = [], []
        for slot in range(index.shape[0]):
            loss, right, grown = self.head.losses(values[slot], inputs["labels"][slot], inputs["factor"][slot])
            slope[slot] = grown
            losses.append(loss.sum() * inputs["factor"][slot])
            rights.append(right)
        picked.backward(slope.view_as(picked))
        return {"loss": torch.stack(losses), "right": torch.stack(rights)}

    def shrink(self) -> list[Trial]:
        """After an out-of-memory: the pack halves, the steps under way begin anew, those without a slot wait."""
        keep = max(1, len(self.trials) // 2)
        out = self.trials[keep:]
        for trial in self.trials:
            trial.rewind()
        for trial in reversed(out):
            self._unseat(trial)
        self.waiting = [*out, *self.waiting]
        self.capacity = keep
        self.bank.grads.zero_()
        # a smaller matrix of rows, and no recordings of larger packs
        self.relay(self.bank.plan)
        return out


def _eagerly(key: Any, inputs: dict[str, Any], body: Any) -> Mapping[str, Any]:
    return body(inputs)
