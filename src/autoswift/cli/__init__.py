"""The command line. Nothing heavy is imported before a command needs it, so that help answers at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and ends the process with its exit code.

    Args:
        arguments: words after the program's name; None takes them from the process.
    """
    from autoswift.cli.app import app
    from autoswift.cli.output import utf8_streams

    utf8_streams()
    app(args=list(arguments) if arguments is not None else None, prog_name="autoswift")
    raise SystemExit(0)
