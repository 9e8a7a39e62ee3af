"""The stage `understand`: the sentence and the file become profiles and three splits on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import TypeAdapter

from autoswift.domain.artifact import StepResult
from autoswift.domain.profile import DataProfile, TaskProfile
from autoswift.domain.protocols import DatasetHub, Teacher
from autoswift.domain.task import Task
from autoswift.errors import InputError
from autoswift.run.context import RunContext
from autoswift.run.files import dumps, file_sha256, write_atomic
from autoswift.run.journal import RunJournal
from autoswift.run.record import RunRecord
from autoswift.tables import explain
from autoswift.understand.data import Options, prepare_data, profile_data
from autoswift.understand.embedding import embedder
from autoswift.understand.sentence import understand
from autoswift.understand.sourced import Choose, SourcedData, is_dataset_name, options_of
from autoswift.understand.weigh import weigh

FOLDER = "data"
"""Within the run folder."""


def profiles(task: Task, hub: Callable[[], DatasetHub]) -> tuple[TaskProfile, DataProfile, dict[str, int]]:
    """Both profiles, weighed together, and the rows of each split; no rows are kept.

    Args:
        task: the request; a data set on a hub is fetched into a folder that does not stay.
        hub: makes the hubs, where a data set of theirs is named.

    Raises:
        InputError: when there is no data.
        DataError: when the data cannot be used.
    """
    if task.data is None:
        raise InputError(*explain("understand.no_data"))
    read = understand(task.sentence, options=task.facts)
    if not is_dataset_name(task.data):
        found = profile_data(task.data, _options(task))
    else:
        from autoswift.understand.source import source_data

        with TemporaryDirectory(prefix="autoswift-") as folder:
            run = Path(folder)
            made = source_data(read, options_of(task, embedder()), run, hub(), None, RunJournal(run))
            found = profile_data(list(made.paths), _options(task))
    profile, found = weighed(read, found)
    return profile, found, dict(found.splits)


def content_of(path: str | None) -> Any:
    """What stands for a file or a folder in a step's identity: its content; else the words themselves."""
    if path is None:
        return None
    place = Path(path)
    if place.is_file():
        return file_sha256(place)
    if place.is_dir():
        return {str(p.relative_to(place)): file_sha256(p) for p in sorted(place.rglob("*")) if p.is_file()}
    return path


def weighed(read: TaskProfile, found: DataProfile) -> tuple[TaskProfile, DataProfile]:
    """The sentence's profile completed by the data's, and the data's with what contradicts the sentence."""
    profile, problems = weigh(read, found)
    return profile, replace(found, problems=(*found.problems, *problems))


def _options(task: Task) -> Options:
    return Options(
        columns=task.columns,
        seed=task.seed,
        language=task.language,
        redact=task.redact,
        test=task.test,
        validation=task.validation,
    )


def understand_stage(
    context: RunContext, hub: DatasetHub, teacher: Teacher | None = None, choose: Choose | None = None
) -> StepResult:
    """Reads, cleans, splits; rows, removed rows, manifest and profile are in the run's folder `data`.

    Where the user brought no data, it is found on a hub or made by a teacher first.

    Args:
        context: of the run.
        hub: where data sets come from.
        teacher: a model that makes examples, or None.
        choose: asks the user which of the data sets found; None takes the best.

    Raises:
        InputError: when there is no data to be had.
        DataError: when the data cannot be used.
    """
    task = context.task
    read = understand(task.sentence, options=task.facts)
    sourced = _sourced(context, read, hub, teacher, choose)
    folder = context.folder / FOLDER
    made = prepare_data(list(sourced.paths) if sourced else str(task.data), folder, _options(task))
    profile, data = weighed(read, made.profile)
    if data != made.profile:
        write_atomic(made.files["profile"], dumps(data, indent=1) + "\n")
    for assumed in profile.assumptions:
        context.note(assumed)
    for problem in data.problems:
        place = f"{problem.file}:{problem.line}: " if problem.line else ""
        context.note(f"{place}{problem.message}", "warn" if problem.severity == "warn" else "info")
    files = {name: str(Path(FOLDER) / path.name) for name, path in made.files.items()}
    value: dict[str, Any] = {"task_profile": profile, "data_profile": data, "files": files}
    return StepResult(value=value | ({"sourced": sourced} if sourced else {}))


def _sourced(
    context: RunContext, read: TaskProfile, hub: DatasetHub, teacher: Teacher | None, choose: Choose | None
) -> SourcedData | None:
    """The data that the user did not bring as files; None where they did."""
    task = context.task
    if task.data is not None and not is_dataset_name(task.data):
        return None
    from autoswift.understand.source import source_data

    return source_data(read, options_of(task, embedder()), context.folder, hub, teacher, context.journal, choose)


def profiles_of(record: RunRecord) -> tuple[TaskProfile, DataProfile]:
    """The profiles that the finished stage left."""
    value = record.value("understand")
    return (
        TypeAdapter(TaskProfile).validate_python(value["task_profile"]),
        TypeAdapter(DataProfile).validate_python(value["data_profile"]),
    )
