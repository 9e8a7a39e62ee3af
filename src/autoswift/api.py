"""autoswift from Python: the same runs that the command line makes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoswift import __version__
from autoswift.domain.budget import Budget
from autoswift.domain.plan import Plan
from autoswift.domain.task import Language, Target, Task
from autoswift.errors import AutoSwiftError, BudgetExhausted, DiskError, InputError, Vetoed
from autoswift.hardware.money import money_terms
from autoswift.run import record as records
from autoswift.run.clock import RunClock, seconds_spent
from autoswift.run.context import RunContext
from autoswift.run.disk import disk_errors_explained
from autoswift.run.journal import Listener
from autoswift.run.lock import owned
from autoswift.run.places import train_python
from autoswift.run.process import reap
from autoswift.run.record import RunRecord
from autoswift.tables import explain, text, use_language
from autoswift.understand.sourced import Choose, is_dataset_name

if TYPE_CHECKING:
    from autoswift.pipeline import Confirm


def checked(task: Task) -> Task:
    """The task with its data file as an absolute path and its budget within bounds.

    Raises:
        InputError: when something about it cannot be right.
    """
    budget = task.budget
    if budget.trials < 1:
        raise InputError(*explain("api.trials", trials=budget.trials))
    if not 0 < budget.hours < 24 * 365:
        raise InputError(*explain("api.hours", hours=budget.hours))
    for number in (budget.device_seconds, budget.money):
        if number is not None and not 0 < number < float("inf"):
            raise InputError(*explain("api.limit", limit=number))
    if not 0 <= task.probe <= 8:  # as many as the ranking is surely right about
        raise InputError(*explain("api.probe", probe=task.probe))
    if task.target not in ("auto", "local", "none"):
        raise InputError(*explain("api.target", target=task.target))
    paths: dict[str, Any] = {}
    for name in ("data", "test", "validation"):
        given = getattr(task, name)
        if given is None or (name == "data" and not Path(given).expanduser().exists() and is_dataset_name(given)):
            continue
        path = Path(given).expanduser().resolve()
        if not path.exists():
            raise InputError(*explain("api.no_data", path=path))
        paths[name] = str(path)
    return replace(task, **paths)


def start(
    task: Task,
    *,
    out: Path | None = None,
    confirm: Confirm | None = None,
    choose: Choose | None = None,
    listener: Listener | None = None,
) -> RunRecord:
    """Makes a run and carries it out to its end.

    A request that turns out to be wrong before anything was trained leaves no run behind.

    Raises:
        AutoSwiftError: what ended it. The run is resumable unless it was never begun.
    """
    use_language(task.language)
    task = checked(task)
    train_python()  # without it nothing can be trained: said before anything is written
    existed = out is not None and out.expanduser().exists()
    record = records.create(task, out)
    try:
        return _carry_out(record, (confirm, choose), listener)
    except (InputError, Vetoed):
        if record.step("fetch") is None:
            records.discard(record.folder, keep_folder=existed)
        raise


def resume(
    record: RunRecord,
    *,
    confirm: Confirm | None = None,
    choose: Choose | None = None,
    listener: Listener | None = None,
) -> RunRecord:
    """Does what is missing of a run.

    Raises:
        RunLocked: when another process works on it (an `InputError`).
        AutoSwiftError: what ended it.
    """
    use_language(record.task().language)
    train_python()
    return _carry_out(record, (confirm, choose), listener)


def _carry_out(record: RunRecord, ask: tuple[Confirm | None, Choose | None], listener: Listener | None) -> RunRecord:
    from autoswift.pipeline import Pipeline  # the whole way through: a plan alone needs little of it

    with owned(record.folder):
        journal = record.journal
        task = record.task()
        use_language(task.language)
        past = journal.events()
        clock = RunClock(task.budget, seconds_spent(past))
        context = RunContext(record=record, journal=journal, task=task, clock=clock)
        # What an earlier owner had to leave out stays left out: those stages are not done again.
        context.shortfalls += [str(row["text"]) for row in past if row["kind"] == "note" and row.get("short")]
        if listener is not None:
            journal.listen(listener)
        journal.event("session", pid=os.getpid(), version=__version__)
        for name in reap(record.folder):
            context.note(text("note.reaped", task.language, name=name))
        told = {str(row["text"]) for row in past if row["kind"] == "note"}
        for words in (text("run.mended", task.language, name=name) for name in record.mend()):
            if words not in told:
                context.note(words, "warn")
        record.update(state="running", error=None)
        try:
            with _signals_interrupt(), disk_errors_explained(str(record.folder)):
                result = Pipeline(context, *ask).run()
        except KeyboardInterrupt:
            _end(record, context, "interrupted")
            raise
        except AutoSwiftError as exc:
            _end(record, context, "partial" if isinstance(exc, BudgetExhausted) else "failed", error=exc.as_json())
            raise
        except Exception as exc:
            _end(record, context, "failed", error={"error": type(exc).__name__, "what": str(exc)})
            raise
        if result.get("declined"):
            raise Vetoed(
                text("declined.what", task.language),
                text("declined.why", task.language),
                text("declined.fix", task.language),
            )
        _end(
            record,
            context,
            "partial" if context.shortfalls else "done",
            address=result["address"],
            report=str(record.folder / result["report"]),
        )
    return record


def _end(record: RunRecord, context: RunContext, state: str, **fields: Any) -> None:
    """Writes how it ended. On a bad disk that fails too, which is told after a good end; else the first error is."""
    with contextlib.suppress(*([DiskError] if state == "interrupted" or "error" in fields else [])):
        context.journal.event("done", state=state, **fields)
        record.update(state=state, error=fields.get("error"))


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end a run as Ctrl-C does, so that children are ended and the state is written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    old = {one: signal.signal(one, interrupt) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for one, handler in old.items():
            signal.signal(one, handler)


def plan(
    sentence: str | Task,
    data: str | None = None,
    *,
    hardware: Path | None = None,
    assume: Mapping[str, Any] | None = None,
    **options: Any,
) -> Plan:
    """The plan for a task, without training anything or keeping a run.

    Args:
        sentence: what the model is to do; or a whole Task.
        data: the data file.
        hardware: a recorded probe of another machine; hubs count as reachable from there unless its `network` says
            otherwise.
        assume: facts to suppose otherwise, by their place among the plan's inputs ("task.budget.hours"): what a
            decision's `reverse_when` names can be tried so.
        options: further fields of `AutoSwift`.

    Raises:
        AutoSwiftError: when there is no plan.
    """
    from autoswift.catalog.availability import availability, availability_of, dataset_hubs
    from autoswift.decide.experience import recall
    from autoswift.decide.facts import suppose
    from autoswift.decide.stages import check_plug_ins, explained_plan, inputs_for, measured_margins
    from autoswift.hardware.probe import from_json, probe
    from autoswift.run.places import existing, home
    from autoswift.understand.stage import profiles

    task = sentence if isinstance(sentence, Task) else AutoSwift(**options).task(sentence, data)
    use_language(task.language)
    task = checked(task)
    profile, found, _ = profiles(task, dataset_hubs)
    machine = from_json(hardware) if hardware else probe(existing(home()))
    cause = text("plan.cause.first", task.language)
    here = availability() if hardware is None else availability_of(machine)
    inputs = inputs_for(task, profile, found, machine, here)
    measured, _ = measured_margins(machine)
    inputs = replace(inputs, experience=recall(inputs, embed=False), margins=measured)
    for fact, value in (assume or {}).items():
        inputs = suppose(inputs, fact, value)
    made = explained_plan(inputs, cause=cause)
    check_plug_ins(made)
    return made


class FinishedRun:
    """A run from Python."""

    def __init__(self, record: RunRecord) -> None:
        self.record = record

    def __repr__(self) -> str:
        return f"<autoswift run {self.id}: {self.state}>"

    @property
    def id(self) -> str:
        """The run's id."""
        return self.record.id

    @property
    def state(self) -> str:
        """One of new, running, done, partial, failed, interrupted."""
        return str(self.record.state()["state"])

    @property
    def best(self) -> dict[str, Any]:
        """The winning trial: its number, parameters, validation metrics, and the scores on the test set."""
        trained = self.record.value("train") or {}
        return {k: trained.get(k) for k in ("trial", "parameters", "metrics")} | {
            "test": self.record.state().get("result")
        }

    @property
    def plan(self) -> Plan | None:
        """The newest revision of the plan."""
        return self.record.plan()

    @property
    def trials(self) -> list[dict[str, Any]]:
        """Every trial's end: number, outcome."""
        return [
            {"trial": row["trial"], **row["outcome"]} for row in self.record.journal.trials() if row["event"] == "ended"
        ]

    @property
    def endpoint(self) -> str | None:
        """The OpenAI-compatible base address, or None when nothing is served now."""
        from autoswift.serve.deploy import status

        found = status(self.record.folder)
        return str(found["address"]) if found and found["state"] == "running" else None

    @property
    def report(self) -> Path:
        """The report's path."""
        return self.record.folder / "report.html"

    @property
    def model(self) -> Path:
        """The merged model's folder."""
        return self.record.folder / "model" / "merged"

    def chat(self, message: str, *, max_tokens: int = 256, temperature: float = 0.0) -> str:
        """Asks the served model.

        Raises:
            InputError: when nothing is served.
        """
        from autoswift.serve.deploy import chat

        use_language(self.record.task().language)
        address = self.endpoint
        if address is None:
            raise InputError(*explain("api.not_served", run=self.id))
        return chat(address, [{"role": "user", "content": message}], max_tokens=max_tokens, temperature=temperature)

    def stop(self) -> bool:
        """Stops serving; whether anything was."""
        from autoswift.serve.deploy import stop

        return stop(self.record.folder)


