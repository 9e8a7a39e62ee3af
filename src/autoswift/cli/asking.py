"""What a run asks its user on the way: which data set, and whether to go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from autoswift.cli.options import current, say

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from autoswift.domain.task import Task
    from autoswift.run.record import RunRecord
    from autoswift.understand.find import Candidate


def open_facts(task: Task) -> dict[str, str]:
    """What the user said of the task, and their answers to what the sentence leaves open."""
    from autoswift.cli.output import console
    from autoswift.understand.questions import questions
    from autoswift.understand.sentence import understand

    facts = dict(task.facts)
    for one in questions(understand(task.sentence, options=facts), language=current.language):
        console().print(one.text, markup=False)
        for number, choice in enumerate(one.choices, 1):
            console().print(f"  {number}. {choice.label}", markup=False, highlight=False)
        number = typer.prompt(say("choose.fact", count=len(one.choices)), default=1, type=int, err=current.as_json)
        if 1 <= number <= len(one.choices):
            facts[one.fact] = one.choices[number - 1].value
    return facts


def candidates_view(found: Sequence[Candidate]) -> RenderableType:
    """The data sets that were found, best first: licence, size and why."""
    from rich.table import Table

    from autoswift.cli.show import foreign

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for key in ("number", "data", "licence", "size", "why"):
        table.add_column(say(f"choose.{key}"), overflow="fold")
    for number, one in enumerate(found, 1):
        why = foreign("\n".join((*one.because, *one.warnings)))
        table.add_row(str(number), foreign(one.reference), foreign(one.licence or "?"), foreign(one.size_words), why)
    return table


def choose(out: Console, found: Sequence[Candidate]) -> Candidate | None:
    """The user's choice among them; None when they want none."""
    out.print(candidates_view(found))
    number = typer.prompt(say("choose.which", count=len(found)), default=1, type=int, err=current.as_json)
    return found[number - 1] if 1 <= number <= len(found) else None


def show_origin(out: Console, record: RunRecord | None, language: str) -> None:
    """Where the data came from that the user did not bring, with samples; nothing for their own."""
    step = record.step("understand") if record is not None else None
    if record is None or step is None:
        return
    from autoswift.cli.data_view import origin_view
    from autoswift.report.origin import origin

    found = origin(record.value("understand").get("sourced"), language)
    if found is not None:
        out.print(origin_view(found))
