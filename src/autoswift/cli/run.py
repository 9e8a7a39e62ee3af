"""`run`, `resume` and `plan`: from a sentence to a served model."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from autoswift.cli import asking
from autoswift.cli.limits import budget_of
from autoswift.cli.options import (
    Column,
    Command,
    Data,
    Domain,
    Goal,
    Json,
    Model,
    Redact,
    Run,
    Sentence,
    Test,
    Validation,
    Yes,
    current,
    fixed_settings,
    language_for,
    pairs,
    say,
    speak,
    typed,
)
from autoswift.errors import InputError

if TYPE_CHECKING:
    from autoswift.domain.plan import Plan
    from autoswift.domain.task import Task
    from autoswift.run.record import RunRecord
    from autoswift.understand.find import Candidate


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command("run", cls=Command, help="cli.help.run", rich_help_panel="cli.panel.do")(run)
    app.command("resume", cls=Command, help="cli.help.resume", rich_help_panel="cli.panel.do")(resume)
    app.command("plan", cls=Command, help="cli.help.plan", rich_help_panel="cli.panel.look")(plan)


Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="cli.opt.verbose")]
Trials = Annotated[int, typer.Option("--budget-trials", metavar="N", min=1, help="cli.opt.trials")]
Hours = Annotated[float, typer.Option("--budget-hours", metavar="H", help="cli.opt.hours")]
DeviceSeconds = Annotated[
    float | None, typer.Option("--budget-device-seconds", metavar="S", help="cli.opt.device_seconds")
]
DeviceHours = Annotated[float | None, typer.Option("--budget-device-hours", metavar="H", help="cli.opt.device_hours")]
Money = Annotated[str | None, typer.Option("--budget-money", metavar="AMOUNT", help="cli.opt.money")]
PricePerHour = Annotated[str | None, typer.Option("--price", metavar="AMOUNT", help="cli.opt.price")]
Target = Annotated[Literal["auto", "local", "none"], typer.Option("--target", help="cli.opt.target")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="cli.opt.seed")]
Full = Annotated[bool, typer.Option("--full", help="cli.opt.full")]
Probe = Annotated[int, typer.Option("--probe", metavar="N", min=0, max=8, help="cli.opt.probe")]
NoKnowledge = Annotated[bool, typer.Option("--no-knowledge", help="cli.opt.no_knowledge")]
Fixed = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="cli.opt.set")]
Executor = Annotated[str | None, typer.Option("--executor", metavar="NAME", help="cli.opt.executor")]
RayAddress = Annotated[str | None, typer.Option("--ray-address", metavar="HOST:PORT", help="cli.opt.ray_address")]
Objectives = Annotated[str | None, typer.Option("--objectives", metavar="LIST", help="cli.opt.objectives")]
AllowTruncate = Annotated[bool, typer.Option("--allow-truncate", help="cli.opt.allow_truncate")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="cli.opt.out")]


def run(  # noqa: PLR0913 - one parameter an option
    sentence: Sentence,
    data: Data = None,
    column: Column = None,
    model: Model = None,
    goal: Goal = None,
    domain: Domain = None,
    test: Test = None,
    validation: Validation = None,
    redact: Redact = False,
    budget_trials: Trials = 5,
    budget_hours: Hours = 4.0,
    budget_device_seconds: DeviceSeconds = None,
    budget_device_hours: DeviceHours = None,
    budget_money: Money = None,
    price: PricePerHour = None,
    target: Target = "auto",
    yes: Yes = False,
    seed: Seed = 0,
    full: Full = False,
    out: Out = None,
    executor: Executor = None,
    ray_address: RayAddress = None,
    fixed: Fixed = None,
    no_knowledge: NoKnowledge = False,
    probe: Probe = 0,
    objectives: Objectives = None,
    allow_truncate: AllowTruncate = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Trains, evaluates and serves a model for the sentence."""
    task = make_task(
        sentence=sentence,
        data=(data, test, validation),
        column=column,
        model=model,
        facts={"goal": goal, "domain": domain},
        budget={
            "--budget-trials": budget_trials,
            "--budget-hours": budget_hours,
            "--budget-device-seconds": budget_device_seconds,
            "--budget-device-hours": budget_device_hours,
            "--budget-money": budget_money,
            "--price": price,
        },
        more={"target": target, "seed": seed, "full": full, "redact": redact, "allow_truncate": allow_truncate}
        | {"options": fixed_settings(fixed, executor, ray_address, objectives)}
        | {"knowledge": not no_knowledge, "probe": probe},
    )
    _need_consent(yes)
    _need_environment(yes)
    if not yes and task.data is None:  # data would settle what a vague sentence leaves open
        task = replace(task, facts=asking.open_facts(task))
    from autoswift import api

    with _watched(task, yes=yes, verbose=verbose) as watch:
        record = api.start(task, out=out, confirm=watch.confirm, choose=watch.choose, listener=watch.listener)
    _finish(record)


