"""Model, template and rows by swift's own code, and the order in which `swift sft` would see the rows."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from autoswift.engines.children.packed_head import Refused
from autoswift.engines.children.packed_layers import Bank, StackedLinear, Target

KNOWN = {"input_ids", "labels", "lengths", "length"}
"""What a packed step can feed; a row with more (a loss scale, pictures, positions of its own) is for swift alone."""


@dataclass(frozen=True)
class Encoded:
    """One row as training sees it: `labels` are -100 where nothing is learnt."""

    ids: list[int]
    labels: list[int]

    @cached_property
    def tokens(self) -> Any:
        """`ids` as a tensor."""
        return torch.tensor(self.ids)

    @cached_property
    def places(self) -> Any:
        """Places whose logits are compared with a label: that of the next token."""
        return (torch.tensor(self.labels[1:]) != -100).nonzero().squeeze(1)

    @cached_property
    def targets(self) -> Any:
        """The labels of `places`."""
        return torch.tensor(self.labels)[self.places + 1]


def pairs(given: Any) -> dict[str, Any]:
    """swift's arguments by name, from an argv or from pairs."""
    if isinstance(given, Mapping):
        return {str(key): value for key, value in given.items()}
    words = [str(word) for word in given]
    return {words[n].removeprefix("--"): words[n + 1] for n in range(0, len(words) - 1, 2)}


def argv(arguments: Mapping[str, Any]) -> list[str]:
    """Pairs as words of a command line; what is empty is left out."""
    found: list[str] = []
    for key, value in arguments.items():
        if value is None or value == "":
            continue
        values = value if isinstance(value, list) else [value]
        found += [f"--{key}", *(str(v).lower() if isinstance(v, bool) else str(v) for v in values)]
    return found


class Source:
    """What `swift sft` loads before it trains: base model, template, encoded rows."""

    def __init__(self, arguments: Any) -> None:
        from swift.pipelines.train.sft import SwiftSft

        self.place = tempfile.TemporaryDirectory(prefix="autoswift-packed-")
        changes = {"output_dir": self.place.name, "add_version": "false", "load_args": "false", "report_to": "none"}
        self.sft = SwiftSft(argv(pairs(arguments) | changes))
        self.args, self.template, self.model = self.sft.args, self.sft.template, self.sft.model
        self.model.requires_grad_(False)
        self._sets: dict[int | None, Rows] = {}

    def rows(self, max_length: int | None) -> Rows:
        """The training rows of a length limit: swift drops the longer ones, so each limit has its own numbering."""
        limit = max_length or self.template.max_length
        if limit not in self._sets:
            self.template.max_length = limit
            dataset, _ = self.sft._prepare_dataset()
            if dataset is None or len(dataset) == 0:
                raise Refused("rows", f"no row is shorter than {limit} tokens")
            self._sets[limit] = Rows(dataset, self.template, limit)
        return self._sets[limit]

    def encode(self, messages: list[dict[str, Any]]) -> Encoded | None:
        """A row that is not among the training rows, as training would see it; None where it is too long."""
        from swift.template import MaxLengthError

        try:
            return encoded(self.template.encode({"messages": messages}))
        except MaxLengthError:
            return None


def encoded(row: Mapping[str, Any]) -> Encoded:
    """swift's encoding as plain numbers.

    Raises:
        Refused: when the row carries more than tokens and labels.
    """
    more = sorted(key for key, value in row.items() if value is not None and key not in KNOWN and key[0] != "_")
    if more:
        raise Refused("rows", f"the template gives {', '.join(more)} beside tokens and labels")
    return Encoded([int(n) for n in row["input_ids"]], [int(n) for n in row["labels"]])


class Rows:
    """Encoded training rows, each encoded once."""

    def __init__(self, dataset: Any, template: Any, limit: int | None) -> None:
        self.dataset, self.template, self.limit = dataset, template, limit
        self._made: dict[int, Encoded] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [int(max(n) if isinstance(n, list) else n) for n in self.dataset["lengths"]]

    def __getitem__(self, number: int) -> Encoded:
        if number not in self._made:
            self.template.max_length = self.limit
            self._made[number] = encoded(self.dataset[number])
        return self._made[number]


class Order:
    """Row numbers as swift's data loader and the Trainer's accumulation take them.

    Args:
        rows: how many there are. batch: the micro-batch. accumulation: micro-batches per optimizer step.
        seed: swift's `data_seed`. lengths: of the rows, where those of like length go together.
    """

    def __init__(self, rows: int, batch: int, accumulation: int, seed: int, lengths: list[int] | None = None) -> None:
        self.lengths = lengths
        self.rows, self.batch, self.accumulation, self.seed = rows, batch, accumulation, seed
        self.batches = math.ceil(rows / batch)
        self.updates = max(1, math.ceil(self.batches / accumulation))
        self._epoch, self._order = -1, list[int]()

    def step(self, number: int) -> list[list[int]]:
        """The micro-batches of optimizer step `number`, from 0; the last ones of an epoch may be smaller and fewer."""
        epoch, update = divmod(number, self.updates)
        if epoch != self._epoch:
            generator = torch.Generator()
            generator.manual_seed(self.seed + epoch)
            self._epoch = epoch
            if self.lengths is None:
                self._order = torch.randperm(self.rows, generator=generator).tolist()
            else:
                from transformers.trainer_pt_utils import get_length_grouped_indices

                self._order = list(get_length_grouped_indices(self.lengths, self.batch, generator=generator))
        first = update * self.accumulation
        return [
            self._order[place * self.batch : (place + 1) * self.batch]
            for place in range(first, min(first + self.accumulation, self.batches))
        ]


def stacked(source_model: Any, target_modules: Any, device: torch.device) -> tuple[Bank, list[str] | str]:
    """Puts stacked adapters beside the base's target maps.

    Args:
        source_model: as swift loaded it. target_modules: names or a pattern, as PEFT takes them.

    Raises:
        Refused: when a target is no linear map, or the base drops activations at random by itself.
    """
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    config = LoraConfig(target_modules=target_modules)
    dtype = next(p.dtype for p in source_model.parameters() if p.is_floating_point())
    if dtype == torch.float16:
        raise Refused("precision", "float16 needs a loss scale that one trial's overflow would change for all")
    found = [
        (name, module) for name, module in source_model.named_modules() if check_target_module_exists(config, name)
    ]
    if not found:
        raise Refused("targets", f"no module is named {target_modules}")
    for name, module in source_model.named_modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            raise Refused("dropout", f"the base drops activations in {name}, from a stream that trials would share")
    bank = Bank([_target(name, module) for name, module in found], device, dtype)
    for (name, module), target in zip(found, bank.targets, strict=True):
        parent, _, leaf = name.rpartition(".")
        setattr(source_model.get_submodule(parent), leaf, StackedLinear(module, target, bank))
    return bank, target_modules


def _target(name: str, module: nn.Module) -> Target:
    kind = type(module).__name__
    if kind == "Linear4bit" or (isinstance(module, nn.Linear) and kind == "Linear"):
        floats = module.weight.dtype if module.weight.is_floating_point() else None
        rounded = floats if floats in (torch.bfloat16, torch.float16) else None
        return Target(name, int(module.in_features), int(module.out_features), rounded)
    raise Refused("targets", f"{name} is a {kind}: only linear maps are stacked")


def batches(rows: list[Encoded], size: int) -> Iterator[list[Encoded]]:
    """In order, `size` at a time."""
    for first in range(0, len(rows), max(1, size)):
        yield rows[first : first + max(1, size)]
