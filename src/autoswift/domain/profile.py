"""What was found out about the task, the data and the machine, each fact with its source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warn", "flag"]
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskProfile:
    """What the sentence asks for; words as in CONTRACTS: language, domain, modality, goal, deploy.

    Attributes:
        evidence: for each fact, the words of the sentence (or of the data) that it rests on.
        confidence: for each fact, 0 to 1.
        assumptions: what was assumed because the sentence does not say it.
    """

    text: str
    language: str
    domain: str = "general"
    modality: str = "text"
    goal: str = "chat"
    deploy: str = "none"
    hardware: tuple[str, ...] = ()
    constraints: dict[str, str] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    evidence: dict[str, str] = field(default_factory=dict)
    confidence: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One finding about a data file; `line` counts from 1 in the file, `row` from 1 among its records."""

    kind: str
    severity: Severity
    message: str
    fix: str = ""
    file: str = ""
    line: int | None = None
    row: int | None = None
    column: str | None = None
    member: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthStats:
    """Of one quantity over the rows: mean, median, 95th percentile, largest, sum."""

    mean: float
    p50: float
    p95: float
    max: float
    total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DataProfile:
    """What a data file holds, after cleaning.

    Attributes:
        task: sft dpo kto pretrain classification embedding reranking.
        conversations: rows kept.
        splits: rows in train, validation and test.
        characters: length of a row in characters; tokens follow once a tokenizer is known.
        answer_characters: length of the answers in characters.
        removed: rows removed, by reason. flagged: rows kept but marked, by kind.
        first: the first row in the words of CONTRACTS.
        sha256: of the file as it was read.
    """

    path: str
    sha256: str
    format: str
    task: str
    language: str
    domain: str
    modality: str
    rows: int
    conversations: int
    turns_mean: float
    splits: dict[str, int]
    characters: LengthStats
    answer_characters: LengthStats
    cjk_share: float = 0.0
    first: dict[str, Any] = field(default_factory=dict)
    roles: dict[str, int] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
    flagged: dict[str, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device that can train.

    Attributes:
        kind: cuda npu mps cpu.
        memory_bytes: its whole memory. free_bytes: what nothing else uses now.
        bf16: computes bfloat16 natively and fast.
        tflops: sustained dense rate that training reaches, from the table or measured; 0 when unknown.
    """

    kind: Literal["cuda", "npu", "mps", "cpu"]
    name: str
    index: int = 0
    memory_bytes: int = 0
    free_bytes: int = 0
    bf16: bool = False
    capability: str = ""
    tflops: float = 0.0
    tflops_source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareProfile:
    """The machine.

    Attributes:
        devices: those that training may use, best first; always at least the CPU.
        disk_free_bytes: where the run will write.
        network: hub name to whether it answered; empty when not asked.
        notes: what is unusual and bears on the plan.
    """

    devices: tuple[Device, ...]
    cpu_name: str
    cpu_cores: int
    memory_bytes: int
    memory_free_bytes: int
    disk_free_bytes: int
    platform: str
    network: dict[str, bool] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def device(self) -> Device:
        """The device that a single-device run uses."""
        return self.devices[0]
