"""`compare`: two models on the same rows, side by side, with a verdict in words."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoswift.cli.options import Command, Json, current, say
from autoswift.errors import InputError
from autoswift.tables import explain

if TYPE_CHECKING:
    from rich.console import RenderableType

    from autoswift.evaluate.answers import Answers
    from autoswift.evaluate.kept import Kept

Model = Annotated[str, typer.Argument(metavar="RUN|MODEL|URL", help="cli.opt.compared")]
DataFile = Annotated[Path | None, typer.Option("--data", "-d", metavar="FILE.jsonl", help="cli.opt.compare_data")]
Goal = Annotated[str, typer.Option("--goal", metavar="WORD", help="cli.opt.compare_goal")]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="cli.opt.suite_limit")]
Html = Annotated[Path | None, typer.Option("--html", metavar="PAGE.html", help="cli.opt.html")]
MEASURES = 8
"""Measures shown on the terminal; `--json` and the page have all."""


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    app.command("compare", cls=Command, help="cli.help.compare", rich_help_panel="cli.panel.runs")(compare)


def compare(  # noqa: PLR0913 - one parameter an option
    one: Model,
    other: Model,
    data: DataFile = None,
    goal: Goal = "chat",
    limit: Limit = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="cli.opt.seed")] = 0,
    html: Html = None,
    as_json: Json = False,
) -> None:
    """Two runs by the answers that they kept; other models by rows of a file that both answer."""
    from autoswift.cli.output import console, print_json
    from autoswift.evaluate.comparison import Setting
    from autoswift.evaluate.comparison import compare as measured
    from autoswift.run.files import plain
    from autoswift.understand.embedding import embedder

    left, right = _kept(one, other) if data is None else _asked((one, other), data, goal, limit)
    setting = Setting(metric=left.metric, seed=seed)
    value = measured(left.answers, right.answers, left.rows, left.references, setting, (None, embedder()))
    names = (left.name, right.name) if left.name != right.name else (left.name, f"{right.name} (2)")
    value = plain(value | {"a": names[0], "b": names[1]})
    path = None
    if html is not None:
        from autoswift.report.comparison import write_page

        path = write_page(value, names, current.language, html)
    if as_json:
        print_json(value | ({"page": str(path)} if path else {}))
        return
    console().print(comparison_view(value, names, current.language))
    if path:
        console().print(say("compare.page", path=path), soft_wrap=True, markup=False)


def _kept(one: str, other: str) -> tuple[Kept, Kept]:
    """The answers that two runs kept, on the rows that both answered.

    Raises:
        InputError: when one is no run, kept none, or they have no row in common.
    """
    from autoswift.cli.evaluate import asked_of
    from autoswift.evaluate.kept import common, kept

    sides = []
    for word in (one, other):
        name, model = _split(word)
        target = asked_of(name)
        if target.record is None:
            raise InputError(*explain("evaluate.needs_data"))
        sides.append(kept(target.record, model))
    return common(sides[0], sides[1])


def _split(word: str) -> tuple[str, str]:
    """`RUN:base` as the run and which of its models is meant."""
    name, colon, model = word.rpartition(":")
    return (name, model) if colon and model in ("base", "tuned") else (word, "tuned")


def _asked(words: Sequence[str], data: Path, goal: str, limit: int | None) -> tuple[Kept, Kept]:
    """Both models answer the rows of a file.

    Raises:
        InputError: for rows without messages, or a word that is no goal.
    """
    from autoswift.cli.evaluate import rows_of
    from autoswift.engines.stages import last_answer
    from autoswift.evaluate.kept import Kept, key_of
    from autoswift.evaluate.metrics import METRIC_BY_GOAL

    metric = METRIC_BY_GOAL.get(goal)
    if metric is None or metric in ("ndcg", "pair_accuracy"):
        raise InputError(say("bad_goal", goal=goal), "", ", ".join(g for g in METRIC_BY_GOAL))
    found = rows_of(data, ("messages",))[:limit]
    rows = [row for row in found if len(row["messages"]) > 1 and row["messages"][-1].get("role") == "assistant"]
    if not rows:
        raise InputError(*explain("evaluate.bad_rows", path=data))
    references, keys = [last_answer(row) for row in rows], [key_of(row) for row in rows]
    sides = []
    for word in words:
        sides.append(Kept(word, rows, references, keys, _answers(word, rows), metric))
    return sides[0], sides[1]


def _answers(word: str, rows: list[dict[str, Any]]) -> Answers:
    from autoswift.cli.evaluate import asked_of, load_of, worker_at
    from autoswift.domain.plan import EvaluationSettings
    from autoswift.evaluate.answers import answer, ask_server

    name, model = _split(word)
    target = asked_of(name)
    if target.url:
        from autoswift.serve.client import complete, served_model

        served = served_model(target.url)
        return ask_server(rows, lambda messages: complete(target.url, messages, 256, 0.0, model=served))
    settings = EvaluationSettings(
        metric="", validation_rows=0, test_rows=len(rows), max_new_tokens=256, generation_batch_size=8
    )
    with tempfile.TemporaryDirectory() as folder, worker_at(Path(folder)) as worker:
        return answer(worker, load_of(target, model), rows, settings, float("inf"), lambda _: None)


def comparison_view(value: Mapping[str, Any], names: tuple[str, str], language: str) -> RenderableType:
    """The verdict, the measures, the kinds of rows, and one win and one loss."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from autoswift.report import words
    from autoswift.report.comparison import by, name_of

    verdict = (value.get("verdict") or {}).get("words") or {}
    head = Text(str(verdict.get(language) or ""), style="bold")
    title = say("compare.title", a=names[0], b=names[1], rows=value["rows"])
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2))
    for label in (say("compare.metric"), *names, say("compare.difference")):
        table.add_column(label, overflow="fold")
    scores = (value["base"]["scores"], value["tuned"]["scores"])
    order = sorted(scores[1], key=lambda name: name != value["metric"])
    for name in order[:MEASURES]:
        difference = value["difference"].get(name) or {}
        cells = [words.number(side[name]["value"]) for side in scores]
        table.add_row(words.named("metric", name, language), *cells, _span(difference))
    parts: list[RenderableType] = [head, Text(""), table]
    if value.get("wins"):
        parts.append(Text(say("compare.wins", **value["wins"])))
    if value.get("categories"):
        kinds = Table(box=None, padding=(0, 2))
        for label in (say("compare.by"), "", say("compare.rows"), *names, say("compare.difference")):
            kinds.add_column(label, overflow="fold")
        for one in value["categories"]:
            cells = [str(one["rows"]), words.number(one["base"]), words.number(one["tuned"]), _span(one["difference"])]
            kinds.add_row(by(one, language), name_of(one, language), *cells)
        parts += [Text(""), kinds]
    for kind in ("win", "loss"):
        first = next((e for e in value.get("examples") or [] if e.get("kind") == kind), None)
        if first:
            parts += [Text(""), Text(say(f"compare.{kind}"), style="bold"), *_example(first, names)]
    return Group(*parts)


def _span(difference: Mapping[str, Any]) -> str:
    from autoswift.report import words

    if difference.get("value") is None:
        return words.NOTHING
    shown = words.signed(difference["value"])
    if difference.get("low") is not None:
        shown += f" ({words.signed(difference['low'])} … {words.signed(difference['high'])})"
    return shown


def _example(one: Mapping[str, Any], names: tuple[str, str]) -> list[RenderableType]:
    from rich.text import Text

    asked = next((str(m.get("content")) for m in reversed(one["prompt"]) if m.get("role") == "user"), "")
    lines = [("?", asked), ("=", str(one["reference"])), (names[0], str(one["base"])), (names[1], str(one["tuned"]))]
    return [Text(f"{label}: {_short(words)}") for label, words in lines]


def _short(words: str, most: int = 300) -> str:
    flat = " ".join(words.split())
    return flat if len(flat) <= most else flat[:most] + "…"
