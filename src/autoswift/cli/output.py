"""Where output goes: one console for people, JSON alone on stdout."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Any

from autoswift.cli.options import current

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 160
"""Columns where the width is not a terminal's: tables in a log or a file must not be folded to 80."""


def console(*, stderr: bool | None = None) -> Console:
    """The console for people: stdout, or stderr when stdout belongs to JSON."""
    from rich.console import Console

    to_stderr = current.as_json if stderr is None else stderr
    stream = sys.stderr if to_stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else WIDE
    return Console(file=stream, width=width, highlight=False)


def print_json(value: Any) -> None:
    """One JSON value on stdout, without NaN; lone surrogates leave as JSON escapes."""
    from autoswift.run.files import dumps

    print_line(dumps(value, indent=2))


def print_json_line(value: Any) -> None:
    """One JSON value on one line of stdout."""
    from autoswift.run.files import dumps

    print_line(dumps(value))


def print_line(line: str) -> None:
    """A line on stdout as UTF-8 (a lone surrogate becomes the escape that JSON knows)."""
    sys.stdout.write(line.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")
    sys.stdout.flush()


def utf8_streams() -> None:
    """Makes stdout and stderr UTF-8 whatever the locale says: the texts are Chinese and English."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (stream.encoding or "").lower().replace("-", "") != "utf8":
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
