"""A session whose trials run on the nodes of a Ray cluster."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoswift.domain.artifact import Artifact
from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Event, Journal, TrainEngine
from autoswift.domain.trial import Trial
from autoswift.run.files import dumps, write_atomic
from autoswift.search.executors.ray_cluster import Fatal, Lost, Message, Nodes, Placed, Result, start

AGENT = Path(__file__).parents[2] / "engines" / "children" / "session_agent.py"

OVERDUE_SECONDS = 120.0
"""An attempt that is silent so long after its deadline is given up. Engines keep deadlines themselves; this is for one
whose agent hangs or that the cluster never had room for."""


@dataclass(slots=True)
class _Attempt:
    trial: Trial
    stop_file: Path
    submitted: float
    placed: float | None = None


class RaySession:
    """Up to as many trials as the cluster's living nodes hold.

    Args:
        engine: the engine here, for what needs only the run folder.
        recipe: how an agent makes it again (`executors.ray.recipe`).
        journal: hears where trials run and when nodes come and go.
    """

    def __init__(
        self, engine: TrainEngine, recipe: Mapping[str, Any], plan: Plan, device: Device, journal: Journal
    ) -> None:
        self.engine, self.recipe, self.plan, self.device, self.journal = engine, recipe, plan, device, journal
        self.folder = Path((recipe.get("context") or recipe["arguments"])["folder"])
        self._running: dict[int, _Attempt] = {}
        self._stopping: set[int] = set()
        self._open: list[Result] = []
        self._queued: dict[int, float] = {}
        self._driver = start(plan, device, self.folder)
        self._capacity, self._most = 0, most(plan)
        self._count(self._driver.ready)

    def capacity(self) -> int:
        """How many trials the living nodes hold, no more than the user said; one while there is none: it waits."""
        return max(1, min(self._capacity, self._most))

    def submit(self, trial: Trial, from_checkpoint: Path | None = None) -> None:
        """Hands a trial to Ray Tune."""
        name = f"{trial.number}-{trial.attempt}"
        place = self.folder / "ray" / "trials"
        stop_file, spec = place / f"{name}.stop", place / f"{name}.json"
        stop_file.unlink(missing_ok=True)
        value = {
            "paths": [p for p in sys.path if p],
            "engine": self.recipe,
            "plan": self.plan,
            "device": self.device,
            "trial": trial,
            "checkpoint": from_checkpoint,
            "stop_file": stop_file,
        }
        write_atomic(spec, dumps(value))
        self._running[trial.number] = _Attempt(trial, stop_file, time.monotonic())
        self._queued.pop(trial.number, None)
        self._driver.send(
            do="trial",
            number=trial.number,
            attempt=trial.attempt,
            argv=[sys.executable, "-P", str(AGENT), str(spec)],
            stop_file=stop_file,
            log=self.folder / "logs" / f"ray-trial-{name}.log",
        )

    def events(self, timeout: float) -> list[Event]:
        """What happened since the last call; waits up to `timeout` seconds for the first.

        The call says that the events of the one before have been judged: their verdicts go to Ray now.

        Raises:
            ChildFailed: when the driver has ended.
        """
        self._answer()
        end = time.monotonic() + timeout
        while True:
            message = self._driver.receive(max(0.0, end - time.monotonic()))
            found = self._taken(message) if message is not None else self._overdue()
            if found or message is None:
                return found

    def stop(self, trial: int) -> None:
        """Asks a trial to end at its next step, keeping its checkpoint."""
        self._stopping.add(trial)
        one = self._running.get(trial)
        if one is not None and not any(r.number == trial for r in self._open):  # no report is waiting for its verdict
            one.stop_file.touch()

    def save(self, trial: int, path: Path) -> Artifact:
        """Copies the trial's newest checkpoint; it lies in the run folder."""
        session = self.engine.open(self.plan, self.device)
        try:
            return session.save(trial, path)
        finally:
            session.close()

    def close(self) -> None:
        """Ends what runs, and the cluster where it was made for this run."""
        self._answer()
        self._running.clear()
        self._driver.end()

    def _answer(self) -> None:
        for one in self._open:
            self._driver.send(do="verdict", batch=one.batch, stop=one.number in self._stopping)
        self._open.clear()

    def _taken(self, message: Message) -> list[Event]:
        """The events in a message of the driver."""
        if isinstance(message, Nodes):
            self._count(message)
        elif isinstance(message, Placed):
            self._place(message)
        elif isinstance(message, Result):
            self._open.append(message)
            if self._current(message):
                if any(e.kind in ("finished", "failed") for e in message.events):
                    self._forget(message.number)
                return message.events
            self._answer()  # of an attempt that was given up: nobody else judges it
        elif isinstance(message, Lost) and self._current(message):
            self._running[message.number].stop_file.touch()  # a node that was only cut off must not go on with it
            self._forget(message.number)
            return [self._failed(message.number, *_diagnosed(message))]
        elif isinstance(message, Fatal):
            self.journal.event("note", text=f"Ray: {message.error}: {message.words}", level="warn")
        return []

    def queued_seconds(self, trial: int) -> float:
        """How long the newest attempt of a trial waited, or waits, for a place on a node: no device was held for it."""
        one = self._running.get(trial)
        if one is None:
            return self._queued.get(trial, 0.0)
        return (one.placed or time.monotonic()) - one.submitted

    def _place(self, message: Placed) -> None:
        """An attempt has its device: from now on it costs."""
        self.journal.event("placed", trial=message.number, attempt=message.attempt, node=message.node)
        one = self._running.get(message.number)
        if one is not None and one.trial.attempt == message.attempt and one.placed is None:
            one.placed = time.monotonic()
            self.journal.trial("placed", message.number, attempt=message.attempt, node=message.node)

    def _current(self, message: Result | Lost) -> bool:
        one = self._running.get(message.number)
        return one is not None and one.trial.attempt == message.attempt

    def _count(self, nodes: Nodes) -> None:
        self._capacity = nodes.capacity
        self.journal.event("cluster", capacity=nodes.capacity, nodes=nodes.nodes)

    def _overdue(self) -> list[Event]:
        """Ends of attempts that should have ended by themselves long ago."""
        found = []
        for number, one in list(self._running.items()):
            if one.trial.deadline is not None and time.time() > one.trial.deadline + OVERDUE_SECONDS:
                self._driver.send(do="kill", number=number, attempt=one.trial.attempt)
                self._forget(number)
                found.append(self._failed(number, "hang", "no end was reported long after its deadline"))
        return found

    def _forget(self, number: int) -> None:
        self._queued[number] = self.queued_seconds(number)
        del self._running[number]
        self._stopping.discard(number)

    def _failed(self, number: int, symptom: str, words: str) -> Event:
        return Event(kind="failed", trial=number, time=time.time(), symptom=symptom, evidence={"text": words})


def most(plan: Plan) -> int:
    """Trials at once at most: what the user said; what the plan thought of this machine is no limit to a cluster."""
    said = any(d.name == "parallel_trials" and d.source == "user" for d in plan.decisions)
    return plan.search.lanes if said else sys.maxsize


def _diagnosed(lost: Lost) -> tuple[str, str]:
    """Symptom and evidence of an attempt that ended without a last event."""
    words = " ".join(lost.error.split())[:300]
    if "OutOfMemoryError" in lost.error or "low on memory" in lost.error:  # Ray ends workers of a node that is full
        return "host_out_of_memory", words
    return ("node_lost" if lost.node_lost else "unknown"), words
