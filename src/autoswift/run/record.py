"""One run folder: made, found, read, and its plan revisions."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from autoswift.domain.plan import Plan
from autoswift.domain.task import Task
from autoswift.errors import InputError, RunNotFound
from autoswift.run.disk import disk_errors_explained
from autoswift.run.files import (
    UNFINISHED,
    Damaged,
    damaged_lines,
    plain,
    put_aside,
    read_sealed,
    sealed,
    write_atomic,
)
from autoswift.run.journal import RunJournal
from autoswift.run.places import runs_folder
from autoswift.run.upgrades import plan_of_today
from autoswift.tables import explain

VERSION = 1
T = TypeVar("T")
State = Literal["new", "running", "done", "partial", "failed", "interrupted"]
"""`partial`: finished with less than asked (exit code 3)."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run folder on disk."""

    folder: Path

    @property
    def id(self) -> str:
        """The run's id: its folder's name unless it was put elsewhere (or its run.json is damaged)."""
        try:
            return str(self.state()["id"])
        except (InputError, KeyError):
            return self.folder.name

    @property
    def created(self) -> float:
        """When it was made, in unix seconds; 0 where its run.json is damaged."""
        try:
            return float(self.state().get("created", 0))
        except (InputError, TypeError, ValueError):
            return 0.0

    @property
    def journal(self) -> RunJournal:
        """A new journal on the folder."""
        return RunJournal(self.folder)

    def state(self) -> dict[str, Any]:
        """run.json: {version, id, created, task, state, stage, plan, error?, result?}.

        Raises:
            InputError: when it is damaged.
        """
        return _sound(self.folder / "run.json")

    def update(self, **fields: Any) -> None:
        """Changes fields of run.json, atomically."""
        write_atomic(self.folder / "run.json", sealed(plain(self.state() | fields)))

    def task(self) -> Task:
        """The task.

        Raises:
            InputError: when run.json is of another version or damaged.
        """
        state = self.state()
        if state.get("version") != VERSION:
            raise InputError(
                *explain("record.version", path=self.folder / "run.json", version=state.get("version"), reads=VERSION)
            )
        return _value(Task, state["task"], self.folder / "run.json")

    def plans(self) -> list[Plan]:
        """All revisions, oldest first."""
        found = sorted((self.folder / "plan").glob("*.json"), key=lambda p: int(p.stem))
        return [_value(Plan, plan_of_today(_sound(path)), path) for path in found]

    def plan(self) -> Plan | None:
        """The newest revision."""
        plans = self.plans()
        return plans[-1] if plans else None

    def save_plan(self, plan: Plan) -> None:
        """Writes a revision; an existing one is never edited.

        Raises:
            ValueError: when that revision exists with other content.
        """
        path = self.folder / "plan" / f"{plan.revision}.json"
        text = sealed(plain(plan))
        if path.exists():
            if path.read_text(encoding="utf-8") != text:
                raise ValueError(f"plan revision {plan.revision} exists and differs")
            return
        write_atomic(path, text)
        self.update(plan=plan.revision)

    def step(self, name: str) -> dict[str, Any] | None:
        """What a finished step left, or None.

        Raises:
            InputError: when it is damaged.
        """
        path = self.folder / "steps" / f"{name}.json"
        return _sound(path) if path.exists() else None

    def save_step(self, name: str, value: dict[str, Any]) -> None:
        """Writes what a step left, with its digest."""
        write_atomic(self.folder / "steps" / f"{name}.json", sealed(plain(value)))

    def mend(self) -> list[str]:
        """Puts damaged records of steps and plans aside, so that they are made again; their names, and damaged lines.

        A plan is a function of what stands in the steps before it, and a step is done anew when its record is gone.
        Files that a killed owner had not finished writing are removed: nobody has ever read them.
        """
        found = []
        for folder in (self.folder, *(self.folder / name for name in ("plan", "steps", "processes"))):
            for left in folder.glob(UNFINISHED):
                left.unlink(missing_ok=True)
        for path in sorted([*self.folder.glob("steps/*.json"), *self.folder.glob("plan/*.json")]):
            try:
                read_sealed(path)
            except Damaged:
                put_aside(path)
                found.append(f"{path.parent.name}/{path.name}")
        for name in ("events.jsonl", "trials.jsonl", "training.jsonl"):
            found += [f"{name}:{number}" for number in damaged_lines(self.folder / name)]
        return found

    def value(self, name: str) -> Any:
        """The value of a finished step, or None."""
        step = self.step(name)
        return step["result"]["value"] if step else None


def _sound(path: Path) -> dict[str, Any]:
    try:
        return read_sealed(path)
    except Damaged as exc:
        raise InputError(*explain("record.damaged", path=path, evidence=exc)) from exc


def _value(kind: type[T], raw: Any, path: Path) -> T:
    try:
        return TypeAdapter(kind).validate_python(raw)
    except ValidationError as exc:
        raise InputError(*explain("record.not_a", path=path, kind=kind.__name__, evidence=exc)) from exc


def create(task: Task, out: Path | None = None) -> RunRecord:
    """Makes a run folder; nothing is left behind when that fails.

    Args:
        task: what is asked.
        out: another place than `$AUTOSWIFT_HOME/runs`; must be absent or empty.

    Raises:
        InputError: when `out` is in use.
        DiskFull: when there is no room.
    """
    run_id = time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)
    folder = out.expanduser().resolve() if out else runs_folder() / run_id
    existed = folder.exists()
    if existed and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(*explain("record.not_empty", folder=folder))
    try:
        with disk_errors_explained(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
            state = {"version": VERSION, "id": run_id, "created": time.time(), "task": task, "state": "new"}
            write_atomic(folder / "run.json", sealed(plain(state | {"stage": "", "plan": 0})))
            if out:
                runs_folder().mkdir(parents=True, exist_ok=True)
                os.symlink(folder, runs_folder() / run_id)
    except BaseException:
        discard(folder, keep_folder=existed)
        raise
    return RunRecord(folder)


def discard(folder: Path, *, keep_folder: bool = False) -> None:
    """Removes a run that did not begin, so that no half-made one stays."""
    if keep_folder:
        for child in folder.iterdir():
            shutil.rmtree(child) if child.is_dir() else child.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)
    for link in runs_folder().glob("*"):
        if link.is_symlink() and link.resolve() == folder and not (folder / "run.json").exists():
            link.unlink()


def find(run: str) -> RunRecord:
    """The run with that id, unique prefix, or path.

    Raises:
        RunNotFound: none or several.
    """
    path = Path(run).expanduser()
    if (path / "run.json").exists():
        return RunRecord(path.resolve())
    folder = runs_folder()
    hits = [p for p in folder.glob("*") if p.name.startswith(run)] if folder.exists() and run else []
    exact = [p for p in hits if p.name == run]
    hits = [p for p in exact or hits if (p / "run.json").exists()]
    if len(hits) == 1:
        return RunRecord(hits[0].resolve())
    if hits:
        names = ", ".join(sorted(p.name for p in hits)[:5])
        raise RunNotFound(*explain("record.several", run=run, count=len(hits), names=names))
    raise RunNotFound(*explain("record.absent", run=run, folder=folder))


def all_runs() -> list[RunRecord]:
    """Every run, newest first; those whose run.json is damaged come last."""
    folder = runs_folder()
    found = [RunRecord(p.resolve()) for p in folder.glob("*") if (p / "run.json").exists()] if folder.exists() else []
    return sorted(found, key=lambda r: (r.created, r.folder.name), reverse=True)
