"""What rooms ask of each other. Implemented elsewhere, handed in by the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from autoswift.domain.artifact import Artifact
from autoswift.domain.budget import Budget
from autoswift.domain.dataset import DatasetCard, Downloaded, Hub, SearchResult, Selection
from autoswift.domain.decision import Decision
from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.trial import Outcome, Proposal, Trial

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EventKind = Literal["started", "progress", "evaluated", "warning", "finished", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What a session reports about one trial.

    Attributes:
        metrics: numbers; None stands for a value that was not finite.
        artifact: of `finished`.
        symptom, evidence: of `failed` and `warning`; evidence holds the words or figures seen.
    """

    kind: EventKind
    trial: int
    time: float
    step: int = 0
    metrics: dict[str, float | None] = field(default_factory=dict)
    artifact: Artifact | None = None
    symptom: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Session(Protocol):
    """A device with an engine on it."""

    def capacity(self) -> int:
        """How many trials may run at once, now."""
        ...

    def submit(self, trial: Trial, from_checkpoint: Path | None = None) -> None:
        """Starts a trial, from the base or from a checkpoint."""
        ...

    def events(self, timeout: float) -> list[Event]:
        """What happened since the last call; waits up to `timeout` seconds for the first."""
        ...

    def stop(self, trial: int) -> None:
        """Asks a trial to end at its next step, keeping its checkpoint."""
        ...

    def save(self, trial: int, path: Path) -> Artifact:
        """Copies the trial's newest checkpoint to `path`."""
        ...

    def close(self) -> None:
        """Ends everything that runs in it."""
        ...


@runtime_checkable
class TrainEngine(Protocol):
    """Carries out training."""

    def open(self, plan: Plan, device: Device) -> Session:
        """A session on one device."""
        ...


Verdict = Literal["go", "stop"]


class Searcher(Protocol):
    """Proposes, prunes, stops: one brain for every executor."""

    def ask(self, n: int) -> list[Proposal]:
        """Up to n proposals."""
        ...

    def tell(self, trial: int, step: int, metrics: Mapping[str, float | None]) -> Verdict:
        """Takes an intermediate report."""
        ...

    def done(self, trial: int, outcome: Outcome) -> None:
        """Takes the end of a trial."""
        ...

    def finished(self) -> str | None:
        """Why the search is over, or None."""
        ...


class Journal(Protocol):
    """Where the truth about trials is kept; each call is on the disk when it returns."""

    def trial(self, event: str, number: int, **fields: Any) -> None:
        """Appends to trials.jsonl (number 0, the final training, to training.jsonl)."""
        ...

    def event(self, kind: str, **fields: Any) -> None:
        """Appends to events.jsonl."""
        ...

    def trials(self) -> Sequence[Mapping[str, Any]]:
        """Everything in both so far."""
        ...

    def revise(self, plan: Plan) -> None:
        """Writes a revision of the plan that recovery made, in place of one of that number that nothing was done by."""
        ...


class Executor(Protocol):
    """Where trials run."""

    def run(
        self, searcher: Searcher, engine: TrainEngine, plan: Plan, budget: Budget, journal: Journal
    ) -> SearchOutcome:
        """Runs the search to its end."""
        ...

    def train(self, proposal: Proposal, tokens: int, engine: TrainEngine, plan: Plan, journal: Journal) -> Outcome:
        """One training outside the search (trial number 0), with the same watch and remedies."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOutcome:
    """What a search ended with; `best` is None when no trial finished."""

    best: int | None
    reason: str
    device_seconds: float
    outcomes: dict[int, Outcome]


class ServeEngine(Protocol):
    """Serves an artefact behind an OpenAI-compatible API."""

    def command(self, artifact: Artifact, settings: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
        """argv and environment of the server."""
        ...

    def health(self, url: str) -> bool:
        """Whether the server at that address answers."""
        ...

    def limits(self) -> Mapping[str, Any]:
        """What it can hold: formats, context, LoRA rank."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Symptom:
    """What went wrong, by its name in symptoms.yaml, with what was seen.

    Attributes:
        phase: of the training when it went wrong, where that matters: load, first_step, long_batch, evaluation, save.
    """

    name: str
    evidence: str
    transient: bool = False
    phase: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """A change of settings (by name) as the answer to a symptom.

    Attributes:
        changes: settings of the next attempt. before: the same settings as they were.
        names: of the remedies, by their names in symptoms.yaml, in order.
        standing: changes that every later trial takes over, in the words of the plan's settings.
        downgrades: those of `names` that may cost quality.
        wait_seconds: before the next attempt; no device is charged for them.
    """

    symptom: Symptom
    changes: dict[str, Any]
    decision: Decision
    before: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    standing: dict[str, Any] = field(default_factory=dict)
    downgrades: tuple[str, ...] = ()
    wait_seconds: float = 0.0


class Embedder(Protocol):
    """Turns texts into vectors whose cosine says how near their meanings are, across languages."""

    def embed(self, texts: list[str], /) -> NDArray[np.float32]:
        """One row a text: (texts, dimensions)."""
        ...


class DatasetHub(Protocol):
    """The hubs that data sets come from."""

    def answering(self) -> Sequence[Hub]:
        """The hubs that can be asked now."""
        ...

    def search(self, words: Sequence[str], limit: int) -> SearchResult:
        """What each hub offers for each word, each data set once; never raises for a hub that fails."""
        ...

    def card(self, hub: Hub, dataset_id: str) -> DatasetCard:
        """A data set with its files."""
        ...

    def select(self, card: DatasetCard, subset: str, splits: Sequence[str], largest: int) -> Selection:
        """The files of one subset that hold examples to train on, of at most `largest` bytes together."""
        ...

    def download(self, card: DatasetCard, selection: Selection, advance: Callable[[int], None]) -> Downloaded:
        """Brings the files, each hash checked; `advance` is told bytes as they come."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a teacher is asked.

    Attributes:
        kind: instruct, answer or judge: what the question is for.
        messages: role and content.
        schema: JSON schema that the answer shall follow, or None for free text.
        max_tokens: of the answer.
    """

    kind: str
    messages: tuple[Mapping[str, str], ...]
    schema: Mapping[str, Any] | None = None
    max_tokens: int = 512
    temperature: float = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a teacher said.

    Attributes:
        finish: why it ended: stop, length, or another word of the server.
        tokens: read and written, as the server counts them, else estimated.
    """

    text: str
    finish: str = "stop"
    tokens: int = 0


class Teacher(Protocol):
    """A model behind an OpenAI-compatible endpoint that makes examples. What it says is data, nothing else.

    Attributes:
        model: its name. host: where it is asked, without credentials.
    """

    model: str
    host: str

    def ask(self, question: Question) -> Reply:
        """One answer; tries again by itself where that helps.

        Raises:
            InputError: when it refuses all questions (key, model name).
            HubUnreachable: when it does not answer.
        """
        ...

    def close(self) -> None:
        """Ends what is under way."""
        ...
