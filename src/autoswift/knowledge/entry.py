"""What one run taught, as values: each field has a kind and a bound, so that a row from elsewhere can be checked.

Only words of fixed lists, counts, settings and scores have a place: no sentence, no data, no path, no user's name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from autoswift.errors import InputError
from autoswift.run.files import digest, dumps, plain
from autoswift.tables import explain

SCHEMA = 2
"""Shape of an entry. 1 had no prior, no errors of the scores, no curves and no verdict."""
CURVE_POINTS = 32
"""Points kept of a learning curve: enough to redraw it and to fit a power law, 32 × 4 numbers a trial."""
MOST_TRIALS = 512
"""Trials of a run: far above any budget that one run has had, and it bounds what an import may bring."""
PARAMETER = r"^[a-z][a-z0-9_]{0,39}$"

_CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

Word = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{0,40}$")]
RunId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
ModelName = Annotated[str, StringConstraints(pattern=r"^([\w.-]{1,96}(/[\w.-]{1,96})?)?$")]
DeviceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 ()@.,+_:-]{0,80}$")]
Embedding = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]*={0,2}$", max_length=4096)]
Count = Annotated[int, Field(ge=0, le=10**15)]
Amount = Annotated[float, Field(ge=0, le=1e15)]
Number = Annotated[float, Field(ge=-1e15, le=1e15)]
Setting = (
    Annotated[bool, Field(strict=True)]
    | Annotated[int, Field(ge=-(10**12), le=10**12)]
    | Number
    | Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.+-]{0,40}$")]
)
Settings = Annotated[
    dict[Annotated[str, StringConstraints(pattern=PARAMETER)], Setting],
    Field(max_length=32),
]
CurvePoint = tuple[Count, Number | None, Number | None, Number | None]
"""Step, training loss, validation negative log-likelihood, the task's metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """A task as words and counts; what is empty or 0 is not known.

    Attributes:
        rows: conversations. characters, answer_characters: mean length of a row and of an answer.
        tokens_mean: of a row. labels: distinct ones.
        model: its name at its hub, or its type for a folder of the user's. parameters: its weights.
        device: its name; devices: how many shared a training; memory_gib: of one.
        embedding: of the sentence: base64 of little-endian float16, unit length. encoder: what made it.
    """

    __pydantic_config__ = _CONFIG

    goal: Word
    language: Word
    domain: Word
    modality: Word = "text"
    rows: Count = 0
    characters: Amount = 0.0
    answer_characters: Amount = 0.0
    tokens_mean: Amount = 0.0
    turns_mean: Amount = 0.0
    labels: Count = 0
    model: ModelName = ""
    parameters: Count = 0
    method: Word = ""
    device: DeviceName = ""
    devices: Count = 0
    memory_gib: Amount = 0.0
    encoder: Word = ""
    embedding: Embedding = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """One trial.

    Attributes:
        prior: what that run's rules would have begun with, for that model and method: settings of different models
            are compared by their ratio to it.
        tokens: trained on. score: the metric on the validation set; stderr: its standard error.
        curve: thinned.
    """

    __pydantic_config__ = _CONFIG

    parameters: Settings
    prior: Settings = field(default_factory=dict)
    tokens: Count = 0
    score: Number | None = None
    stderr: Amount | None = None
    nll: Number | None = None
    status: Literal["finished", "pruned", "failed"] = "finished"
    symptom: Word = ""
    device_seconds: Amount = 0.0
    curve: Annotated[tuple[CurvePoint, ...], Field(max_length=CURVE_POINTS)] = ()


Verdict = Literal["", "better", "unclear", "worse", "vetoed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEntry:
    """What one run taught.

    Attributes:
        created, updated: unix seconds.
        best: the winner's parameters.
        metric: its name; base and tuned are its values on the test set before and after.
        low, high: of the interval of tuned - base.
        verdict: of the evaluation, or `vetoed` by the user; empty where there was none.
        device_seconds: that all trainings took, failed ones included.
    """

    __pydantic_config__ = _CONFIG

    run_id: RunId
    created: Amount
    updated: Amount = 0.0
    fingerprint: Fingerprint
    best: Settings = field(default_factory=dict)
    metric: Word = ""
    base: Number | None = None
    tuned: Number | None = None
    low: Number | None = None
    high: Number | None = None
    verdict: Verdict = ""
    trials: Annotated[tuple[TrialRow, ...], Field(max_length=MOST_TRIALS)] = ()
    device_seconds: Amount = 0.0


@cache
def _entry() -> TypeAdapter[RunEntry]:
    """Made when an entry is first read: a tenth of a second, which a plan without a memory does not pay."""
    return TypeAdapter(RunEntry)


def checked(entry: RunEntry) -> RunEntry:
    """The entry with every value of its kind and within its bound; numbers that are not finite are left out.

    Raises:
        InputError: naming the field that is not.
    """
    try:
        return parsed(dumps(entry))
    except ValueError as exc:
        raise InputError(*explain("knowledge.entry", run=str(entry.run_id)[:64], evidence=_first(exc))) from exc


def parsed(body: str) -> RunEntry:
    """An entry from its JSON.

    Raises:
        ValueError: when it is not one.
    """
    return _entry().validate_json(body)


def body_of(entry: RunEntry) -> str:
    """An entry's canonical JSON."""
    return json.dumps(plain(entry), ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def digest_of(entry: RunEntry) -> str:
    """SHA-256 over all that an entry says."""
    return digest(entry)


def _first(error: ValueError) -> str:
    """The first thing that is wrong, in one line, without the value: it may be long, or not ours to repeat."""
    if isinstance(error, ValidationError):
        one: Any = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(p) for p in one["loc"]) or "entry"
        return f"{place[:120]}: {one['msg'][:200]}"
    return str(error).splitlines()[0][:200]


first_fault = _first
