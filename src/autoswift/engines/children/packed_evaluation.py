"""Validation of several trials in one pass: the negative log-likelihood of rows, and greedy answers to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch

from autoswift.engines.children import answering
from autoswift.engines.children.packed_data import Encoded, batches
from autoswift.engines.children.packed_layers import Group, Layout
from autoswift.engines.children.packed_pack import Pack
from autoswift.engines.children.packed_trial import Trial

Result = TypeVar("Result")


@contextmanager
def rows_of(pack: Pack, trials: list[Trial], rows: int) -> Iterator[None]:
    """The next passes hold `rows` rows of each of the trials, trial after trial, without dropout."""
    groups: list[Group] = []
    for trial in trials:
        slot = trial.slot
        if slot is None:
            raise RuntimeError("the trial has no slot")
        last = groups[-1] if groups else None
        if last is not None and last.slot + last.slots == slot:
            groups[-1] = replace(last, slots=last.slots + 1)
        else:
            groups.append(Group(slot, 1, rows))
    pack.bank.layout = Layout(tuple(groups))
    try:
        yield
    finally:
        pack.bank.layout = None


def foldable(pack: Pack, trials: list[Trial]) -> bool:
    """Whether answers come from weights with the adapter inside: plain float32 maps on a CPU.

    There a token is bound by what runs beside the products: 16 answers of 64 tokens of SmolLM2 took 15 s with the
    adapter inside, 36 s with it beside.
    """
    plain = pack.bank.dtype == torch.float32 and all(layer.in_place for layer in pack.bank.layers)
    return pack.bank.device.type == "cpu" and plain and not any(trial.settings.use_dora for trial in trials)


@contextmanager
def folded(pack: Pack, trial: Trial) -> Iterator[None]:
    """The base with the trial's adapter inside its weights, which then are, bit for bit, what they were before."""
    if trial.slot is None:
        raise RuntimeError("the trial has no slot")
    kept: list[tuple[Any, Any]] = []
    try:
        for layer in pack.bank.layers:
            weight = layer.base.weight.data
            kept.append((weight, weight.clone()))
            product = layer.value_b[trial.slot].T @ layer.value_a[trial.slot].T
            weight.add_(product, alpha=float(trial.settings.scale))
        yield
    finally:
        for weight, before in kept:
            weight.copy_(before)


def halving(trials: list[Trial], size: int, work: Callable[[list[Trial], int], dict[int, Result]]) -> dict[int, Result]:
    """The work for all trials at once; when the device is out of memory for their halves, then with fewer rows."""
    try:
        return work(trials, size)
    except torch.OutOfMemoryError:
        if len(trials) == 1 and size == 1:
            raise
    # outside the handler: the exception would keep the tensors of the failed pass alive
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(trials) == 1:
        return halving(trials, size // 2, work)
    middle = len(trials) // 2
    return halving(trials[:middle], size, work) | halving(trials[middle:], size, work)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def row_losses(pack: Pack, trials: list[Trial], rows: list[Encoded], size: int) -> dict[int, list[tuple[float, int]]]:
    """By trial: summed loss and number of counted tokens of each row."""

    def work(some: list[Trial], count: int) -> dict[int, list[tuple[float, int]]]:
        found: dict[int, list[tuple[float, int]]] = {trial.number: [] for trial in some}
        for part in batches(rows, count):
            for trial, values in zip(some, _losses(pack, some, part), strict=True):
                found[trial.number] += values
        return found

    training = pack.head.model.training
    pack.head.model.eval()
    try:
        return halving(trials, max(1, size), work)
    finally:
        pack.head.model.train(training)


def _losses(pack: Pack, trials: list[Trial], rows: list[Encoded]) -> list[list[tuple[float, int]]]:
    length = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    for n, row in enumerate(rows):
        ids[n, : len(row.ids)] = row.tokens
    counts = [len(row.places) for row in rows]
    device = pack.bank.device
    with rows_of(pack, trials, len(rows)):
        hidden = pack.head.hidden(ids.repeat(len(trials), 1).to(device))
    wanted = torch.cat([row.targets for row in rows]).to(device)
    owner = torch.arange(len(rows)).repeat_interleave(torch.tensor(counts)).to(device)
    index = torch.cat([row.places + n * length for n, row in enumerate(rows)]).to(device)
    made = []
    for part in hidden.view(len(trials), len(rows) * length, -1):
        sums = torch.zeros(len(rows), dtype=torch.float64, device=device)
        if sum(counts):
            losses, _, _ = pack.head.losses(part[index], wanted)
            sums.index_add_(0, owner, losses.double())
        made.append(list(zip(sums.tolist(), counts, strict=True)))
    return made


def eval_loss(pack: Pack, trials: list[Trial], rows: list[Encoded], size: int) -> dict[int, float]:
    """What swift logs as `eval_loss` with one row a batch: the mean over rows of each row's mean loss."""
    found = row_losses(pack, trials, rows, size)
    return {n: sum(total / max(count, 1) for total, count in values) / len(values) for n, values in found.items()}


def answer_rows(template: Any, model: Any, rows: list[dict[str, Any]]) -> list[Encoded]:
    """Rows whose labels are the last answer's tokens alone: what the search compares by."""
    with answering.inference(model, template):
        made = [answering.encode_answer(template, row) for row in rows]
    return [
        Encoded(list(ids), [token if counted else -100 for token, counted in zip(ids, answer, strict=True)])
        for ids, answer in made
    ]


def answers(
    pack: Pack, trials: list[Trial], template: Any, rows: list[dict[str, Any]], settings: dict[str, Any]
) -> dict[int, list[answering.Answer | None]]:
    """Greedy answers of every trial to every row; None for rows that were not reached in time.

    Args:
        pack: whose slots the trials have. trials: in slot order. template: swift's. rows: with their references.
        settings: max_new_tokens, batch_size (rows of one trial at once), until (a moment or None).
    """
    model, limit, until = pack.head.model, int(settings["max_new_tokens"]), settings.get("until")
    with answering.inference(model, template):
        encoded = answering.encode_prompts(template, rows)
        config = answering._generation_config(template, limit)
        order = sorted(range(len(rows)), key=lambda n: -len(encoded[n]["input_ids"]))

        def work(some: list[Trial], size: int) -> dict[int, list[answering.Answer | None]]:
            found: dict[int, list[answering.Answer | None]] = {t.number: [None] * len(rows) for t in some}
            for first in range(0, len(order), size):
                if until is not None and time.time() > until:
                    break
                numbers = order[first : first + size]
                begun = time.perf_counter()
                batch = answering._collate(model, template, [encoded[n] for n in numbers])
                width = batch["input_ids"].shape[1]
                batch = {
                    k: v.repeat(len(some), *[1] * (v.ndim - 1)) if hasattr(v, "repeat") else v for k, v in batch.items()
                }
                criteria = answering._criteria(template, config, until)
                with folded(pack, some[0]) if fold else rows_of(pack, some, len(numbers)):
                    made = template.generate(model, **batch, generation_config=config, stopping_criteria=criteria)
                ids = template.get_generate_ids(made, width).tolist()
                if until is not None and time.time() > until:
                    break
                seconds = (time.perf_counter() - begun) / len(ids)
                for place, trial in enumerate(some):
                    for n, one in zip(numbers, ids[place * len(numbers) :], strict=False):
                        found[trial.number][n] = answering._answer(template, one, limit, seconds)
            return found

        fold, size = foldable(pack, trials), max(1, int(settings["batch_size"]))
        if not fold:
            return halving(trials, size, work)
        return {number: one for trial in trials for number, one in halving([trial], size, work).items()}
