"""Fault injection for whoever tests an engine, an executor or a whole run: documented in docs/en/faults.md.

Three parts, to be combined:

- `Fault` and `FaultyEngine`: what goes wrong in a training (out of memory, NaN, a kill, a hang, a full disk, any line
  of a log), for every `TrainEngine`, real ones included.
- `FileFaults`: the k-th write, fsync, rename or opening of a file below a folder fails, is slow, or kills the process.
- `autoswift.testing.hub.Hub` and `model_hub`: hubs on this machine that stall, lie and break off.

Production code knows nothing of it: a real training gets its faults from a plug-in of ms-swift that the wrapper puts
on its command line.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil

from autoswift.domain.artifact import Artifact
from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Event, Session, TrainEngine
from autoswift.domain.trial import Trial
from autoswift.testing.file_faults import FileFaults

__all__ = ["VARIABLE", "Fault", "FaultyEngine", "FaultySession", "FileFaults", "launcher"]

VARIABLE = "AUTOSWIFT_TESTING_FAULTS"
"""JSON of the faults of a run, read by `testing/children/fault_plugin.py` alone."""

PLUGIN = Path(__file__).parent / "children" / "fault_plugin.py"

Kind = Literal["out_of_memory", "nan", "kill", "hang", "error", "disk_full"]
Where = Literal["load", "step", "evaluation", "save"]

TEXTS: dict[str, str] = {
    "out_of_memory": "CUDA out of memory. Tried to allocate 2.00 GiB (injected)",
    "nan": "the loss is not a number (injected)",
    "kill": "the process was killed (injected)",
    "hang": "no step for too long (injected)",
    "disk_full": "No space left on device (injected)",
    "error": "injected",
}
SYMPTOMS: dict[str, str] = {
    "out_of_memory": "device_out_of_memory",
    "nan": "nan",
    "kill": "killed",
    "hang": "hang",
    "disk_full": "disk_full",
    "error": "unknown",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong once.

    Attributes:
        kind: `error` is any other: a RuntimeError with `text`.
        trial: its number; 0 is the final training; None: whichever comes there first (each attempt then).
        attempt: of the trial; None: every attempt.
        where: at the loading of the model, at a step, while answering, or in the middle of writing a checkpoint.
        step: with where = step: before this step is taken (from 1); with where = save: the first checkpoint from there.
        seconds: of a hang; it goes on afterwards. The default outlasts every test.
        text: of the error, as it stands in the log; by default that of the kind.
        symptom: by which a fault shows that is not carried out in a real process; by default that of the kind.
        unless: settings under which it does not happen: {"per_device_train_batch_size": 1} is an out-of-memory that a
            smaller micro-batch avoids (numbers: at most so much; other values: equal).
    """

    kind: Kind
    trial: int | None = 1
    attempt: int | None = 1
    where: Where = "step"
    step: int = 1
    seconds: float = 36_000.0
    text: str = ""
    symptom: str = ""
    unless: dict[str, Any] = field(default_factory=dict)

    def strikes(self, trial: int, attempt: int, settings: dict[str, Any]) -> bool:
        """Whether it belongs to that attempt."""
        here = self.trial in (None, trial) and self.attempt in (None, attempt)
        return here and not (self.unless and all(_within(settings.get(k), v) for k, v in self.unless.items()))

    @property
    def words(self) -> str:
        """What the log says."""
        return self.text or TEXTS[self.kind]


def _within(value: Any, bound: Any) -> bool:
    if isinstance(bound, bool) or not isinstance(bound, int | float):
        return bool(value == bound)
    return value is not None and float(value) <= float(bound)


class FaultyEngine:
    """Any `TrainEngine` with faults.

    Engines whose trainings are processes of ms-swift (they have a `context` with an interpreter) get the faults inside
    the process: a real exception, a real NaN in the weights, a real SIGKILL. For every other engine the wrapper acts
    out what the executor would see: the trial is ended at that step and reported as failed.

    Args:
        inner: the engine. faults: the plan of faults.
        inside: whether they are carried out in the child; None: where the engine has a context.
    """

    def __init__(self, inner: TrainEngine, faults: Iterable[Fault], *, inside: bool | None = None) -> None:
        self.inner, self.faults = inner, tuple(faults)
        context = getattr(inner, "context", None)
        self.inside = (is_dataclass(context) and hasattr(context, "python")) if inside is None else inside
        if self.inside:
            python = launcher(context.folder / "faults", context.python, self.faults)  # type: ignore[union-attr]
            inner.context = replace(context, python=python)  # type: ignore[attr-defined, type-var]

    def open(self, plan: Plan, device: Device) -> Session:
        """A session whose trials have the faults."""
        session = self.inner.open(plan, device)
        return session if self.inside else FaultySession(session, plan, self.faults)


