"""`models`: the catalogue to look through, and which files of a model are trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from autoswift.cli.options import Command, Json, current, say
from autoswift.errors import InputError

SHOWN = 40
"""Rows in a terminal; the rest is a filter or `--json` away."""

Task = Annotated[str, typer.Option("--task", metavar="WORD", help="cli.opt.task")]
Gpu = Annotated[str, typer.Option("--gpu", metavar="CARD", help="cli.opt.models.gpu")]
Fitting = Annotated[bool, typer.Option("--fitting", help="cli.opt.models.fitting")]
Licence = Annotated[str, typer.Option("--licence", metavar="NAME", help="cli.opt.licence")]
Language = Annotated[str, typer.Option("--language", metavar="CODE", help="cli.opt.models.language")]
Modality = Annotated[str, typer.Option("--modality", metavar="WORD", help="cli.opt.models.modality")]
Size = Annotated[str, typer.Option("--size", metavar="SIZE", help="cli.opt.models.size")]
Domain = Annotated[str, typer.Option("--domain", metavar="WORD", help="cli.opt.models.domain")]
Usable = Annotated[bool, typer.Option("--usable", help="cli.opt.models.usable")]
Everything = Annotated[bool, typer.Option("--all", help="cli.opt.models.all")]
UpdateLock = Annotated[str, typer.Option("--update-lock", metavar="MODEL", help="cli.opt.models.update_lock")]
Allow = Annotated[str, typer.Option("--allow", metavar="MODEL", help="cli.opt.models.allow")]
Sha256 = Annotated[str, typer.Option("--sha256", metavar="HASH", help="cli.opt.models.sha256")]
Why = Annotated[str, typer.Option("--reason", metavar="TEXT", help="cli.opt.models.reason")]
Verify = Annotated[str, typer.Option("--verify", metavar="MODEL", help="cli.opt.models.verify")]
EveryByte = Annotated[bool, typer.Option("--full", help="cli.opt.models.full")]


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    app.command("models", cls=Command, help="cli.help.models", rich_help_panel="cli.panel.look")(models)


def models(  # noqa: PLR0913 - one parameter an option
    task: Task = "",
    gpu: Gpu = "",
    fitting: Fitting = False,
    licence: Licence = "",
    language: Language = "",
    modality: Modality = "",
    size: Size = "",
    domain: Domain = "",
    usable: Usable = False,
    every: Everything = False,
    update_lock: UpdateLock = "",
    allow: Allow = "",
    sha256: Sha256 = "",
    reason: Why = "",
    verify: Verify = "",
    full: EveryByte = False,
    as_json: Json = False,
) -> None:
    """Lists base models; or pins, allows or checks the files of one."""
    if update_lock:
        _update_lock(update_lock, as_json=as_json)
    elif allow:
        _allow(allow, sha256, reason, as_json=as_json)
    elif verify:
        _verify(verify, full=full, as_json=as_json)
    else:
        from autoswift.decide.browse import Filters

        asked = Filters(
            task=task,
            gpu=gpu,
            fitting=fitting,
            licence=licence,
            language=language,
            modality=modality,
            size=size,
            domain=domain,
            usable=usable,
        )
        _list(asked, every=every, as_json=as_json)


def _list(asked: Any, *, every: bool, as_json: bool) -> None:
    """The curated models, or with a filter those of the whole catalogue."""
    from dataclasses import replace

    from autoswift.cli.output import console, print_json
    from autoswift.decide import browse

    if not every and asked == browse.Filters():
        asked = replace(asked, curated=True)
    rows = browse.models(asked, current.language)
    if as_json:
        print_json(rows)
        return
    if not rows:
        console().print(say("no_models"), soft_wrap=True)
        return
    from autoswift.cli.facts import models_table

    console().print(models_table(rows[:SHOWN]))
    if len(rows) > SHOWN:
        console().print(say("models.more", count=len(rows) - SHOWN), soft_wrap=True)


def _place(name: str) -> str:
    """A folder or a hub's id as it is; a name of the catalogue as its hub's id.

    Raises:
        ModelError: when it is none of them.
    """
    from autoswift.catalog.models import find
    from autoswift.catalog.remote import is_reference

    if is_reference(name) or Path(name).expanduser().is_dir():
        return name
    facts = find(name)
    return facts.hf or f"ms://{facts.ms}"


def _update_lock(reference: str, *, as_json: bool) -> None:
    """Pins a model as it is now."""
    from autoswift.catalog.remote import update_lock
    from autoswift.cli.output import console, print_json
    from autoswift.run.files import plain

    done = update_lock(_place(reference), language=current.language)
    if as_json:
        print_json(plain(done))
        return
    changed = ", ".join(done.changed) or say("models.nothing_changed")
    console().print(say("models.locked", model=done.location, changed=changed), soft_wrap=True)


def _allow(reference: str, sha256: str, reason: str, *, as_json: bool) -> None:
    """Lets one model pass with just these files.

    Raises:
        InputError: when the hash is not that of the model's files as they are now.
    """
    from autoswift.catalog import policy
    from autoswift.catalog.remote import candidate
    from autoswift.cli.output import console, print_json
    from autoswift.run.files import plain

    found = candidate(_place(reference), language=current.language)
    actual = found.verdict.subject.fingerprint
    if sha256.lower() != actual:
        raise InputError(
            say("models.other_hash", model=reference),
            say("models.other_hash_why", given=sha256 or "-", actual=actual),
            say("models.other_hash_fix", model=reference, actual=actual),
        )
    given = policy.allow(found.verdict.subject, reason)
    if as_json:
        print_json(plain(given))
    else:
        console().print(say("models.allowed", model=reference, hash=actual[:12]), soft_wrap=True)


def _verify(reference: str, *, full: bool, as_json: bool) -> None:
    """Compares a model's files on this machine with what is pinned; exits with 2 when one is not as it was."""
    from autoswift.catalog.remote import resolve, verify
    from autoswift.cli.output import console, print_json
    from autoswift.run.files import plain

    folder = Path(reference).expanduser()
    source, location = ("folder", str(folder.resolve())) if folder.is_dir() else resolve(_place(reference))
    checks = verify(source, location, full=full)
    good = bool(checks) and all(one.state == "ok" for one in checks)
    if as_json:
        print_json({"model": location, "source": source, "ok": good, "files": plain(checks)})
    elif not checks:
        console().print(say("models.not_pinned", model=location), soft_wrap=True)
    else:
        for one in checks:
            console().print(f"{say(f'models.file_{one.state}')}  {one.name}", soft_wrap=True, markup=False)
    if not good:
        raise typer.Exit(2)
