"""What a run makes: files that are proved, evaluations, deployments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["adapter", "checkpoint", "merged", "gguf", "base", "report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file or folder that a stage made.

    Attributes:
        path: relative to the run folder where it lies inside it.
        hashes: file name to SHA-256.
        made_by: the step.
        proved_by: each post-check that it passed, with what was measured.
    """

    path: str
    kind: Kind
    bytes: int = 0
    hashes: dict[str, str] = field(default_factory=dict)
    made_by: str = ""
    proved_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One figure with its interval at the given confidence; low and high are None without one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One model on one suite."""

    model: str
    suite: str
    rows: int
    scores: dict[str, Score]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A served artefact.

    Attributes:
        state: starting, running, failed, stopped.
        address: OpenAI-compatible base address, ending in /v1.
    """

    artifact: str
    engine: str
    address: str
    state: Literal["starting", "running", "failed", "stopped"]
    model_name: str
    pid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a finished step leaves behind (a JSON value each)."""

    value: Any = None
    artifacts: tuple[Artifact, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