class AutoSwift:
    """The settings of runs to come.

    Args:
        trials, hours, device_seconds, money: the budget; money as 20, "20 CNY" or "$3", for the whole run.
        price: of one device-hour, likewise; None takes AUTOSWIFT_PRICE_PER_HOUR, or the list's.
        model: hub id, catalogue name or folder; None lets the plan choose.
        target: auto, local or none.
        seed: of every random choice.
        full: lifts the cap on trained tokens on a CPU.
        language: zh or en; by default that of the sentence.
        options: settings fixed explicitly, by decision name.
        facts: what the user says of the task themselves: goal, domain, modality, deploy.
        test, validation: the user's own sets. redact: personal data is masked.
        knowledge: what earlier runs taught bears on the plan.
        probe: so many of the best models are trained a few steps before one is taken.
        allow_truncate: rows may be cut shorter when nothing else makes a training fit.
    """

    def __init__(  # noqa: PLR0913 - the options of a run
        self,
        *,
        trials: int = 5,
        hours: float = 4.0,
        device_seconds: float | None = None,
        money: float | str | None = None,
        price: float | str | None = None,
        model: str | Path | None = None,
        target: Target = "auto",
        seed: int = 0,
        full: bool = False,
        language: str | None = None,
        options: dict[str, Any] | None = None,
        facts: dict[str, str] | None = None,
        test: str | Path | None = None,
        validation: str | Path | None = None,
        redact: bool = False,
        knowledge: bool = True,
        probe: int = 0,
        allow_truncate: bool = False,
    ) -> None:
        self._budget, self._money = Budget(trials=trials, hours=hours, device_seconds=device_seconds), (money, price)
        self._model = str(model) if model is not None else None
        self._target, self._seed, self._full = target, seed, full
        self._language, self._options = language, dict(options or {})
        self._data = {
            "facts": dict(facts or {}),
            "test": str(test) if test is not None else None,
            "validation": str(validation) if validation is not None else None,
            "redact": redact,
            "knowledge": knowledge,
            "probe": probe,
            "allow_truncate": allow_truncate,
        }

    def task(self, sentence: str, data: str | Path | None = None, columns: dict[str, str] | None = None) -> Task:
        """The task that a sentence and a file make."""
        chinese = any("\u4e00" <= c <= "\u9fff" for c in sentence)
        language: Language = "zh" if (self._language or ("zh" if chinese else "en")) == "zh" else "en"
        return Task(
            sentence=sentence,
            data=str(data) if data is not None else None,
            columns=columns or {},
            model=self._model,
            budget=replace(self._budget, **money_terms(*self._money, language, os.environ)),
            target=self._target,
            seed=self._seed,
            full=self._full,
            language=language,
            options=self._options,
            **self._data,  # type: ignore[arg-type]
        )

    def fit(
        self,
        sentence: str,
        data: str | Path | None = None,
        *,
        columns: dict[str, str] | None = None,
        out: str | Path | None = None,
        listener: Listener | None = None,
    ) -> FinishedRun:
        """Carries out a run and returns it.

        Raises:
            AutoSwiftError: what ended it.
        """
        record = start(
            self.task(sentence, data, columns), out=Path(out) if out else None, listener=listener or _print_notes
        )
        return FinishedRun(record)

    @staticmethod
    def open(run: str | Path) -> FinishedRun:
        """An existing run by id, prefix or path.

        Raises:
            RunNotFound: none or several.
        """
        return FinishedRun(records.find(str(run)))


def _print_notes(row: dict[str, Any]) -> None:
    """Without another listener, stages and warnings go to stderr, one line each."""
    if row["kind"] == "stage" and row["state"] in ("finished", "skipped"):
        print(f"autoswift: {row['stage']} {row['state']}", file=sys.stderr)
    elif row["kind"] == "note" and row.get("level") == "warn":
        print(f"autoswift: {row['text']}", file=sys.stderr)
