"""The end of a run: its headline, and the report."""

from __future__ import annotations

from typing import Any

from autoswift.errors import StageFailed
from autoswift.report.build import write
from autoswift.report.spent import spent_of
from autoswift.run.context import RunContext
from autoswift.run.files import plain
from autoswift.tables import explain


def headline(context: RunContext, *, served: bool) -> dict[str, Any]:
    """What a run came to, in its main figures.

    Args:
        context: of the run.
        served: the result answers at an address.

    Returns:
        metric, base, tuned, difference, low, high, address, model_name, report, partial_reasons, spent.

    Raises:
        StageFailed: when nothing was evaluated.
    """
    tested = context.record.value("evaluate")
    if tested is None:
        raise StageFailed(*explain("pipeline.no_evaluation"))
    metric = tested["metric"]
    difference = tested["difference"][metric]
    deployed = context.record.value("deploy") if served else None
    return {
        "metric": metric,
        "base": tested["base"]["scores"][metric]["value"],
        "tuned": tested["tuned"]["scores"][metric]["value"],
        "difference": difference["value"],
        "low": difference["low"],
        "high": difference["high"],
        "address": deployed["address"] if deployed else None,
        "model_name": deployed["model_name"] if deployed else None,
        "report": "report.html",
        "partial_reasons": list(context.shortfalls),
        "spent": plain(spent_of(context.record)),
    }


def report_stage(context: RunContext) -> None:
    """Writes the report; it is made anew each time, from the record alone."""
    context.journal.event("stage", stage="report", state="started")
    path = write(context.record, context.task.language)
    context.journal.event("stage", stage="report", state="finished", path=str(path))
