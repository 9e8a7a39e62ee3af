"""`stop` and `chat`: the served models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoswift.cli.options import Command, Json, Run, say
from autoswift.errors import HubUnreachable, InputError, StageFailed

if TYPE_CHECKING:
    from autoswift.run.record import RunRecord

ANSWER_SECONDS = 300.0
"""A small machine may need minutes for a long answer; a dead server refuses at once."""


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command("chat", cls=Command, help="cli.help.chat", rich_help_panel="cli.panel.do")(chat)
    app.command("stop", cls=Command, help="cli.help.stop", rich_help_panel="cli.panel.do")(stop)


def stop(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="cli.opt.run")] = None,
    every: Annotated[bool, typer.Option("--all", help="cli.opt.all")] = False,
    as_json: Json = False,
) -> None:
    """Ends the server of a run, or of all runs."""
    raise NotImplementedError


def chat(
    run: Run,
    words: Annotated[str, typer.Argument(metavar="TEXT", help="cli.opt.text")],
    as_json: Json = False,
) -> None:
    """Asks the served model one thing."""
    raise NotImplementedError
