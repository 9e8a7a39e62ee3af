"""A step: known by the hash of what affects its output, its result on disk before the next one starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from autoswift.domain.artifact import StepResult
from autoswift.domain.plan import Plan
from autoswift.run.files import digest, file_sha256
from autoswift.run.journal import RunJournal
from autoswift.run.record import RunRecord

_RESULT = TypeAdapter(StepResult)


def step(
    record: RunRecord,
    journal: RunJournal,
    name: str,
    inputs: Mapping[str, Any],
    work: Callable[[], StepResult],
    still_valid: Callable[[], bool] | None = None,
) -> StepResult:
    """Runs `work`, or returns what it left when it has already run with the same inputs.

    A result counts only while each of its artefacts is still there and has the content that it was proved with.

    Args:
        record: the run.
        journal: takes `stage` events: started, finished (with seconds), reused, failed.
        name: of the step; its file is `steps/<name>.json`.
        inputs: everything that affects the output, as JSON values.
        work: makes the result.
        still_valid: asked before an old result is taken (a server may have been stopped since).
    """
    identity = digest({"step": name, "inputs": inputs})
    old = record.step(name)
    if old is not None and old["inputs"] == identity:
        result = _RESULT.validate_python(old["result"])
        whole = all(_intact(record.folder / a.path, a.hashes) for a in result.artifacts)
        if whole and (still_valid is None or still_valid()):
            journal.event("stage", stage=name, state="reused", seconds=result.seconds)
            return result
    record.update(stage=name)
    journal.event("stage", stage=name, state="started")
    begin = time.monotonic()
    try:
        made = work()
    except BaseException as exc:
        journal.event("stage", stage=name, state="failed", error=type(exc).__name__, what=str(exc))
        raise
    seconds = time.monotonic() - begin
    result = StepResult(value=made.value, artifacts=made.artifacts, metrics=made.metrics, seconds=seconds)
    record.save_step(name, {"inputs": identity, "result": result})
    journal.event("stage", stage=name, state="finished", seconds=seconds, metrics=made.metrics)
    return result


def _intact(path: Path, hashes: Mapping[str, str]) -> bool:
    if not path.exists():
        return False
    files = {path / name if path.is_dir() else path: wanted for name, wanted in hashes.items()}
    return all(one.is_file() and file_sha256(one) == wanted for one, wanted in files.items())


class Steps:
    """The steps of one run, by the names of their stages."""

    def __init__(self, record: RunRecord, journal: RunJournal) -> None:
        self.record, self.journal = record, journal

    def run(
        self,
        name: str,
        inputs: Mapping[str, Any],
        work: Callable[[], StepResult],
        still_valid: Callable[[], bool] | None = None,
    ) -> StepResult:
        """As `step`; a step that made a plan has not been done while that plan is not there (it may be damaged)."""

        def valid() -> bool:
            made = self.record.value(name)
            revision = made.get("revision") if isinstance(made, dict) else None
            # A fetched model has a revision too, which is its hub's word and no number.
            there = not isinstance(revision, int) or (self.record.folder / "plan" / f"{revision}.json").exists()
            return there and (still_valid is None or still_valid())

        return step(self.record, self.journal, name, inputs, work, valid)

    def skip(self, stages: tuple[str, ...], why: str) -> None:
        """Writes down that stages are left out, and why."""
        for stage in stages:
            self.journal.event("stage", stage=stage, state="skipped", why=why)

    def after(self, *stages: str) -> dict[str, Any]:
        """The results of earlier stages as inputs of a later one."""
        return {stage: digest(self.record.value(stage)) for stage in stages}

    def plan_of(self, stage: str) -> Plan:
        """The plan that a finished stage made."""
        revision = int(self.record.value(stage)["revision"])
        return next(p for p in self.record.plans() if p.revision == revision)
