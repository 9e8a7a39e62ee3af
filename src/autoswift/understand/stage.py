"""The stage `understand`: the sentence and the file become profiles and three splits on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from autoswift.domain.artifact import StepResult
from autoswift.domain.profile import DataProfile, TaskProfile
from autoswift.errors import InputError
from autoswift.run.context import RunContext
from autoswift.run.files import dumps, write_atomic
from autoswift.run.record import RunRecord
from autoswift.tables import explain
from autoswift.understand.data import inspect
from autoswift.understand.sentence import understand
from autoswift.understand.weigh import weigh

SPLITS = ("train", "validation", "test")


def profiles(
    sentence: str, data: str | None, columns: dict[str, str], seed: int, language: str
) -> tuple[TaskProfile, DataProfile, dict[str, list[dict[str, Any]]]]:
    """Both profiles, weighed together, and the clean rows by split.

    Raises:
        InputError: when there is no data file.
        DataError: when the file cannot be used.
    """
    profile = understand(sentence)
    if data is None:
        raise InputError(*explain("understand.no_data"))
    found, splits = inspect(Path(data), columns, seed, language=language)
    profile, problems = weigh(profile, found)
    if problems:
        found = TypeAdapter(DataProfile).validate_python(_with_problems(found, problems))
    return profile, found, splits


def _with_problems(found: DataProfile, problems: tuple[Any, ...]) -> DataProfile:
    from dataclasses import replace

    return replace(found, problems=(*found.problems, *problems))


def understand_stage(context: RunContext) -> StepResult:
    """Reads, cleans, splits; the rows are in `data/<split>.jsonl`."""
    task = context.task
    profile, data, splits = profiles(task.sentence, task.data, dict(task.columns), task.seed, task.language)
    files = {}
    for name in SPLITS:
        path = context.folder / "data" / f"{name}.jsonl"
        write_atomic(path, "".join(dumps(row) + "\n" for row in splits[name]))
        files[name] = f"data/{name}.jsonl"
    for problem in data.problems:
        place = f"{problem.file}:{problem.line}: " if problem.line else ""
        context.note(f"{place}{problem.message}", "warn" if problem.severity == "warn" else "info")
    return StepResult(value={"task_profile": profile, "data_profile": data, "files": files})


def profiles_of(record: RunRecord) -> tuple[TaskProfile, DataProfile]:
    """The profiles that the finished stage left."""
    value = record.value("understand")
    return (
        TypeAdapter(TaskProfile).validate_python(value["task_profile"]),
        TypeAdapter(DataProfile).validate_python(value["data_profile"]),
    )
