"""`list`, `show` and `report`: looking at runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoswift.cli.options import Command, Json, Run, current, say
from autoswift.errors import InputError

if TYPE_CHECKING:
    from autoswift.run.record import RunRecord

FOLLOW_SECONDS = 0.5
"""Between two looks at the journal: a person sees no delay, the disk no load."""


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command("list", cls=Command, help="cli.help.list", rich_help_panel="cli.panel.runs")(list_)
    app.command("show", cls=Command, help="cli.help.show", rich_help_panel="cli.panel.runs")(show)
    app.command("report", cls=Command, help="cli.help.report", rich_help_panel="cli.panel.runs")(report)


def list_(as_json: Json = False) -> None:
    """Every run, newest first."""
    from autoswift.cli.output import console, print_json
    from autoswift.cli.show import run_row, runs_table
    from autoswift.run.record import all_runs

    rows = [run_row(record) for record in all_runs()]
    if as_json:
        print_json(rows)
    elif rows:
        console().print(runs_table(rows))
    else:
        console().print(say("no_runs"), soft_wrap=True)


def show(
    run: Run,
    as_json: Json = False,
    commands: Annotated[bool, typer.Option("--commands", help="cli.opt.commands")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="cli.opt.follow")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="cli.opt.verbose")] = False,
) -> None:
    """One run: its plan, its trials, its result."""
    from autoswift.cli.output import console, print_json, print_line
    from autoswift.run.record import find

    record = find(run)
    if commands:
        lines = command_lines(record)
        if as_json:
            print_json({"folder": str(record.folder), "commands": lines})
            return
        console(stderr=True).print(say("commands_from", folder=record.folder), soft_wrap=True, markup=False)
        for line in lines:
            print_line(line)
        return
    if follow:
        _follow(record)
    from autoswift.cli.show import as_value, run_view

    if as_json:
        print_json(as_value(record))
    else:
        console().print(run_view(record, verbose=verbose))


def report(
    run: Run,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="cli.opt.report_out")] = None,
    as_json: Json = False,
) -> None:
    """Writes the report again and says where it is."""
    from autoswift.cli.output import console, print_json
    from autoswift.report import write
    from autoswift.run.record import find

    record = find(run)
    language = current.language if current.chosen else record.task().language
    path = write(record, language, out)
    if as_json:
        print_json({"run": record.id, "path": str(path)})
    else:
        console().print(say("report_at", path=path), soft_wrap=True)


def command_lines(record: RunRecord) -> list[str]:
    """The plain commands that make the run's result again, each as one shell line.

    Raises:
        InputError: when no stage that runs a command has finished.
    """
    from autoswift.report.commands import command_line, commands_of

    lines = [command_line(env, words) for env, words in commands_of(record)]
    if not lines:
        raise InputError(
            say("no_commands", run=record.id), say("no_commands_why"), say("no_commands_fix", run=record.id)
        )
    return lines


def _follow(record: RunRecord) -> None:
    """Shows a run that another process works on, until it ends."""
    from autoswift.cli.live import Display
    from autoswift.cli.output import console
    from autoswift.run.lock import is_owned

    display = Display(console(stderr=current.as_json), record.task())
    seen = [0, 0]
    with display:
        while True:
            alive = is_owned(record.folder)
            plan = record.plan()
            if plan is not None:
                display.use_plan(plan)
            for row in _news(record, seen):
                display(row)
            if not alive:
                return
            time.sleep(FOLLOW_SECONDS)


def _news(record: RunRecord, seen: list[int]) -> list[dict[str, Any]]:
    """The journal's rows since the last look, in the order of time."""
    events = record.journal.events()
    trials = [{"kind": "trial"} | row for row in record.journal.trials()]
    fresh = events[seen[0] :] + trials[seen[1] :]
    seen[:] = [len(events), len(trials)]
    return sorted(fresh, key=lambda row: float(row.get("time", 0)))
