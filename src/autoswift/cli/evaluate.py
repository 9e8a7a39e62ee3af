"""`evaluate`: how good a model is: a run's kept result, the guard set, instructions, programs, or a benchmark."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoswift.cli.options import Command, Json, current, say
from autoswift.errors import InputError
from autoswift.tables import explain, has_text, text

if TYPE_CHECKING:
    from autoswift.run.record import RunRecord

Target = Annotated[str, typer.Argument(metavar="RUN|MODEL|URL", help="cli.opt.evaluated")]
Suites = Annotated[list[str] | None, typer.Option("--suite", "-s", metavar="SUITE", help="cli.opt.suite")]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="cli.opt.suite_limit")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="cli.opt.suite_out")]
MAX_TOKENS = 512
"""Of an answer to an instruction or a programming task; HumanEval's longest solutions take about 300."""


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    app.command("evaluate", cls=Command, help="cli.help.evaluate", rich_help_panel="cli.panel.runs")(evaluate)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is evaluated: a run, a model's folder, or a server's address; exactly one is there."""

    name: str
    record: RunRecord | None = None
    folder: Path | None = None
    url: str = ""


def asked_of(word: str) -> Asked:
    """A run, a folder or an address from the command line.

    Raises:
        RunNotFound: when it is none of them.
    """
    from autoswift.run.record import find

    if word.startswith(("http://", "https://")):
        base = word.rstrip("/")
        return Asked(word, url=base if base.endswith("/v1") else base + "/v1")
    path = Path(word).expanduser()
    if (path / "config.json").is_file() and not (path / "run.json").exists():
        return Asked(path.resolve().name, folder=path.resolve())
    record = find(word)
    return Asked(record.id, record=record)


def evaluate(target: Target, suite: Suites = None, limit: Limit = None, out: Out = None, as_json: Json = False) -> None:
    """A run's test set is opened once, within the run: here its kept result is shown, never anew."""
    from autoswift.cli.output import print_json

    one = asked_of(target)
    wanted = suite or (
        ["test"] if one.record is not None else ["guard"] if one.folder is not None else ["instructions"]
    )
    with _place(out, one) as place:
        results = {word: _suite(one, word, place, limit) for word in wanted}
    if as_json:
        print_json({"target": one.name, "suites": results})
        return
    for word, value in results.items():
        _show(word, value)


