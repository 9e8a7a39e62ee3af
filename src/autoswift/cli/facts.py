"""Facts that `understand`, `data`, `models`, `fit`, `knowledge` and `doctor` show a person, as Rich tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoswift.cli.options import current, say
from autoswift.cli.show import foreign
from autoswift.report import words

MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✕", "red")}


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_column(style="dim", overflow="fold")
    return grid


def facts_view(answer: dict[str, Any]) -> RenderableType:
    """What a sentence asks for."""
    grid, language = _grid(), current.language
    grid.add_column(style="dim", no_wrap=True, justify="right")
    evidence, sure = answer.get("evidence") or {}, answer.get("confidence") or {}
    for name in ("goal", "domain", "language", "modality", "deploy", "hardware"):
        found = answer.get(name)
        if not found or found == "none":
            continue
        many = [found] if isinstance(found, str) else list(found)
        shown = ", ".join(words.named(f"word.{name}", str(one), language) for one in many)
        certain = say("sure", percent=round(sure[name] * 100)) if isinstance(sure.get(name), int | float) else ""
        grid.add_row(words.named("fact", name, language), foreign(shown), foreign(evidence.get(name, "")), certain)
    for name, found in (answer.get("constraints") or {}).items():
        grid.add_row(words.named("fact", name, language), foreign(found), foreign(evidence.get(name, "")))
    parts: list[RenderableType] = ["", grid]
    if answer.get("assumptions"):
        parts += ["", Text(say("assumed"), style="dim")]
        parts += [foreign(f"· {one}") for one in answer["assumptions"]]
    if answer.get("problems"):
        parts += ["", problems_view(answer["problems"], "")]
    return Group(*parts, "")


def problems_view(problems: Sequence[dict[str, Any]], name: str) -> RenderableType:
    """Problems of data as their JSON values, the worst first, each kind once."""
    from autoswift.cli.data_view import findings_view
    from autoswift.report.data import refused

    return findings_view(refused(problems, name, current.language).findings)


def models_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The catalogue."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    fits = any("fit" in row for row in rows)
    for key in ("model", "size", *(("fits",) if fits else ()), "languages", "domains", "context", "licence"):
        table.add_column(
            say(f"models.{key}"), justify="right" if key in ("size", "context") else "left", overflow="fold"
        )
    for row in rows:
        size = f"{row['parameters'] / 1e9:.2g}B"
        domains, languages = ", ".join(row["domains"]), ", ".join(row["languages"])
        cells = [size, *((_fit_word(row),) if fits else ()), languages, domains or "–", str(row["context"])]
        table.add_row(foreign(row["id"]), *cells, foreign(row["licence"]))
    return table


def _fit_word(row: dict[str, Any]) -> str:
    """How a model trains on the card that was asked about."""
    found = row.get("fit") or {}
    return str(found.get("method") or say("fit.yes")) if found.get("fits") else say("fit.no")


def knowledge_table(entries: Sequence[Any]) -> Table:
    """What is kept of earlier runs."""
    language = current.language
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for key in ("run", "task", "model", "best", "result"):
        table.add_column(say(f"knowledge.{key}"), overflow="fold")
    for entry in entries:
        mark = entry.fingerprint
        task = ", ".join(
            words.named(f"word.{kind}", getattr(mark, kind), language) for kind in ("goal", "domain", "language")
        )
        scores = f"{words.number(entry.base)} → {words.number(entry.tuned)}"
        table.add_row(entry.run_id, task, foreign(mark.model), words.value(entry.best, language), scores)
    return table


def fit_view(answer: dict[str, Any]) -> RenderableType:
    """Does it fit, and what takes the room."""
    grid = _grid()
    fits = answer["fits"]
    mark, style = (
        (say("fit.unknown"), "yellow")
        if fits is None
        else (say("fit.yes"), "green")
        if fits
        else (say("fit.no"), "red")
    )
    grid.add_row(say("fit.fits"), Text(mark, style=f"bold {style}"), "")
    for key in ("peak_gib", "reserved_gib", "device_gib"):
        note = (
            say("fit.range", low=f"{answer['low']:.2f}", high=f"{answer['high']:.2f}") if key == "reserved_gib" else ""
        )
        grid.add_row(say(f"fit.{key}"), f"{answer[key]:.2f} GiB", note)
    for name, gib in answer["parts"].items():
        grid.add_row(f"  {words.named('part', name, current.language)}", f"{gib:.2f} GiB", "")
    if answer.get("seconds_per_step") is not None:
        grid.add_row(say("fit.step"), words.duration(answer["seconds_per_step"], current.language), "")
    for one in answer["assumed"]:
        grid.add_row(say("fit.assumed"), foreign(one), "")
    return Group("", grid, "")


def checks_table(rows: Sequence[dict[str, Any]]) -> Table:
    """`doctor`: a line a check."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        mark, style = MARKS[row["state"]]
        found = foreign(row["found"])
        if row["fix"]:
            found.append_text(foreign(f"\n{row['fix']}", "dim"))
        table.add_row(Text(mark, style=style), foreign(row["name"]), found)
    return table
