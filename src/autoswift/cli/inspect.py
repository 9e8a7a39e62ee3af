"""`understand`, `data`: what autoswift knows and finds out, one thing at a time."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoswift.cli.options import (
    Column,
    Command,
    Data,
    Domain,
    Goal,
    Json,
    Redact,
    Test,
    Validation,
    current,
    pairs,
    say,
)
from autoswift.errors import DataError, InputError

if TYPE_CHECKING:
    from autoswift.domain.profile import DataProfile
    from autoswift.understand.sourced import SourcedData

Batch = Annotated[Path | None, typer.Option("--batch", metavar="FILE.jsonl", help="cli.opt.batch")]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command("understand", cls=Command, help="cli.help.understand", rich_help_panel="cli.panel.look")(understand)
    app.command("data", cls=Command, help="cli.help.data", rich_help_panel="cli.panel.look")(data)


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
    goal: Goal = None,
    domain: Domain = None,
    batch: Batch = None,
    as_json: Json = False,
) -> None:
    """What a sentence asks for; a data file settles what the sentence leaves open."""
    from autoswift.cli.output import console, print_json

    if batch is not None:
        _understand_all(batch)
        return
    if not sentence or not sentence.strip():
        raise InputError(say("no_sentence"), "", say("no_sentence_fix"))
    answer = _understood(sentence, data, {"goal": goal, "domain": domain})
    if as_json:
        print_json(answer)
    else:
        from autoswift.cli.facts import facts_view

        console().print(facts_view(answer))


def _understand_all(batch: Path) -> None:
    """An answer a line, in order; a row that cannot be read answers with its error, and the command ends with 2."""
    from autoswift.cli.output import console, print_json_line
    from autoswift.cli.run import existing
    from autoswift.understand.sentence import understand_batch

    path, bad = existing(batch), 0
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        numbers: list[int] = []
        rows = (line for number, line in enumerate(file, 1) if line.strip() and not numbers.append(number))  # type: ignore[func-returns-value]
        for count, answer in enumerate(understand_batch(rows)):
            print_json_line(answer)
            bad = bad or (numbers[count] if "error" in answer else 0)
    if bad:
        console(stderr=True).print(f"{say('bad_line', path=batch, line=bad)} {say('bad_line_fix')}", soft_wrap=True)
        raise typer.Exit(2)


def _understood(sentence: str, data: str | None, options: dict[str, Any] | None = None) -> dict[str, Any]:
    from autoswift.understand.sentence import sentence_report
    from autoswift.understand.sentence import understand as read

    profile = read(sentence, options=options)
    if data is None:
        return dict(sentence_report(profile))
    from autoswift.run.files import plain
    from autoswift.understand.data import Options, profile_data
    from autoswift.understand.weigh import weigh

    found = profile_data(brought([data])[0], Options(language=current.language))
    profile, problems = weigh(profile, found)
    return dict(sentence_report(profile)) | {"problems": plain(problems)}


Html = Annotated[Path | None, typer.Option("--html", metavar="PAGE.html", help="cli.opt.html")]
Paths = Annotated[list[str], typer.Argument(metavar="PATH", help="cli.opt.paths")]
DataSeed = Annotated[int, typer.Option("--seed", min=0, help="cli.opt.seed")]


def data(  # noqa: PLR0913 - one parameter an option
    paths: Paths,
    column: Column = None,
    test: Test = None,
    validation: Validation = None,
    redact: Redact = False,
    seed: DataSeed = 0,
    html: Html = None,
    as_json: Json = False,
) -> None:
    """What data files hold, what becomes of them, and what is wrong with them."""
    from autoswift.cli.output import print_json
    from autoswift.report import write_data_page
    from autoswift.run.files import plain
    from autoswift.understand.data import Options, as_report, profile_data

    try:
        files, sourced = brought(paths)
        options = Options(
            columns=pairs(column or [], "--column"),
            seed=seed,
            language=current.language,
            redact=redact,
            test=test,
            validation=validation,
        )
        profile = profile_data(files, options)
    except (DataError, InputError) as exc:
        raise _refused(exc, paths, html) from exc
    again = f"autoswift data {shlex.join(paths)} --column user=… --column assistant=…"
    page = write_data_page(profile, html, current.language, sourced=plain(sourced), command=again) if html else None
    if as_json:
        report = as_report(profile) | ({"sourced": plain(sourced)} if sourced else {})
        print_json(report | ({"page": str(page)} if page else {}))
        return
    _show(profile, sourced, again, page)


def _show(profile: DataProfile, sourced: SourcedData | None, again: str, page: Path | None) -> None:
    """The profile on the terminal."""
    from autoswift.cli.data_view import data_view
    from autoswift.cli.output import console
    from autoswift.cli.show import foreign
    from autoswift.report.data import section
    from autoswift.report.origin import origin
    from autoswift.run.files import plain

    out, language = console(), current.language
    out.print(data_view(section(plain(profile), language), origin(plain(sourced), language)))
    out.print(foreign(say("data.again", command=again), "dim"), soft_wrap=True)
    out.print(foreign(say("data.page", path=page) if page else say("data.page_hint"), "dim"), soft_wrap=True)


def _refused(error: InputError, paths: Sequence[str], html: Path | None) -> InputError:
    """The error that ends the command, with its problems; they are shown, and stand on the page where one is wanted."""
    from autoswift.domain.profile import Problem
    from autoswift.report import write_refusal_page

    name = ", ".join(paths)
    problems: tuple[object, ...] = getattr(error, "problems", ())
    if not problems:
        one = Problem(kind="bad_request", severity="error", message=error.what, fix=error.fix, file=name)
        problems = (one,)
        if type(error) in (InputError, DataError):
            error = DataError(error.what, error.why, error.fix, problems)
    page = write_refusal_page(problems, name, html, current.language) if html else None
    if current.as_json:
        return error
    from autoswift.cli.facts import problems_view
    from autoswift.cli.output import console
    from autoswift.cli.show import foreign
    from autoswift.run.files import plain

    out = console(stderr=True)
    if len(problems) > 1:  # the last one is the error itself
        out.print(problems_view(plain(problems[:-1]), name))
    if page:
        out.print(foreign(say("data.page", path=page), "dim"), soft_wrap=True)
    return error


def brought(paths: Sequence[str]) -> tuple[list[str], SourcedData | None]:
    """The files and folders as they were named; a data set of a hub is downloaded first.

    Returns:
        Where they are, and where the first data set of a hub came from.

    Raises:
        DataError: when a hub has no such data set.
        HubUnreachable: when it does not answer.
    """
    from autoswift.understand.sourced import is_dataset_name

    found: list[str] = []
    first: SourcedData | None = None
    for name in paths:
        made = _downloaded(name) if is_dataset_name(name) else None
        found += made.paths if made else [name]
        first = first or made
    return found, first


def _downloaded(name: str) -> SourcedData:
    import tempfile

    from autoswift.catalog.datasets import DatasetHubs
    from autoswift.domain.profile import TaskProfile
    from autoswift.run.journal import RunJournal
    from autoswift.understand.source import source_data
    from autoswift.understand.sourced import SourceOptions

    nothing_said = TaskProfile(text="", language=current.language)
    options = SourceOptions(data=name, language=current.language)
    with tempfile.TemporaryDirectory() as folder:  # takes the choice; the files themselves are in the cache
        work = Path(folder)
        return source_data(nothing_said, options, work, DatasetHubs(), None, RunJournal(work))