def resume(run: Run, yes: Yes = False, verbose: Verbose = False, as_json: Json = False) -> None:
    """Goes on with a run where it stopped."""
    from autoswift.run.record import find

    record = find(run)
    task = record.task()
    yes = yes or record.step("fetch") is not None or record.step("probe-1") is not None  # its plan was agreed to before
    _need_consent(yes)
    _need_environment(yes)
    from autoswift import api

    current.run = record.id
    with _watched(task, yes=yes, verbose=verbose, agreed=record.plan()) as watch:
        record = api.resume(record, confirm=watch.confirm, choose=watch.choose, listener=watch.listener)
    _finish(record)


def plan(  # noqa: PLR0913 - one parameter an option
    sentence: Sentence,
    data: Data = None,
    column: Column = None,
    model: Model = None,
    goal: Goal = None,
    domain: Domain = None,
    test: Test = None,
    validation: Validation = None,
    redact: Redact = False,
    hardware: Annotated[Path | None, typer.Option("--hardware", metavar="PROBE.json", help="cli.opt.hardware")] = None,
    budget_trials: Trials = 5,
    budget_hours: Hours = 4.0,
    budget_device_seconds: DeviceSeconds = None,
    budget_device_hours: DeviceHours = None,
    budget_money: Money = None,
    price: PricePerHour = None,
    target: Target = "auto",
    seed: Seed = 0,
    full: Full = False,
    executor: Executor = None,
    ray_address: RayAddress = None,
    fixed: Fixed = None,
    no_knowledge: NoKnowledge = False,
    probe: Probe = 0,
    objectives: Objectives = None,
    allow_truncate: AllowTruncate = False,
    assume: Annotated[list[str] | None, typer.Option("--assume", metavar="FACT=VALUE", help="cli.opt.assume")] = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Decides everything and does nothing."""
    task = make_task(
        sentence=sentence,
        data=(data, test, validation),
        column=column,
        model=model,
        facts={"goal": goal, "domain": domain},
        budget={
            "--budget-trials": budget_trials,
            "--budget-hours": budget_hours,
            "--budget-device-seconds": budget_device_seconds,
            "--budget-device-hours": budget_device_hours,
            "--budget-money": budget_money,
            "--price": price,
        },
        more={"target": target, "seed": seed, "full": full, "redact": redact, "allow_truncate": allow_truncate}
        | {"options": fixed_settings(fixed, executor, ray_address, objectives)}
        | {"knowledge": not no_knowledge, "probe": probe},
    )
    from autoswift.cli.output import console, print_json

    facts = {name: typed(value) for name, value in pairs(assume or [], "--assume").items()}
    with _at_once():
        from autoswift import api

        made = api.plan(task, hardware=existing(hardware) if hardware else None, assume=facts)
    if as_json:
        print_json(made)
        return
    from autoswift.cli.show import plan_view

    console().print(plan_view(made, task, verbose=verbose))


@contextmanager
def _at_once() -> Iterator[None]:
    """For a command of a second or two.

    The encoder is loaded beside the imports, and memory is not searched for cycles: that costs a sixth of the time and
    finds nothing to speak of.
    """
    from autoswift.understand.embedding import embedder

    encoder = embedder()
    if encoder is not None:
        encoder.prepare()
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def existing(path: Path) -> Path:
    """A file that the user named, absolute.

    Raises:
        InputError: when it is not there.
    """
    found = path.expanduser().resolve()
    if not found.exists():
        raise InputError(say("no_file", path=path), "", say("no_file_fix"))
    return found


def make_task(
    *,
    sentence: str,
    data: tuple[str | None, str | None, str | None],
    column: list[str] | None,
    model: str | None,
    facts: dict[str, str | None],
    budget: dict[str, Any],
    more: dict[str, Any],
) -> Task:
    """The request as a value.

    Args:
        sentence, column, model: as on the command line.
        data: the data, the user's own test set, their own validation set.
        facts: what the user says of the task, by its name; None where nothing.
        budget: by the options' names.
        more: the other fields of `Task`.

    Raises:
        InputError: when something in it cannot be.
    """
    from autoswift.domain.task import Task

    speak(language_for(sentence))
    if not sentence.strip():
        raise InputError(say("no_sentence"), "", say("no_sentence_fix"))
    return Task(
        sentence=sentence.strip(),
        data=_place(data[0], hub=True),
        test=_place(data[1]),
        validation=_place(data[2]),
        facts={name: word for name, word in facts.items() if word is not None},
        columns=pairs(column or [], "--column"),
        model=model,
        budget=budget_of(budget),
        language=current.language,
        **more,
    )


def _place(given: str | None, *, hub: bool = False) -> str | None:
    """An existing file or folder, or the name of a data set on a hub.

    Raises:
        InputError: when it is neither.
    """
    if not given:
        return None
    if hub:
        from autoswift.understand.sourced import is_dataset_name

        if is_dataset_name(given):
            return given
    return str(existing(Path(given)))


def _need_environment(yes: bool) -> None:
    """Makes the training environment at the first training, with the user's consent.

    Raises:
        EnvironmentMissing: when the user does not want it.
    """
    from autoswift.cli.output import console
    from autoswift.run.places import train_python, train_python_or_none

    if train_python_or_none() is not None:
        return
    out = console(stderr=True)
    out.print(say("setup_needed"))
    if not (yes or typer.confirm(say("setup_go_on"), default=True, err=True)):
        train_python()
    from autoswift.cli.show import foreign
    from autoswift.run.setup import setup

    setup(lambda line: out.print(foreign(line), soft_wrap=True), language=current.language)


def _need_consent(yes: bool) -> None:
    """A question needs somebody to answer it.

    Raises:
        InputError: when nobody can.
    """
    if not yes and (current.as_json or not sys.stdin.isatty()):
        raise InputError(say("need_yes"), say("need_yes_why"), say("need_yes_fix"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a run asks and tells: the plan, the data sets found, and every event."""

    confirm: Callable[[Plan], bool]
    choose: Callable[[Sequence[Candidate]], Candidate | None] | None
    listener: Callable[[dict[str, Any]], None]


@contextmanager
def _watched(task: Task, *, yes: bool, verbose: bool, agreed: Plan | None = None) -> Iterator[Watch]:
    """A live display around a run; after Ctrl-C (or SIGTERM) the run's id is known for the message."""
    from autoswift.cli.live import Display
    from autoswift.cli.output import console
    from autoswift.cli.show import plan_view

    out = console()
    display = Display(out, task)
    if agreed is not None:
        display.use_plan(agreed)
    begin = time.time()

    def confirm(plan: Plan) -> bool:
        display.use_plan(plan)
        with display.paused():
            asking.show_origin(out, _run_of_this_process(begin), task.language)
            out.print(plan_view(plan, task, verbose=verbose))
            return yes or typer.confirm(say("go_on"), default=True, err=current.as_json)

    def choose(found: Sequence[Candidate]) -> Candidate | None:
        with display.paused():
            return asking.choose(out, found)

    try:
        with display:
            yield Watch(confirm=confirm, choose=None if yes else choose, listener=display)
    except BaseException:
        mine = _run_of_this_process(begin)
        current.run = current.run or (mine.id if mine else "")
        raise


def _run_of_this_process(begin: float) -> RunRecord | None:
    """The run that this process began."""
    from autoswift.run.record import all_runs

    for record in all_runs():
        if record.created < begin - 1:
            break
        if any(row.get("pid") == os.getpid() for row in record.journal.events() if row.get("kind") == "session"):
            return record
    return None


def _finish(record: RunRecord) -> None:
    """Prints the result; a run that ended with less than asked exits with 3."""
    from autoswift.cli.output import console, print_json
    from autoswift.cli.show import as_value, result_view

    if current.as_json:
        print_json(as_value(record))
    else:
        console().print(result_view(record))
    if record.state().get("state") == "partial":
        raise typer.Exit(3)
