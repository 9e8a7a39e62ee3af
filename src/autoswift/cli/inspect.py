"""`understand`, `data`, `fit`, `models`, `knowledge`: what autoswift knows and finds out, one thing at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from autoswift.cli.options import Column, Command, Data, Json, current, pairs, say
from autoswift.errors import InputError

Batch = Annotated[Path | None, typer.Option("--batch", metavar="FILE.jsonl", help="cli.opt.batch")]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command("understand", cls=Command, help="cli.help.understand", rich_help_panel="cli.panel.look")(understand)
    app.command("data", cls=Command, help="cli.help.data", rich_help_panel="cli.panel.look")(data)
    app.command("models", cls=Command, help="cli.help.models", rich_help_panel="cli.panel.look")(models)
    app.command("knowledge", cls=Command, help="cli.help.knowledge", rich_help_panel="cli.panel.runs")(knowledge)


def batch_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file.

    Raises:
        InputError: when it is not there, or a line is no object, by its number.
    """
    from autoswift.cli.run import existing

    for number, line in enumerate(existing(path).read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as exc:
            raise InputError(say("bad_line", path=path, line=number), str(exc), say("bad_line_fix")) from exc
        if not isinstance(row, dict):
            raise InputError(say("bad_line", path=path, line=number), say("not_object"), say("bad_line_fix"))
        yield row


def understand(
    sentence: Annotated[str | None, typer.Argument(metavar="SENTENCE", help="cli.opt.sentence")] = None,
    data: Data = None,
    batch: Batch = None,
    as_json: Json = False,
) -> None:
    """What a sentence asks for; a data file settles what the sentence leaves open."""
    from autoswift.cli.output import console, print_json, print_json_line

    if batch is not None:
        for row in batch_rows(batch):
            print_json_line(_understood(str(row.get("text", "")), None))
        return
    if not sentence or not sentence.strip():
        raise InputError(say("no_sentence"), "", say("no_sentence_fix"))
    answer = _understood(sentence, data)
    if as_json:
        print_json(answer)
    else:
        from autoswift.cli.facts import facts_view

        console().print(facts_view(answer))


def _understood(sentence: str, data: str | None) -> dict[str, Any]:
    from autoswift.understand.sentence import sentence_report
    from autoswift.understand.sentence import understand as read

    profile = read(sentence)
    if data is not None:
        from autoswift.cli.run import existing
        from autoswift.understand.data import inspect
        from autoswift.understand.weigh import weigh

        found, _ = inspect(existing(Path(data)), {}, 0, language=current.language)
        profile, _ = weigh(profile, found)
    return dict(sentence_report(profile))


def data(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="cli.opt.path")],
    column: Column = None,
    as_json: Json = False,
) -> None:
    """What a data file holds, and what is wrong with it."""
    from autoswift.cli.output import console, print_json
    from autoswift.cli.run import existing
    from autoswift.understand.data import as_report, inspect

    profile, _ = inspect(existing(path), pairs(column or [], "--column"), 0, language=current.language)
    report = as_report(profile)
    if as_json:
        print_json(report)
    else:
        from autoswift.cli.facts import data_view

        console().print(data_view(report))


def models(
    task: Annotated[str | None, typer.Option("--task", metavar="WORD", help="cli.opt.task")] = None,
    licence: Annotated[str | None, typer.Option("--licence", metavar="NAME", help="cli.opt.licence")] = None,
    as_json: Json = False,
) -> None:
    """The curated base models."""
    from autoswift.catalog.models import all_models
    from autoswift.cli.output import console, print_json
    from autoswift.run.files import plain

    rows = [plain(row) for row in all_models()]
    if task:
        rows = [row for row in rows if _fits(row, task)]
    if licence:
        wanted = licence.lower()
        rows = [row for row in rows if row["commercial"] or wanted != "commercial"]
        rows = [row for row in rows if wanted == "commercial" or wanted in str(row["licence"]).lower()]
    if as_json:
        print_json(rows)
    elif not rows:
        console().print(say("no_models"), soft_wrap=True)
    else:
        from autoswift.cli.facts import models_table

        console().print(models_table(rows))


def _fits(row: dict[str, Any], word: str) -> bool:
    """Whether a model is meant for a domain, modality, language or kind of that name."""
    words = {str(row["kind"]), str(row["modality"]), *map(str, row["domains"]), *map(str, row["languages"])}
    return word.lower() in {w.lower() for w in words}


def knowledge(
    action: Annotated[str, typer.Argument(metavar="list|forget", help="cli.opt.action")] = "list",
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="cli.opt.forget")] = None,
    as_json: Json = False,
) -> None:
    """What earlier runs taught; `forget RUN` removes one."""
    from autoswift.cli.output import console, print_json
    from autoswift.knowledge import store

    if action == "list":
        entries = store.all_entries()
        if as_json:
            print_json(entries)
        elif not entries:
            console().print(say("no_knowledge"), soft_wrap=True)
        else:
            from autoswift.cli.facts import knowledge_table

            console().print(knowledge_table(entries))
        return
    if action != "forget" or not run:
        raise InputError(say("bad_action", action=action), "", say("bad_action_fix"))
    if not store.forget(run):
        raise InputError(say("not_known", run=run), "", say("not_known_fix"))
    if as_json:
        print_json({"forgotten": run})
    else:
        console().print(say("forgotten", run=run), soft_wrap=True)
