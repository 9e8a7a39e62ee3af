"""The stage `evaluate`: the test set is opened once, for the base and for the result."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoswift.decide.schedule import SLACK
from autoswift.domain.artifact import Score, StepResult
from autoswift.domain.plan import Plan
from autoswift.engines.stages import last_answer, load_arguments
from autoswift.engines.worker import ModelWorker
from autoswift.errors import StageFailed
from autoswift.evaluate.answers import Answers, answer
from autoswift.evaluate.comparison import Setting, compare
from autoswift.evaluate.kept import keep
from autoswift.evaluate.leaks import find_leaks, read_rows
from autoswift.run.context import RunContext
from autoswift.tables import explain, text
from autoswift.understand.embedding import embedder


def evaluate_stage(context: RunContext, plan: Plan, merged: Path, worker: ModelWorker) -> StepResult:
    """Base against tuned on the same test rows, with paired bootstrap intervals and a verdict."""
    opened = time.time()
    path = context.folder / "data" / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][: plan.evaluation.test_rows]
    if not rows:
        raise StageFailed(*explain("evaluate.empty", path=path))
    context.journal.event("test_opened", rows=len(rows), models=["base", "tuned"])
    base_folder = Path(context.record.value("fetch")["path"])
    # What comes after the evaluation needs its share of the reserve; both models get half of the rest.
    stages = plan.estimate.stage_seconds
    later = SLACK * sum(stages.get(n, 0.0) for n in ("export", "deploy", "loadtest", "report"))
    left = max(0.0, context.clock.left - later)
    answers: dict[str, Answers] = {}
    for name, folder, end in (
        ("base", base_folder, opened + left / 2),
        ("tuned", merged, opened + left),
    ):
        todo = rows if name == "base" else rows[: len(answers["base"].texts)]
        answers[name] = answer(
            worker, load_arguments(context, plan, folder), todo, plan.evaluation, end, _teller(context, name, len(rows))
        )
    count = min(len(a.texts) for a in answers.values())
    if count < len(rows):
        context.fall_short(text("short.test", context.task.language, done=count, asked=len(rows)))
    references = [last_answer(row) for row in rows[:count]]
    guard = context.record.value("guard")
    value = compare(
        answers["base"],
        answers["tuned"],
        rows,
        references,
        setting_of(plan),
        ((guard or {}).get("verdict"), embedder()),
    )
    keep(context.folder, rows, references, answers)
    value["leak"] = _leaks(context, rows[:count])
    if guard:
        value["guard"] = guard
    return StepResult(value=value | {"test_opened": opened})


def setting_of(plan: Plan) -> Setting:
    """How the plan has two models compared."""
    settings = plan.evaluation
    return Setting(metric=settings.metric, confidence=settings.confidence, resamples=settings.bootstrap, seed=plan.seed)


def _leaks(context: RunContext, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Test rows that were nearly trained on; told when there are any."""
    train = read_rows(context.folder / "data" / "train.fit.jsonl") or read_rows(context.folder / "data" / "train.jsonl")
    found = find_leaks(rows, train)
    if found["leaked"]:
        words = text("evaluate.leak", context.task.language, leaked=found["leaked"], rows=found["rows"])
        context.note(words, "warn")
    return found


def _teller(context: RunContext, name: str, total: int) -> Callable[[int], None]:
    def told(done: int) -> None:
        context.journal.progress(stage="evaluate", done=done, total=total, unit="answers", text=name)

    return told


def proven_worse(value: dict[str, Any]) -> bool:
    """Whether the result must not be served: the guard's veto, or a difference on the wrong side of 0 beyond doubt.

    By the whole interval where the record has no verdict (it is of an earlier version, or of too few rows).
    """
    if vetoed(value):
        return True
    metric = value["metric"]
    difference = value["difference"][metric]
    low, high = (
        (difference.low, difference.high)
        if isinstance(difference, Score)
        else (difference.get("low"), difference.get("high"))
    )
    if low is None or high is None:
        return False
    return bool(low > 0) if metric == "nll" else bool(high < 0)


def vetoed(value: dict[str, Any]) -> bool:
    """Whether the guard refused the result."""
    return bool(((value.get("guard") or {}).get("verdict") or {}).get("kind") == "veto")
