"""`knowledge`: what earlier runs taught: looked at, handed on, taken in, forgotten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoswift.cli.options import Command, Json, current, say
from autoswift.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from autoswift.knowledge.entry import RunEntry

Action = Annotated[str, typer.Argument(metavar="list|show|export|import|forget", help="cli.opt.action")]
What = Annotated[str | None, typer.Argument(metavar="RUN|FILE", help="cli.opt.what")]
All = Annotated[bool, typer.Option("--all", help="cli.opt.forget_all")]


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    app.command("knowledge", cls=Command, help="cli.help.knowledge", rich_help_panel="cli.panel.runs")(knowledge)


def knowledge(action: Action = "list", what: What = None, everything: All = False, as_json: Json = False) -> None:
    """What earlier runs taught; `forget RUN` removes one."""
    actions: dict[str, Callable[[], None]] = {
        "list": _list,
        "show": lambda: _show(what or ""),
        "export": lambda: _export(what),
        "import": lambda: _import(what or ""),
        "forget": lambda: _forget(what or "", everything),
    }
    needs = {"show": True, "import": True, "forget": not everything}
    if action not in actions or (needs.get(action) and not what) or (everything and (what or action != "forget")):
        raise InputError(say("bad_action", action=action), "", say("bad_action_fix"))
    actions[action]()


def _told(line: str, value: dict[str, Any]) -> None:
    """The outcome of an action, for a person or for a script."""
    from autoswift.cli.output import console, print_json

    if current.as_json:
        print_json(value)
    else:
        console().print(line, soft_wrap=True, markup=False)


def _list() -> None:
    from autoswift.cli.output import console, print_json
    from autoswift.knowledge.store import read
    from autoswift.tables import text

    memory = read()
    if memory.damaged:
        runs = ", ".join(memory.damaged[:3])
        said = text("knowledge.damaged", current.language, count=len(memory.damaged), runs=runs)
        console(stderr=True).print(said, soft_wrap=True, markup=False)
    if current.as_json:
        print_json(memory.entries)
    elif not memory.entries:
        console().print(say("no_knowledge"), soft_wrap=True)
    else:
        from autoswift.cli.facts import knowledge_table

        console().print(knowledge_table(memory.entries))


def _show(run: str) -> None:
    from autoswift.cli.output import console, print_json
    from autoswift.knowledge.store import get

    entry = get(run)
    if current.as_json:
        print_json(entry)
    else:
        console().print(_view(entry))


def _view(entry: RunEntry) -> RenderableType:
    """One entry: its task, its result, its trials."""
    from rich.console import Group
    from rich.table import Table

    from autoswift.cli.facts import knowledge_table
    from autoswift.cli.show import foreign
    from autoswift.report import words

    language, mark = current.language, entry.fingerprint
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    verdict = say(f"knowledge.verdict.{entry.verdict}") if entry.verdict else words.NOTHING
    sizes = say("knowledge.sizes", rows=mark.rows, characters=words.number(mark.characters), labels=mark.labels)
    for key, shown in (
        ("verdict", verdict),
        ("data", sizes),
        ("method", mark.method),
        ("device", mark.device),
        ("cost", words.duration(entry.device_seconds, language)),
    ):
        facts.add_row(say(f"knowledge.{key}"), foreign(shown))
    trials = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for key in ("settings", "prior", "tokens", "score", "cost", "end"):
        trials.add_column(say(f"knowledge.{key}"), overflow="fold")
    for row in entry.trials:
        score = words.number(row.score) + (f" ± {words.number(row.stderr, 2)}" if row.stderr else "")
        end = words.named("status", row.status, language) + (f" ({row.symptom})" if row.symptom else "")
        cells = (words.value(row.parameters, language), words.value(row.prior, language), words.number(row.tokens))
        trials.add_row(*cells, score, words.duration(row.device_seconds, language), foreign(end))
    return Group(knowledge_table([entry]), "", facts, "", trials)


def _export(file: str | None) -> None:
    from autoswift.cli.output import print_line
    from autoswift.knowledge.exchange import export_to

    path = Path(file).expanduser().resolve() if file else None
    lines, count = export_to(path)
    if path is None:
        for line in lines.splitlines():
            print_line(line)
    else:
        _told(say("exported", count=count, path=path), {"exported": count, "path": str(path)})


def _import(file: str) -> None:
    from autoswift.knowledge.exchange import import_from

    done = import_from(Path(file).expanduser())
    value = {"added": done.added, "updated": done.updated, "unchanged": done.unchanged}
    _told(say("imported", **value), value)


def _forget(run: str, everything: bool) -> None:
    from autoswift.knowledge import store

    if everything:
        count = store.forget_all()
        _told(say("forgotten_all", count=count), {"forgotten": count})
        return
    if not store.forget(run):
        run = store.get(run).run_id  # a unique start of an id; raises when there is none
        store.forget(run)
    _told(say("forgotten", run=run), {"forgotten": run})
