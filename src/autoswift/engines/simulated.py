"""Learning curves instead of training: a real engine for tests, dry runs and benchmarks, never for a result.

Two landscapes: a formula (`Landscape`), and recorded curves of real trainings (`TableLandscape`). Time is simulated:
events carry the seconds of a fake clock and are ready at once. With `time_scale` the same events come on the real
clock, each simulated second taking so many real ones, so that the cost of everything around a trial can be measured.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from autoswift.domain.artifact import Artifact
from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Event
from autoswift.domain.trial import Trial
from autoswift.errors import StageFailed
from autoswift.search.configuration import settings_in_force
from autoswift.tables import explain

if TYPE_CHECKING:
    from autoswift.engines.curves import CurveTable

Faults = tuple[tuple[int, int, str], ...]
"""(trial, attempt, symptom): with which symptom an attempt fails, in its middle."""


class Ground(Protocol):
    """What the curves look like and how long a step takes. None is a value that is not finite."""

    @property
    def faults(self) -> Faults:
        """Attempts that fail."""
        ...

    def loss(self, settings: Mapping[str, Any], tokens: float, noise: random.Random) -> float | None:
        """Training loss of a step, after so many tokens."""
        ...

    def nll(self, settings: Mapping[str, Any], tokens: float) -> float | None:
        """Validation loss of a trial that ends after so many tokens, its schedule complete."""
        ...

    def seconds(self, settings: Mapping[str, Any]) -> float:
        """Of one step."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """A formula: the loss falls as a power of the tokens (Kaplan et al. 2020) towards a floor.

    The floor is a parabola in the logarithm of the learning rate; rates far above the best one diverge.

    Attributes:
        best_rate: learning rate with the lowest floor.
        diverges_above: multiple of the best rate from which on the loss grows.
        noise: standard deviation of one step's loss.
        faults: (trial, attempt, symptom) of the attempts that fail.
        step_seconds: simulated time of a step.
    """

    best_rate: float = 1e-3
    diverges_above: float = 30.0
    noise: float = 0.02
    faults: Faults = ()
    step_seconds: float = 1.0

    def loss(self, settings: Mapping[str, Any], tokens: float, noise: random.Random) -> float | None:
        """The curve with noise."""
        return self._curve(settings, tokens) + noise.gauss(0, self.noise)

    def nll(self, settings: Mapping[str, Any], tokens: float) -> float | None:
        """The curve without."""
        return self._curve(settings, tokens)

    def seconds(self, settings: Mapping[str, Any]) -> float:
        """As given."""
        del settings
        return self.step_seconds

    def _curve(self, settings: Mapping[str, Any], tokens: float) -> float:
        ratio = settings["learning_rate"] / self.best_rate
        if ratio > self.diverges_above:
            return 3.0 + tokens / 500
        floor = 1.0 + 0.15 * math.log10(ratio) ** 2
        return float(floor + 2.0 * (1 + tokens / 1000) ** -0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableLandscape:
    """Recorded curves of one corpus. A proposal is snapped to the nearest recorded configuration.

    Attributes:
        table: of `autoswift.engines.curves`. corpus: one of its corpora.
        seed: which recorded repetition is seen; None is their mean.
        tokens_scale: recorded tokens a token of the plan: a plan for a larger data set replays the same epochs with
            `table.epoch_tokens / tokens of the plan's epoch`.
        faults: (trial, attempt, symptom) of the attempts that fail.
    """

    table: CurveTable
    corpus: str
    seed: int | None = 0
    tokens_scale: float = 1.0
    faults: Faults = ()

    def loss(self, settings: Mapping[str, Any], tokens: float, noise: random.Random) -> float | None:
        """The recorded training loss, which has its own noise."""
        del noise
        return self.table.curve(self.corpus, self._row(settings), self.seed, "train").at(tokens * self.tokens_scale)

    def nll(self, settings: Mapping[str, Any], tokens: float) -> float | None:
        """The recorded validation loss of the averaged weights; docs/en/curves.md says how near that is."""
        return self.table.curve(self.corpus, self._row(settings), self.seed, "averaged").at(tokens * self.tokens_scale)

    def seconds(self, settings: Mapping[str, Any]) -> float:
        """As the recorder measured a step of a trial alone."""
        return self.table.step_seconds(batch_of(settings)) / self.tokens_scale

    def _row(self, settings: Mapping[str, Any]) -> int:
        asked = {
            "learning_rate": settings["learning_rate"],
            "rank": settings["lora_rank"],
            "batch": batch_of(settings),
            "warmup_ratio": settings["warmup_ratio"],
        }
        return self.table.nearest(asked).number


def batch_of(settings: Mapping[str, Any]) -> int:
    """The effective batch of settings in force."""
    return int(settings["per_device_train_batch_size"]) * int(settings["gradient_accumulation_steps"])


class SimulatedEngine:
    """A `TrainEngine` without a device.

    Args:
        folder: takes the checkpoints, which hold nothing but how far they are.
        landscape: a formula by default; as `arguments` gives it where it comes from another process.
        capacity: trials at once; they run side by side, each at its own pace.
        time_scale: real seconds a simulated second; None: no waiting, and deadlines (real times) are not looked at.
        own_clock: without waiting, deadlines are times of the engine's own clock; the run's clock must go by `now`.
    """

    def __init__(
        self,
        folder: Path | str,
        landscape: Ground | Mapping[str, Any] | None = None,
        capacity: int = 1,
        time_scale: float | None = None,
        own_clock: bool = False,
    ) -> None:
        self.folder, self._capacity = Path(folder), capacity
        self.landscape = _ground(landscape) if isinstance(landscape, Mapping) else landscape or Landscape()
        self.time_scale, self.own_clock = time_scale, own_clock
        self.started: list[Trial] = []
        self.clock = 0.0

    def arguments(self) -> dict[str, Any]:
        """What another process makes the same engine from, as JSON values; each trial there has a session of its own.

        Raises:
            StageFailed: when its landscape is neither a formula nor a table that was read from a file.
        """
        land = self.landscape
        if isinstance(land, Landscape):
            told: dict[str, Any] = {one.name: getattr(land, one.name) for one in fields(land)}
        elif isinstance(land, TableLandscape) and land.table.path is not None:
            told = {one.name: getattr(land, one.name) for one in fields(land) if one.name != "table"}
            told["table"] = str(land.table.path)
        else:
            raise StageFailed(*explain("ray.engine", engine=type(land).__name__))
        return {"folder": str(self.folder), "landscape": told, "time_scale": self.time_scale}

    def now(self) -> float:
        """Simulated seconds over all sessions: those of the newest event."""
        return self.clock

    def open(self, plan: Plan, device: Device) -> SimulatedSession:
        """A session."""
        del device
        return SimulatedSession(self, plan, self._capacity)


@dataclass(slots=True)
class _Lane:
    """One running trial: what is still to come of it."""

    trial: Trial
    settings: dict[str, Any]
    first: int
    coming: deque[Event] = field(default_factory=deque)
    step: int = 0


class SimulatedSession:
    """Up to `capacity` trials, each a queue of events that are already known.

    Attributes:
        clock: simulated seconds since the session began, those of the newest event.
    """

    def __init__(self, engine: SimulatedEngine, plan: Plan, capacity: int) -> None:
        self.engine, self.plan, self._capacity = engine, plan, capacity
        self.lanes: dict[int, _Lane] = {}
        self.clock = engine.clock
        self._begin = time.time()

    def capacity(self) -> int:
        """As given."""
        return self._capacity

    @property
    def time_scale(self) -> float:
        """Real seconds a simulated second: so long a pause really is."""
        return self.engine.time_scale or 0.0

    def submit(self, trial: Trial, from_checkpoint: Path | None = None) -> None:
        """Computes the whole trial, from the checkpoint's tokens on.

        Raises:
            StageFailed: when it is full.
        """
        if len(self.lanes) >= self._capacity:
            raise StageFailed(*explain("engine.full", capacity=self._capacity))
        if self.engine.time_scale is not None:
            self.clock = max(self.clock, self._now())
        settings = settings_in_force(self.plan, trial)
        lane = _Lane(trial, settings, _steps_done(self.engine.folder / from_checkpoint if from_checkpoint else None))
        lane.step = lane.first
        self.engine.started.append(trial)
        lane.coming.extend(self._events(lane))
        self.lanes[trial.number] = lane

    def events(self, timeout: float) -> list[Event]:
        """What happens next: the earliest events of all running trials; on the real clock what has happened."""
        if not self.lanes:
            return []
        if self.engine.time_scale is None:
            if self.engine.own_clock:
                self._end_at_deadlines()
            return self._until(min(lane.coming[0].time for lane in self.lanes.values()))
        self._watch_deadlines()
        due = min(lane.coming[0].time for lane in self.lanes.values())
        time.sleep(min(max(timeout, 0.0), max(0.0, due - time.time())))
        return self._until(time.time())

    def stop(self, trial: int) -> None:
        """The trial ends after the step it is at, with what it has reached."""
        lane = self.lanes.get(trial)
        if lane is not None and len(lane.coming) > 2:
            now = self._time(self.clock) if self.engine.time_scale is None else time.time()
            lane.coming = deque(self._end(lane, lane.step, now))

    def save(self, trial: int, path: Path) -> Artifact:
        """Copies what a checkpoint holds: the trial's last step."""
        kept = self.engine.folder / "trials" / str(trial)
        newest = max(kept.glob("attempt-*/simulated.json"), key=lambda p: p.stat().st_mtime, default=None)
        return self._checkpoint(trial, path, _steps_done(newest.parent if newest else None))

    def close(self) -> None:
        """Forgets what runs."""
        self.lanes.clear()

    def _until(self, end: float) -> list[Event]:
        found: list[Event] = []
        for number, lane in list(self.lanes.items()):
            while lane.coming and lane.coming[0].time <= end:
                event = lane.coming.popleft()
                lane.step = max(lane.step, event.step)
                found.append(event)
            if not lane.coming:
                folder = self.engine.folder / "trials" / str(number) / f"attempt-{lane.trial.attempt}"
                self._checkpoint(number, folder, lane.step)
                del self.lanes[number]
        found.sort(key=lambda e: e.time)
        if found:
            self.clock = max(self.clock, self._simulated(found[-1].time))
            self.engine.clock = max(self.engine.clock, self.clock)
        return found

    def _end_at_deadlines(self) -> None:
        """A trial whose next step would end after its deadline ends at the deadline."""
        for lane in self.lanes.values():
            deadline = lane.trial.deadline
            if deadline is not None and len(lane.coming) > 2 and lane.coming[0].time > deadline:
                lane.coming = deque(self._end(lane, lane.step, max(deadline, self.clock)))

    def _watch_deadlines(self) -> None:
        now = time.time()
        for number, lane in self.lanes.items():
            if lane.trial.deadline is not None and now >= lane.trial.deadline:
                self.stop(number)

    def _events(self, lane: _Lane) -> list[Event]:
        trial, land, settings = lane.trial, self.engine.landscape, lane.settings
        fault = next((s for n, a, s in land.faults if (n, a) == (trial.number, trial.attempt)), "")
        steps = max(int(settings["max_steps"]), lane.first + 1)
        noise = random.Random(f"{self.plan.seed}/{trial.number}")  # noqa: S311 - a curve, no secret
        pace, begin, events = land.seconds(settings), self.clock, []
        events.append(self._make("started", trial, begin, lane.first))
        for step in range(lane.first + 1, steps + 1):
            at = begin + (step - lane.first) * pace
            if fault and step == lane.first + max(1, (steps - lane.first) // 2):
                return [*events, self._make("failed", trial, at, step, symptom=fault, evidence={"text": "injected"})]
            tokens = self._tokens(lane, step, steps)
            metrics = {
                "loss": land.loss(settings, tokens, noise),
                "tokens": float(int(tokens)),
                "tokens_per_second": trial.tokens / steps / pace,
            }
            events.append(self._make("progress", trial, at, step, metrics))
        return [*events, *self._end(lane, steps, events[-1].time)]

    def _end(self, lane: _Lane, step: int, when: float) -> list[Event]:
        """The last events of a trial that ends at a step: its answers and its end, or the failure it is."""
        trial = lane.trial
        steps = max(int(lane.settings["max_steps"]), lane.first + 1)
        tokens = self._tokens(lane, step, steps)
        nll = self.engine.landscape.nll(lane.settings, tokens)
        stamp: dict[str, Any] = {"trial": trial.number, "time": when, "step": step}
        if nll is None:
            return [Event(kind="failed", symptom="nan", evidence={"text": "the loss is not finite"}, **stamp)]
        metrics: dict[str, float | None] = {
            self.plan.search.metric: 100 * math.exp(-nll),
            "nll": nll,
            "latency_seconds": 0.1,
            "tokens": float(int(tokens)),
        }
        where = f"trials/{trial.number}/attempt-{trial.attempt}"
        artifact = self._checkpoint(trial.number, self.engine.folder / where, step)
        return [
            Event(kind="evaluated", metrics=metrics, **stamp),
            Event(kind="finished", metrics=metrics, artifact=artifact, evidence={"resume": where}, **stamp),
        ]

    @staticmethod
    def _tokens(lane: _Lane, step: int, steps: int) -> float:
        return lane.trial.tokens * step / steps

    @staticmethod
    def _checkpoint(trial: int, path: Path, step: int) -> Artifact:
        path.mkdir(parents=True, exist_ok=True)
        (path / "simulated.json").write_text(json.dumps({"step": step}), encoding="utf-8")
        return Artifact(path=str(path), kind="checkpoint", made_by=f"simulated trial {trial}")

    def _now(self) -> float:
        return self._simulated(time.time())

    def _simulated(self, stamp: float) -> float:
        scale = self.engine.time_scale
        return stamp if scale is None else (stamp - self._begin) / scale

    def _time(self, clock: float) -> float:
        """An event's time: simulated seconds, or unix seconds on the real clock."""
        scale = self.engine.time_scale
        return clock if scale is None else self._begin + clock * scale

    def _make(
        self,
        kind: Any,
        trial: Trial,
        clock: float,
        step: int,
        metrics: dict[str, float | None] | None = None,
        **fields: Any,
    ) -> Event:
        return Event(kind=kind, trial=trial.number, time=self._time(clock), step=step, metrics=metrics or {}, **fields)


def _ground(told: Mapping[str, Any]) -> Ground:
    """A landscape from its JSON value."""
    values = dict(told) | {"faults": tuple((int(n), int(a), str(s)) for n, a, s in told.get("faults", ()))}
    if "table" not in values:
        return Landscape(**values)
    from autoswift.engines.curves import CurveTable

    return TableLandscape(**values | {"table": CurveTable.load(Path(values["table"]))})


def _steps_done(checkpoint: Path | None) -> int:
    """How far a simulated checkpoint is; 0 without one."""
    if checkpoint is None or not (checkpoint / "simulated.json").is_file():
        return 0
    return int(json.loads((checkpoint / "simulated.json").read_text(encoding="utf-8"))["step"])
