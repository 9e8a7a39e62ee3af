"""`stop` and `chat`: the served models."""

from __future__ import annotations

from typing import Annotated

import typer

from autoswift.cli.options import Command, Json, Run, say
from autoswift.errors import InputError


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
    from autoswift.cli.output import console, print_json
    from autoswift.run.record import all_runs, find
    from autoswift.serve.deploy import stop as end

    if (run is None) is not every:
        raise InputError(say("stop_what"), "", say("stop_what_fix"))
    records = all_runs() if run is None else [find(run)]
    stopped = [record.id for record in records if end(record.folder)]
    if as_json:
        print_json({"stopped": stopped})
    elif stopped:
        console().print(say("stopped", runs=", ".join(stopped)), soft_wrap=True)
    else:
        console().print(say("nothing_served"), soft_wrap=True)


def chat(
    run: Run,
    words: Annotated[str, typer.Argument(metavar="TEXT", help="cli.opt.text")],
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="cli.opt.system")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", metavar="N", min=1, help="cli.opt.max_tokens")] = 256,
    as_json: Json = False,
) -> None:
    """Asks the served model one thing."""
    from autoswift.cli.output import print_json, print_line
    from autoswift.run.record import find
    from autoswift.serve.deploy import chat as ask
    from autoswift.serve.deploy import status

    record = find(run)
    found = status(record.folder)
    if not words.strip():
        raise InputError(say("no_words"), "", say("no_words_fix"))
    if found is None or found["state"] != "running":
        why = str(found.get("reason") or "") if found else ""
        raise InputError(say("not_served", run=record.id), why, say("not_served_fix", run=record.id))
    messages = [{"role": "system", "content": system}] if system else []
    answer = ask(str(found["address"]), [*messages, {"role": "user", "content": words}], max_tokens=max_tokens)
    if as_json:
        print_json({"run": record.id, "model": found["model_name"], "answer": answer})
    else:
        print_line(answer)
