"""Data that the user did not bring, as a value: what was asked for, where it comes from, and its first records."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from autoswift.domain.dataset import SCHEMES, Hub
from autoswift.domain.decision import Decision
from autoswift.domain.protocols import Embedder
from autoswift.domain.task import Task
from autoswift.errors import DataError, InputError
from autoswift.tables import explain, table
from autoswift.understand.find import Candidate, registered
from autoswift.understand.reader import open_source

Choose = Callable[[Sequence[Candidate]], Candidate | None]
"""Shows the candidates, best first, and returns the user's; None when they want none of them."""
SAMPLES = 3
SHOWN = 500
"""Characters of a text that a sample shows."""
_REFERENCE = re.compile(r"(hf|ms)://([^\s:#?]+)(?::([^\s#?]+))?", re.IGNORECASE)


SETTINGS = ("data_source", "teacher_rows", "teacher_requests", "teacher_tokens")
"""What `--set` takes here: auto, hub or teacher; examples wanted; questions and tokens that a teacher may cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """What the user said about where the data shall come from.

    Attributes:
        data: hf://owner/name[:subset], ms://…, a name that ms-swift has registered; None when nothing was said.
        prefer: auto, hub or teacher.
        language: of what people read. seed: of the teacher's draws.
        rows: examples that a teacher shall make; None takes the table's number.
        seconds: wall-clock that a teacher may take. requests, tokens: its other limits; None takes the table's.
        embedder: compares meanings in the search; without one words do.
    """

    data: str | None = None
    prefer: Literal["auto", "hub", "teacher"] = "auto"
    language: str = "en"
    seed: int = 0
    rows: int | None = None
    seconds: float = 3600.0
    requests: int | None = None
    tokens: int | None = None
    embedder: Embedder | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcedData:
    """Data, and where it comes from. A JSON value by `run.files.plain`.

    Attributes:
        paths: files to read, in order.
        kind: hub or teacher. origin: `hf://…`, `ms://…` or `teacher://model`.
        licence: empty when unknown. commercial: whether it allows commercial use.
        samples: the first records, long texts cut.
        thrown_away: what a teacher made and what was not kept, by reason.
        candidates: what was to choose from, the chosen one first.
        decisions: one, `data`.
        words: the reasons in thrown_away, or for files left out, in the reader's language.
        details: of a hub: address, revision, hashes, files left out, the search; of a teacher: its whole report.
    """

    paths: tuple[str, ...]
    kind: Literal["hub", "teacher"]
    origin: str
    licence: str = ""
    commercial: Literal["yes", "no", "unknown"] = "unknown"
    samples: tuple[dict[str, Any], ...] = ()
    thrown_away: dict[str, int] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()
    decisions: tuple[Decision, ...] = ()
    words: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def is_dataset_name(data: str) -> bool:
    """Whether what the user gave as data names a data set: by its scheme, or registered and no path here."""
    return bool(_REFERENCE.fullmatch(data)) or (not Path(data).expanduser().exists() and registered(data) is not None)


def split_reference(data: str) -> tuple[Hub, str, str] | None:
    """`hf://owner/name:subset` as hub, id and subset; None when it is no reference."""
    match = _REFERENCE.fullmatch(data)
    return (SCHEMES[match[1].lower()], match[2].rstrip("/"), match[3] or "") if match else None


def samples(paths: Sequence[str], language: str) -> tuple[dict[str, Any], ...]:
    """The first records as they stand in the files, long texts cut; empty where the reader will say why it cannot."""
    found: list[dict[str, Any]] = []
    try:
        for record in open_source(list(paths), language=language):
            found.append(cut(record.value if isinstance(record.value, dict) else {"text": record.value}))
            if len(found) == SAMPLES:
                break
    except DataError:
        return ()
    return tuple(found)


def cut(value: Any) -> Any:
    """A JSON value with its long texts and lists cut, to be shown."""
    if isinstance(value, str):
        return value if len(value) <= SHOWN else value[:SHOWN] + "…"
    if isinstance(value, dict):
        return {str(k): cut(v) for k, v in list(value.items())[:20]}
    if isinstance(value, list | tuple):
        return [cut(v) for v in value[:20]]
    return value if isinstance(value, int | float | bool) or value is None else str(value)[:SHOWN]


def options_of(task: Task, embedder: Embedder | None = None) -> SourceOptions:
    """What a task says about where its data shall come from; settings by `--set`, the time from its budget.

    Raises:
        InputError: when a setting is none that there is.
    """
    said = task.options
    prefer = str(said.get("data_source", "auto"))
    if prefer not in ("auto", "hub", "teacher"):
        raise InputError(*explain("sourcing.bad_source", value=prefer))
    counts: dict[str, int | None] = {"teacher_rows": None, "teacher_requests": None, "teacher_tokens": None}
    for name in counts:
        value = said.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InputError(*explain("sourcing.bad_count", name=name, value=value))
        counts[name] = value if isinstance(value, int) else None
    return SourceOptions(
        data=task.data,
        prefer="hub" if prefer == "hub" else "teacher" if prefer == "teacher" else "auto",
        language=task.language,
        seed=task.seed,
        rows=counts["teacher_rows"],
        requests=counts["teacher_requests"],
        tokens=counts["teacher_tokens"],
        seconds=task.budget.seconds * table("teacher")["defaults"]["share_of_time"],
        embedder=embedder,
    )