@contextmanager
def _place(out: Path | None, one: Asked) -> Iterator[Path]:
    """Where files of the evaluation go: as named, in the run, or for a while."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        yield out.resolve()
    elif one.record is not None:
        place = one.record.folder / "evaluation"
        place.mkdir(exist_ok=True)
        yield place
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def _suite(one: Asked, word: str, place: Path, limit: int | None) -> dict[str, Any]:
    if word == "test":
        return _test(one)
    if word == "guard":
        return _guard(one, place)
    if word == "instructions" or word.startswith("code="):
        with served(one, place) as (address, model):
            return _instructions(address, model) if word == "instructions" else _code(address, model, word, limit)
    from autoswift.evaluate.suites import run_suite, suite_of

    asked = suite_of(word, limit)
    with served(one, place) as (address, model):
        return run_suite(address, model, asked, place)


def _test(one: Asked) -> dict[str, Any]:
    """What the run's own evaluation left.

    Raises:
        InputError: when it is no run, or has not been evaluated.
    """
    if one.record is None:
        raise InputError(*explain("evaluate.test_of_what"))
    value = one.record.value("evaluate")
    if value is None:
        raise InputError(*explain("evaluate.no_test", run=one.record.id))
    return {"kind": "test", "kept": True} | dict(value)


def _guard(one: Asked, place: Path) -> dict[str, Any]:
    """The guard set: as the run has it, or asked now.

    Raises:
        InputError: for an address: a server does not tell the likelihood of given answers.
    """
    from autoswift.evaluate.forgetting import items, judge, request, scored, summary
    from autoswift.run.files import plain

    if one.url:
        raise InputError(*explain("evaluate.guard_url", url=one.url))
    kept = one.record.value("guard") if one.record is not None else None
    if kept is not None:
        return {"kind": "guard", "kept": True} | dict(kept["verdict"])
    with worker_at(place) as worker:
        worker.ask("load", **load_of(one))
        values = scored(worker.ask("choose", **request(), batch_size=8))
    guess = sum(item.guess for item in items()) / len(items())
    abilities = judge(values, values, items())["abilities"]
    found = {"kind": "guard", "kept": False, "rows": len(values), "guess": guess, "score": plain(summary(values))}
    return found | {"abilities": [{k: v for k, v in one.items() if k != "base"} for one in abilities]}


@contextmanager
def worker_at(place: Path) -> Iterator[Any]:
    """A model worker whose log goes to `place/logs`."""
    from autoswift.engines.worker import ModelWorker
    from autoswift.run.places import train_python

    (place / "logs").mkdir(parents=True, exist_ok=True)
    with ModelWorker(train_python(), place, os.cpu_count() or 1) as worker:
        yield worker


def load_of(one: Asked, model: str = "tuned") -> dict[str, Any]:
    """The worker's `load` for a folder, or for a run's merged model or its base."""
    from autoswift.catalog.folder import inspect_folder

    if one.record is not None:
        plan = one.record.plan()
        base = model == "base"
        folder = Path(one.record.value("fetch")["path"]) if base else one.record.folder / "model" / "merged"
        if plan is not None:
            return {
                "model": str(folder),
                "model_type": plan.model.model_type or None,
                "template": plan.model.template or None,
                "system": one.record.value("fetch")["system"] or None,
                "dtype": plan.training.precision,
            }
    else:
        folder = one.folder or Path()
    facts = inspect_folder(folder)
    return {"model": str(folder), "model_type": facts.model_type or None, "template": facts.template or None}


@contextmanager
def served(one: Asked, place: Path) -> Iterator[tuple[str, str]]:
    """Address and name of the model while it is served: as it stands, or started for this."""
    from autoswift.serve.client import served_model
    from autoswift.serve.deploy import status

    if one.url:
        yield one.url, served_model(one.url)
        return
    live = status(one.record.folder) if one.record is not None else None
    if live is not None and live["state"] == "running":
        yield str(live["address"]), str(live["model_name"])
        return
    from autoswift.domain.artifact import Artifact
    from autoswift.run.journal import RunJournal
    from autoswift.serve.deploy import deploy, stop

    load = load_of(one)
    folder = place / "server"
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    names = {name: load.get(name) for name in ("model_type", "template")}
    settings = {"model_name": Path(load["model"]).name, "context": 4096, "parallel": 4, "language": current.language}
    settings |= {"threads": os.cpu_count() or 1} | {k: v for k, v in names.items() if v}
    artifact = Artifact(path=str(load["model"]), kind="merged")
    try:
        made = deploy(folder, artifact, "transformers", settings, RunJournal(folder))
        yield made.address, served_model(made.address)
    finally:
        stop(folder)


def _instructions(address: str, model: str) -> dict[str, Any]:
    """Instructions whose answers are checked by a rule."""
    from autoswift.evaluate.forgetting import follows, rules, summary
    from autoswift.run.files import plain

    rows: list[dict[str, Any]] = []
    for language, prompt, rule in rules():
        answer = _ask(address, model, prompt, 64)
        rows.append({"language": language, "prompt": prompt, "answer": answer, "kept": follows(rule, answer)})
    score = plain(summary([float(row["kept"]) for row in rows]))
    return {"kind": "instructions", "rows": len(rows), "score": score, "answers": rows}


def _ask(address: str, model: str, prompt: str, tokens: int) -> str:
    from autoswift.serve.client import complete

    found = complete(address, [{"role": "user", "content": prompt}], tokens, 0.0, model=model)
    return str(found["message"]["content"] or "")


def _code(address: str, model: str, word: str, limit: int | None) -> dict[str, Any]:
    """pass@1 of programs, each run in a sandbox."""
    from autoswift.evaluate.forgetting import summary
    from autoswift.evaluate.sandbox import pass_at_1
    from autoswift.run.files import plain

    tasks = rows_of(Path(word.partition("=")[2]), ("prompt", "entry_point", "test"))[:limit]
    rows = pass_at_1(tasks, lambda prompt: _ask(address, model, prompt, MAX_TOKENS))
    score = plain(summary([float(row["passed"]) for row in rows]))
    return {"kind": "code", "metric": "pass_at_1", "rows": len(rows), "score": score, "tasks": rows}


def rows_of(path: Path, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file that have all the fields.

    Raises:
        InputError: when there is no file, a line is no JSON object, or no row has the fields.
    """
    from autoswift.cli.inspect import batch_rows

    found = [row for row in batch_rows(path) if all(row.get(name) for name in fields)]
    if not found:
        raise InputError(*explain("evaluate.bad_rows", path=path))
    return found


def _show(word: str, value: dict[str, Any]) -> None:
    from autoswift.cli.output import console

    out = console()
    if value.get("kind") == "test":
        from autoswift.cli.compare import comparison_view

        out.print(say("evaluate.kept"))
        out.print(comparison_view(value, ("base", "tuned"), current.language))
        return
    if value.get("kind") == "guard":
        score = value["tuned"] if "tuned" in value else value["score"]["value"]
        line = say("evaluate.guard", score=f"{100 * score:.1f}", guess=f"{100 * value['guess']:.0f}")
        out.print(line, soft_wrap=True, markup=False)
        for ability in value.get("abilities") or []:
            names = (f"evaluate.ability.{ability['name']}", f"evaluate.name.{ability['language']}")
            named = ", ".join(text(key, current.language) if has_text(key, current.language) else key for key in names)
            out.print(f"  {100 * ability['tuned']:3.0f}  {named}", markup=False)
        return
    inner = value["score"]
    whole = inner if isinstance(inner, dict) else {"value": inner, "low": value.get("low"), "high": value.get("high")}
    shown = f"{whole['value']:.4g}"
    if whole.get("low") is not None:
        shown += f" ({whole['low']:.3g} … {whole['high']:.3g})"
    name = str(value.get("suite") or word)
    metric = str(value.get("metric") or "accuracy")
    out.print(say("evaluate.suite", suite=name, metric=metric, score=shown, rows=value["rows"]), markup=False)
    if value.get("folder"):
        out.print(say("evaluate.files", folder=value["folder"]), soft_wrap=True, markup=False)
