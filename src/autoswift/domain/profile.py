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
        methods: for each fact, what said so: option, rules, examples, rules+examples, model, data, default.
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
    methods: dict[str, str] = field(default_factory=dict)


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
class RowExample:
    """One row that a step of the cleaning removed, changed or marked; personal data is blotted out.

    Attributes:
        file, line, row: where it stands, as in `Problem`.
        before: the text as it came. after: as it went on; empty where the row was removed or only marked.
    """

    file: str
    line: int | None = None
    row: int | None = None
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """A bar of a histogram: `count` rows from `low` (included) to `high` (not included; the last bar includes it)."""

    low: float
    high: float
    count: int


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
        tidied: rows whose text was changed, by what was done. redacted: pieces of personal data masked, by kind.
        examples: up to three rows for each reason, kind and change, under its name.
        samples: the first three rows kept, as they will be trained on: file, line, row and the words of `first`.
        tokens: length of a row in tokens, estimated from its characters: the model's tokenizer counts again later.
        histogram: of the lengths in characters. token_histogram: of the estimated lengths in tokens.
        labels: rows by label, the most frequent first; at most a hundred.
        label_splits: rows by label in each split.
        near: near-duplicates: `groups` of more than one row, `rows` in them, `largest` group.
        own_sets: rows of the user's own test and validation sets, of them `overlap_<set>` that train also had, and
            `removed_from_train`.
        encoding: of the first file; empty where there is none.
        row_files: split, `removed` and `manifest` to the files that hold them; empty when none were kept.
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
    tidied: dict[str, int] = field(default_factory=dict)
    redacted: dict[str, int] = field(default_factory=dict)
    examples: dict[str, tuple[RowExample, ...]] = field(default_factory=dict)
    samples: tuple[dict[str, Any], ...] = ()
    tokens: LengthStats | None = None
    histogram: tuple[Bin, ...] = ()
    token_histogram: tuple[Bin, ...] = ()
    labels: dict[str, int] = field(default_factory=dict)
    label_splits: dict[str, dict[str, int]] = field(default_factory=dict)
    near: dict[str, int] = field(default_factory=dict)
    own_sets: dict[str, int] = field(default_factory=dict)
    encoding: str = ""
    row_files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device that can train.

    Attributes:
        kind: cuda npu mps cpu.
        memory_bytes: its whole memory. free_bytes: what nothing else uses now.
        bf16: computes bfloat16 natively and fast.
        tflops: sustained dense rate that training reaches, from the table or measured; 0 when unknown.
        bandwidth: GB/s of its memory, from the table or measured; 0 when unknown.
        launch_seconds: measured cost of giving it one small operation; 0 when not measured.
        vendor: nvidia, amd, huawei, apple, or empty.
        unified: its memory is the host's.
        mig: the size of the slice (`1g.10gb`) when it is one, else empty.
        driver: the driver's version. runtime: what it supports (CUDA, CANN, ROCm, macOS).
        processes: who else computes on it: pid, name (may be empty), bytes.
        power_limit_watts: 0 when unknown.
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
    bandwidth: float = 0.0
    launch_seconds: float = 0.0
    vendor: str = ""
    uuid: str = ""
    unified: bool = False
    mig: str = ""
    driver: str = ""
    runtime: str = ""
    processes: tuple[dict[str, Any], ...] = ()
    power_limit_watts: float = 0.0
    ecc: bool | None = None
    persistence: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareProfile:
    """The machine.

    Attributes:
        devices: those that training may use, best first; always at least the CPU.
        disk_free_bytes: where the run will write.
        network: hub name to whether it answered; empty when not asked.
        notes: what is unusual and bears on the plan.
        packages: of the training environment, those that settings depend on; None where it was not looked at.
        links: pair of device numbers (`0-1`) to nvlink, p2p (through one PCIe switch) or host.
        cpu_flags: instruction sets that bear on speed: avx2 avx512f avx512_bf16 amx_bf16 asimd bf16 …
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
    links: dict[str, str] = field(default_factory=dict)
    cpu_flags: tuple[str, ...] = ()
    packages: tuple[str, ...] | None = None

    @property
    def device(self) -> Device:
        """The device that a single-device run uses."""
        return self.devices[0]