class FaultySession:
    """Acts faults out on the events of any session."""

    def __init__(self, inner: Session, plan: Plan, faults: tuple[Fault, ...]) -> None:
        self.inner, self.plan, self.faults = inner, plan, faults
        self._running: dict[int, list[Fault]] = {}
        self._ending: dict[int, Event] = {}

    def capacity(self) -> int:
        """The session's own."""
        return self.inner.capacity()

    def submit(self, trial: Trial, from_checkpoint: Path | None = None) -> None:
        """Starts the trial; its faults wait for their step."""
        from autoswift.search.configuration import settings_in_force

        settings = settings_in_force(self.plan, trial)
        self._running[trial.number] = [f for f in self.faults if f.strikes(trial.number, trial.attempt, settings)]
        self.inner.submit(trial, from_checkpoint)

    def events(self, timeout: float) -> list[Event]:
        """The session's events, those after a fault left out; a failed trial is told once it has really ended."""
        return [told for event in self.inner.events(timeout) for told in self._with_faults(event)]

    def stop(self, trial: int) -> None:
        """Passed on."""
        self.inner.stop(trial)

    def save(self, trial: int, path: Path) -> Artifact:
        """Passed on."""
        return self.inner.save(trial, path)

    def close(self) -> None:
        """Passed on."""
        self.inner.close()

    def _with_faults(self, event: Event) -> list[Event]:
        ended = event.kind in ("finished", "failed")
        failing = self._ending.get(event.trial)
        if failing is not None:
            if ended:
                del self._ending[event.trial]
                return [failing]
            return []
        fault = next((f for f in self._running.get(event.trial, []) if _due(f, event)), None)
        if fault is None:
            return [event]
        self._running[event.trial] = []
        if fault.kind == "hang" and fault.seconds < 60:
            time.sleep(fault.seconds)
            return [event]
        phase = "first_step" if fault.where == "step" and fault.step == 1 else fault.where
        failed = Event(
            kind="failed",
            trial=event.trial,
            time=event.time,
            step=event.step,
            metrics=event.metrics | ({"loss": None} if fault.kind == "nan" else {}),
            symptom=fault.symptom or SYMPTOMS[fault.kind],
            evidence={"text": fault.words, "phase": phase},
        )
        if ended:
            return [failed]
        self.inner.stop(event.trial)
        self._ending[event.trial] = failed
        return []


def _due(fault: Fault, event: Event) -> bool:
    if fault.where == "load":
        return event.kind == "started"
    if fault.where == "step":
        return event.kind in ("progress", "finished") and event.step >= fault.step
    return event.kind == ("evaluated" if fault.where == "evaluation" else "finished")


def launcher(folder: Path, python: Path, faults: Iterable[Fault]) -> Path:
    """An interpreter that starts ms-swift with the plug-in of faults beside the plug-ins it was given.

    Args:
        folder: takes it. python: the real interpreter. faults: carried out in the children.

    Returns:
        The path of a program that takes the arguments of Python.
    """
    folder.mkdir(parents=True, exist_ok=True)
    faults_file, path = folder / "faults.json", folder / "python"
    faults_file.write_text(json.dumps([asdict(f) | {"text": f.words} for f in faults]), encoding="utf-8")
    path.write_text(
        "#!/bin/sh\n"
        f"{VARIABLE}={shlex.quote(str(faults_file))} export {VARIABLE}\n"
        f"exec {shlex.quote(str(python))} {shlex.quote(str(Path(__file__).parent / 'children' / 'fault_start.py'))}"
        f' {shlex.quote(str(PLUGIN))} {shlex.quote(str(python))} "$@"\n',
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path


def strike_workers(folder: Path, word: str, how: int = signal.SIGKILL) -> list[int]:
    """Sends a signal to the processes that work for a run, their keepers spared; their numbers.

    Args:
        folder: of the run. word: that stands in their command line. how: SIGKILL, SIGSTOP (a hang), SIGTERM.
    """
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        spared = "keeper.py" in line or process.pid == os.getpid() or process.info["status"] == psutil.STATUS_ZOMBIE
        if str(folder) in line and word in line and not spared:
            try:
                process.send_signal(how)
            except psutil.NoSuchProcess:
                continue
            found.append(process.pid)
    return found


def forked(work: Callable[[], object]) -> int:
    """Runs `work` in a fork of this process; the exit code, 128 + n for signal n. For kills that must start fast."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return 128 - code if code < 0 else code
