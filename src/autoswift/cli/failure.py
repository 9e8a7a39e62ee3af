"""How a command that did not succeed says so: what, why, fix; never a traceback unless asked."""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from pathlib import Path

from autoswift.cli.options import current, say
from autoswift.errors import AutoSwiftError


def explain(error: AutoSwiftError) -> None:
    """Prints an error: JSON on stdout with `--json`, else a panel (or plain lines) on stderr."""
    if current.debug:
        traceback.print_exception(error)
    if current.as_json:
        from autoswift.cli.output import print_json

        problems = getattr(error, "problems", ())
        print_json(error.as_json() | ({"problems": problems} if problems else {}))
        return
    lines = [(say("err.why"), error.why), (say("err.fix"), error.fix)]
    _show(say("err.title"), error.what, [line for line in lines if line[1]])


def bug(exc: Exception) -> None:
    """Says that this is ours, and where the traceback lies."""
    trace = "".join(traceback.format_exception(exc))
    path = _save(trace)
    if current.debug:
        sys.stderr.write(trace)
    what = say("err.bug", error=f"{type(exc).__name__}: {exc}")
    fix = say("err.bug_fix", path=path)
    if current.as_json:
        from autoswift.cli.output import print_json

        row = AutoSwiftError(what, "", fix).as_json()
        print_json(row | {"error": "Bug", "traceback": str(path)})
        return
    _show(say("err.bug_title"), what, [(say("err.fix"), fix)])


def interrupted() -> None:
    """After Ctrl-C: how to go on."""
    line = say("err.interrupted_run", run=current.run) if current.run else say("err.interrupted")
    if current.as_json:
        from autoswift.cli.output import print_json

        fix = f"autoswift resume {current.run}" if current.run else ""
        row = {"error": "Interrupted", "what": line, "why": "", "fix": fix, "transient": True, "exit_code": 130}
        print_json(row | ({"run": current.run} if current.run else {}))
    else:
        sys.stderr.write(f"\n{line}\n")


def _show(title: str, what: str, lines: list[tuple[str, str]]) -> None:
    if not sys.stderr.isatty():
        sys.stderr.write("".join(f"{a}: {b}\n" for a, b in [(title, what), *lines]))
        return
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, words in lines:
        grid.add_row(label, Text(words))
    body = Table.grid()
    body.add_row(Text(what, style="bold"))
    if lines:
        body.add_row("")
        body.add_row(grid)
    panel = Panel(body, title=title, title_align="left", border_style="red", padding=(1, 2))
    Console(stderr=True, highlight=False).print(panel)


def _save(trace: str) -> Path:
    """Keeps a traceback under the home folder, or where there is room for it."""
    from autoswift.run.places import home

    name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}.txt"
    for folder in (home() / "crashes", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(trace, encoding="utf-8")
        except OSError:
            continue
        return folder / name
    return Path("-")
