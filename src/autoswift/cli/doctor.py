"""`doctor`, `setup`, `version`: the machine and the installation."""

from __future__ import annotations

import typer

from autoswift.cli.options import Command, Json


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command("doctor", cls=Command, help="cli.help.doctor", rich_help_panel="cli.panel.machine")(doctor)
    app.command("setup", cls=Command, help="cli.help.setup", rich_help_panel="cli.panel.machine")(setup)
    app.command("version", cls=Command, help="cli.help.version", rich_help_panel="cli.panel.machine")(version)


def doctor(as_json: Json = False) -> None:
    """Looks at everything that a run needs."""
    raise NotImplementedError


def setup(as_json: Json = False) -> None:
    """Makes the training environment."""
    raise NotImplementedError


def version(as_json: Json = False) -> None:
    """The version of autoswift and of what it stands on."""
    raise NotImplementedError
