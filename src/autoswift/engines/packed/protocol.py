"""What the control process and the resident worker say to each other: one JSON object a line, each of a known kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from autoswift.run.files import plain

if TYPE_CHECKING:
    from pydantic import TypeAdapter

LONGEST_LINE = 64 * 2**20
"""Bytes: the answers of a whole validation set are some megabytes; more without a line's end is no protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Loads the base, once.

    Attributes:
        arguments: swift's own, by name: its model, template and data code read them.
        quant: nf4 or None. graphs: steps may be captured.
        max_trials: that share the device at most. memory_limit_gib: None leaves it to the device.
        validation: rows that are answered at a trial's end, with `max_new_tokens` and `generation_batch_size`.
    """

    model: Path
    model_type: str
    template: str
    torch_dtype: str
    quant: str | None
    device: str
    threads: int
    train: Path
    validation: Path
    max_length: int
    target_modules: str
    gradient_checkpointing: bool
    use_liger: bool
    graphs: bool
    max_trials: int
    max_new_tokens: int
    generation_batch_size: int
    optimizer: str
    arguments: Mapping[str, str]
    memory_limit_gib: float | None = None
    do: Literal["open"] = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Starts a trial.

    Attributes:
        settings: in force. folder: takes its checkpoints. from_checkpoint: that it goes on from.
        deadline: unix seconds at which it must have ended, its answers included, which take `evaluate_seconds`.
        evaluate_rows: validation rows that it answers.
    """

    trial: int
    attempt: int
    settings: Mapping[str, Any]
    folder: Path
    from_checkpoint: Path | None
    deadline: float | None
    evaluate_rows: int
    evaluate_seconds: float
    do: Literal["submit"] = "submit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The trial ends at its next step."""

    trial: int
    do: Literal["stop"] = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The trial's state is put on the disk now."""

    trial: int
    do: Literal["checkpoint"] = "checkpoint"


Command = Open | Submit | Stop | Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The base is loaded."""

    event: Literal["opened"]
    seconds: float = 0.0
    max_trials: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The base cannot be packed."""

    event: Literal["refused"]
    reason: str
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """So many trials fit now; those that no longer do wait in the worker."""

    event: Literal["capacity"]
    trials: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A trial ended badly; the worker goes on."""

    event: Literal["failed"]
    trial: int
    symptom: str
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A line about a trial, in the shape of the swift plug-in's channel."""

    event: Literal["started", "progress", "evaluated", "saved", "stopping", "warning", "finished"]
    trial: int
    time: float
    step: int = 0
    checkpoint: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    line: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A command that the worker could not carry out, of a trial where one is named; or its goodbye."""

    event: Literal["error", "closed"]
    text: str = ""
    trial: int | None = None


Message = Opened | Refused | Capacity | Failed | Said | Note


class Unreadable(ValueError):
    """A line that is not of the protocol: what sent it is not to be trusted with trials."""


@cache
def _adapter() -> TypeAdapter[Message]:
    from pydantic import Field, TypeAdapter

    return TypeAdapter(Annotated[Message, Field(discriminator="event")])


def encoded(command: Command) -> bytes:
    """A command as its line."""
    return json.dumps(plain(command), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def decoded(line: bytes) -> Message:
    """The message of a line.

    Raises:
        Unreadable: when it is none.
    """
    try:
        value = json.loads(line)
        return _adapter().validate_python(value | {"line": value} if isinstance(value, dict) else value)
    except ValueError as exc:  # pydantic's ValidationError and json's are both one
        raise Unreadable(f"{' '.join(str(exc).split())[:200]}: {line[:200].decode('utf-8', 'replace')}") from exc
