"""The facts that a plan rests on, by name: read one, or suppose another value for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoswift.decide.inputs import Inputs
from autoswift.errors import InputError
from autoswift.tables import explain

if TYPE_CHECKING:
    from pydantic import TypeAdapter

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Lever:
    """A fact that may be supposed otherwise, and how far.

    Attributes:
        low, high: of a number; outside it the question is idle (a device of 4 TB).
        whole: counts and bytes. step: as near as a bound of these is told. choices: of a word.
    """

    low: float = 0.0
    high: float = 0.0
    whole: bool = True
    step: int = 1
    choices: tuple[Any, ...] = ()


LEVERS: dict[str, Lever] = {
    "hardware.devices.0.free_bytes": Lever(GIB // 4, 1024 * GIB, step=2**26),
    "hardware.devices.0.bf16": Lever(choices=(False, True)),
    "hardware.devices.0.kind": Lever(choices=("cpu", "cuda")),
    "hardware.cpu_cores": Lever(1, 256),
    "availability.huggingface": Lever(choices=(False, True)),
    "task.budget.hours": Lever(1 / 60, 24 * 30, whole=False),
    "task.budget.trials": Lever(1, 1000),
    "task.budget.money": Lever(0.01, 1_000_000, whole=False),
    "task.full": Lever(choices=(False, True)),
    "task.target": Lever(choices=("local", "none")),
    "profile.domain": Lever(choices=("general", "medical", "legal", "code", "math")),
    "profile.goal": Lever(choices=("chat", "classification", "extraction", "reasoning")),
    "data.splits.train": Lever(1, 10_000_000),
    "data.splits.validation": Lever(1, 1_000_000),
    "data.splits.test": Lever(1, 1_000_000),
    "data.characters.max": Lever(16, 1_000_000, whole=False),
    "data.answer_characters.p95": Lever(1, 1_000_000, whole=False),
    "tokens.rows.max": Lever(16, 131_072, whole=False),
    "tokens.answers.p95": Lever(1, 32_768, whole=False),
}
"""What a decision may be asked about, and within which bounds. Characters count until tokens are counted."""


def value_of(inputs: Inputs, fact: str) -> Any:
    """The value of a fact, or None where it is not known yet."""
    found: Any = inputs
    for word in fact.split("."):
        if isinstance(found, Mapping):
            found = found.get(word)
        elif isinstance(found, tuple) and word.isdigit():
            found = found[int(word)] if int(word) < len(found) else None
        else:
            found = getattr(found, word, None)
        if found is None:
            return None
    return found


def suppose(inputs: Inputs, fact: str, value: Any, *, trusted: bool = False) -> Inputs:
    """The inputs with one fact set otherwise.

    Args:
        fact: its place, as `hardware.devices.0.free_bytes` or `task.budget.hours`.
        value: as a JSON value.
        trusted: it is one that `LEVERS` allows: nothing is checked but its kind.

    Raises:
        InputError: when there is no such fact, or the value is of another kind.
    """
    words = fact.split(".")
    if words[0] not in ("task", "profile", "data", "hardware", "availability", "tokens", "measured"):
        raise InputError(*explain("decide.no_fact", fact=fact, facts=", ".join(LEVERS)))
    try:
        changed: Inputs = _set(inputs, words, value)
        section = getattr(changed, words[0])
        checked = changed if trusted else dataclasses.replace(changed, **{words[0]: _checked(section)})
    except (KeyError, IndexError, AttributeError) as exc:
        raise InputError(*explain("decide.no_fact", fact=fact, facts=", ".join(LEVERS))) from exc
    except (TypeError, ValueError) as exc:  # pydantic's ValidationError is a ValueError
        like = repr(value_of(inputs, fact))
        raise InputError(*explain("decide.bad_fact", fact=fact, value=value, like=like)) from exc
    return _consistent(checked, fact)


_ADAPTERS: dict[str, TypeAdapter[Any]] = {}


def _checked(section: Any) -> Any:
    """A section of the inputs with every value of its kind."""
    from pydantic import TypeAdapter

    kind = type(section)
    if kind.__name__ not in _ADAPTERS:
        _ADAPTERS[kind.__name__] = TypeAdapter(kind)
    return _ADAPTERS[kind.__name__].validate_python(section)


def _set(node: Any, words: list[str], value: Any) -> Any:
    """A copy with the leaf set; the leaf is made to the kind of what stands there."""
    if not words:
        return _as(node, value)
    word, rest = words[0], words[1:]
    if isinstance(node, Mapping):
        return {**node, word: _set(node[word], rest, value)}
    if isinstance(node, tuple):
        place = int(word)
        return (*node[:place], _set(node[place], rest, value), *node[place + 1 :])
    if not dataclasses.is_dataclass(node) or isinstance(node, type):
        raise KeyError(word)
    return dataclasses.replace(node, **{word: _set(getattr(node, word), rest, value)})


def _as(old: Any, value: Any) -> Any:
    """The value as the kind of the old one.

    Raises:
        KeyError: when what stands there is no single fact. TypeError, ValueError: when the kinds differ.
    """
    if dataclasses.is_dataclass(old) or isinstance(old, Mapping | tuple):
        raise KeyError
    if isinstance(old, bool) != isinstance(value, bool):
        raise TypeError
    if isinstance(old, int) and not isinstance(old, bool):
        if float(value) != int(value):
            raise TypeError
        return int(value)
    if isinstance(old, float):
        return float(value)
    if isinstance(old, str) and not isinstance(value, str):
        raise TypeError
    return value


def _consistent(inputs: Inputs, fact: str) -> Inputs:
    """A device holds at least what is free on it."""
    if not fact.startswith("hardware.devices."):
        return inputs
    devices = tuple(
        dataclasses.replace(d, memory_bytes=max(d.memory_bytes, d.free_bytes)) for d in inputs.hardware.devices
    )
    return dataclasses.replace(inputs, hardware=dataclasses.replace(inputs.hardware, devices=devices))
