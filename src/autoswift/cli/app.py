"""The commands, one module a group."""

from __future__ import annotations

from typing import Annotated

import typer

from autoswift.cli import compare, doctor, evaluate, fit, inspect, knowledge, kuberay, models, run, runs, serve
from autoswift.cli.options import Group

app = typer.Typer(
    name="autoswift",
    cls=Group,
    help="cli.help",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        from autoswift import __version__

        typer.echo(f"autoswift {__version__}")
        raise typer.Exit(0)


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="cli.opt.version")]


@app.callback()
def root(
    lang: Annotated[str | None, typer.Option("--lang", metavar="zh|en", help="cli.opt.lang")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="cli.opt.debug")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="cli.opt.version")
    ] = False,
) -> None:
    """Only declares the global options for the help; `options.Group` takes them wherever they stand."""


for module in (run, serve, inspect, fit, models, knowledge, runs, evaluate, compare, kuberay, doctor):
    module.register(app)
