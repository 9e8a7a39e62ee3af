"""What `data` shows on a terminal: a data file from its facts to its lengths, and where it came from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autoswift.cli.options import current
from autoswift.cli.show import foreign
from autoswift.report import words
from autoswift.tables import text

if TYPE_CHECKING:
    from autoswift.report.data_shown import Example, Finding, Section, Step
    from autoswift.report.differences import Piece
    from autoswift.report.origin import Origin, Sample

SEVERITY_STYLE = {"error": "bold red", "warn": "yellow", "flag": "cyan"}
VERDICT_STYLE = {"ok": "bold green", "look": "bold yellow", "bad": "bold red"}
PART_STYLES = (("█", "cyan"), ("▓", "blue"), ("▒", "magenta"), ("░", "bright_black"))
"""Told apart without colours, too."""
BAR = 40
"""Cells of the longest bar: what is left of 80 columns beside names and numbers."""
MOST_BARS = 12
"""Of a histogram: more do not fit a screen with the rest."""
SAMPLE = 160
"""Characters of a text: two lines of 80 columns, or one and a half in Chinese."""
EIGHTHS = " ▏▎▍▌▋▊▉"
PIECE_STYLES = {"out": "red strike", "in": "green underline", "same": ""}


def _say(key: str, **values: object) -> str:
    """A text that the page shows, too."""
    return text(f"report.data.{key}", current.language, **values)


def _number(value: object) -> str:
    return words.value(value, current.language)


def data_view(it: Section, origin: Origin | None = None) -> RenderableType:
    """All that is known of a data file; what needs attention last, where the eye is."""
    blocks: list[tuple[str, RenderableType | None]] = [
        (text("report.h.origin", current.language), origin_view(origin) if origin else None),
        (_say("h.facts"), _pairs(it.facts) if it.facts else None),
        (_say("h.columns"), _columns(it) if it.columns else None),
        (_say("h.samples"), _samples(it) if it.samples else None),
        (_say("h.splits"), _splits(it) if it.splits else None),
        (_say("h.labels"), _labels(it) if it.labels else None),
        (f"{_say('h.lengths')} ({text('report.unit.tokens', current.language)})", _lengths(it) if it.bins else None),
        (_say("h.removed", count=_number(it.left_out)), _steps(it.removed)),
        (_say("h.changed", count=_number(it.changes)), _steps(it.changed)),
        (_say("h.marked", count=_number(it.marks_made)), _steps(it.marked)),
        (_say("h.problems"), findings_view(it.findings) if it.findings else None),
    ]
    parts: list[RenderableType] = ["", _title(it), *(foreign(one) for one in it.story[:-1]), "", _flow(it)]
    for title, body in blocks:
        parts += _block(title, body) if body else []
    return Group(*parts, "", Text(it.story[-1], style=VERDICT_STYLE[it.verdict]), "")


def _block(title: str, body: RenderableType) -> list[RenderableType]:
    return ["", foreign(title, "bold"), Padding(body, (0, 0, 0, 2))]


def _title(it: Section) -> Text:
    badge = Text(_say(f"badge.{it.verdict}"), style=VERDICT_STYLE[it.verdict])
    return Text.assemble(foreign(it.name, "bold"), "  ", badge)


def _grid(*widths: int | None) -> Table:
    """A table without lines; a width of None takes what is left."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for most in widths:
        grid.add_column(overflow="fold", max_width=most, ratio=None if most else 1)
    return grid


def _flow(it: Section) -> RenderableType:
    """All rows as one bar, and its legend."""
    parts = [(name, rows) for name, rows, _, _ in it.splits[:3]]
    looks = [*PART_STYLES[: len(parts)], *(PART_STYLES[3:] if it.left_out else ())]
    parts += [(_say("left_out"), it.left_out)] if it.left_out else []
    total = sum(rows for _, rows in parts) or 1
    bar, legend, at, drawn = Text(no_wrap=True), Text(), 0, 0
    for (name, rows), (block, style) in zip(parts, looks, strict=True):
        at += rows
        cells = max(round(at / total * BAR * 1.5) - drawn, 1 if rows else 0)
        drawn += cells
        bar.append(block * cells, style=style)
        legend.append(f"{block} ", style=style)
        legend.append(f"{name} ").append(_number(rows), style="bold").append("   ")
    return Group(bar, legend)


def _pairs(rows: Iterable[tuple[str, str]]) -> Table:
    grid = _grid(20, None)
    for name, value in rows:
        grid.add_row(Text(name, style="dim"), foreign(value))
    return grid


def _head(grid: Table, *keys: str) -> None:
    grid.add_row(*(Text(_say(key) if key else "", style="dim") for key in keys))


def _columns(it: Section) -> Table:
    grid = _grid(24, 20, None)
    _head(grid, "column", "role", "meaning")
    for role, means, column, _ in it.columns:
        grid.add_row(foreign(column, "bold"), Text(role), Text(means, style="dim"))
    return grid


def _short(shown: str, style: str = "") -> Text:
    """A text of the data in a few lines."""
    flat = " ".join(shown.replace("⏎", " ⏎ ").split())
    return foreign(flat if len(flat) <= SAMPLE else f"{flat[:SAMPLE]}…", style)


def _samples(it: Section) -> Table:
    grid = _grid(30, 10, None)
    for number, (place, said) in enumerate(it.samples):
        if number:
            grid.add_row("", "", "")
        for line, (_, name, shown) in enumerate(said):
            grid.add_row(foreign(place if not line else "", "dim"), Text(name, style="cyan"), _short(shown))
    return grid


def _splits(it: Section) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "right", "right"):
        grid.add_column(justify=justify, no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    for name, rows, share, means in it.splits:
        grid.add_row(name, Text(_number(rows), style="bold"), share, Text(means, style="dim"))
    return Group(grid, *(Text(one, style="dim") for one in it.notes))


def _labels(it: Section) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(max_width=24, overflow="fold")
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True)
    for name, rows, share, _ in it.labels:
        grid.add_row(foreign(name), Text(_number(rows), style="bold"), Text(bar(share), style="cyan"))
    more = [Text(text("report.data.more", current.language, n=it.more_labels), style="dim")] if it.more_labels else []
    return Group(grid, *more)


def bar(share: float, cells: int = BAR) -> str:
    """A bar of block characters, to an eighth of a cell; what is there is seen."""
    eighths = round(max(0.0, min(share, 1.0)) * cells * 8)
    eighths = max(eighths, 1) if share > 0 else 0
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def _lengths(it: Section) -> Table:
    """The histogram, a bar a line, with the marks behind the bars that they fall into."""
    bins = list(it.bins)
    while len(bins) > MOST_BARS:
        bins = [_joined(bins[i : i + 2]) for i in range(0, len(bins), 2)]
    full = [i for i, (_, _, rows) in enumerate(bins) if rows]
    bins = bins[full[0] : full[-1] + 1] if full else []
    most = max((rows for _, _, rows in bins), default=1) or 1
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right", no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for index, (low, high, rows) in enumerate(bins):
        last = index == len(bins) - 1
        marks = [name for name, at in it.marks if low <= at < high or (last and at >= high)]
        line = Text.assemble((bar(rows / most, BAR - 8), "cyan"), " " if rows else "", _number(rows))
        line.append(f"  ◂ {', '.join(marks)}" if marks else "", style="dim")
        grid.add_row(f"{_number(round(low))}–{_number(round(high))}", line)
    return grid


def _joined(some: Sequence[tuple[float, float, int]]) -> tuple[float, float, int]:
    return some[0][0], some[-1][1], sum(rows for _, _, rows in some)


def _steps(steps: Sequence[Step]) -> Table | None:
    if not steps:
        return None
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(max_width=20, overflow="fold")
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    for step in steps:
        told: list[RenderableType] = [Text(step.why)] if step.why else []
        if step.parts:
            told.append(Text(" · ".join(f"{name} {_number(count)}" for name, count in step.parts), style="dim"))
        if step.todo:
            told.append(_todo(step.todo, idle=step.idle))
        told += [_example(one) for one in step.examples[:1]]
        name = foreign(step.name, "bold" if step.severity != "flag" else "")
        grid.add_row(name, Text.assemble((_number(step.count), "bold"), f"\n{step.share}"), Group(*told))
    return grid


def _todo(shown: str, *, idle: bool) -> Text:
    return foreign(shown, "dim") if idle else Text.assemble("→ ", foreign(shown), style="cyan")


def _example(one: Example) -> Text:
    """One row on which a step worked: before and after, with what changed marked."""
    line = Text(style="")
    if one.place:
        line.append_text(foreign(f"{one.place}  ", "dim"))
    if one.cells:
        line.append_text(_short(" · ".join(f"{name}: {said}" for name, said in one.cells), "italic"))
        return line
    line.append_text(_pieces(one.before))
    if one.after:
        line.append(" → ", style="dim").append_text(_pieces(one.after))
    return line


def _pieces(some: Sequence[Piece]) -> Text:
    shown = Text(style="italic")
    for one in some:
        shown.append_text(foreign(one.text.replace("\n", "⏎"), PIECE_STYLES[one.kind]))
    return shown


def findings_view(findings: Sequence[Finding]) -> Table:
    """Problems, the worst first."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    for one in findings:
        message = foreign(one.message)
        if one.places:
            shown = " · ".join(one.places[:8])
            more = len(one.places) - 8
            more_words = f" · {_say('places_more', n=more)}" if more > 0 else ""
            message.append_text(foreign(f"\n{shown}{more_words}", "dim"))
        idle = one.fix.startswith(_say("nothing"))
        told: list[RenderableType] = [message, *([_todo(one.fix, idle=idle)] if one.fix else [])]
        severity = text(f"report.severity.{one.severity}", current.language)
        grid.add_row(Text(severity, style=SEVERITY_STYLE.get(one.severity, "")), Group(*told))
    return grid


def origin_view(it: Origin) -> RenderableType:
    """Where data came from that the user did not bring: facts, why, samples, what was thrown away, the others."""
    facts = _grid(16, None)
    for name, value, note, address in it.facts:
        shown = foreign(value)
        for more in (note, address):
            if more and more != value:
                shown.append_text(foreign(f"\n{more}", "dim"))
        facts.add_row(Text(name, style="dim"), shown)
    blocks: list[tuple[str, RenderableType | None]] = [
        (_origin("why"), _listed(it.because)),
        (_origin("mind"), _listed(it.warnings, "yellow")),
        (_origin("samples"), _records(it.samples)),
        (_origin("thrown", count=_number(it.thrown_total)), _thrown(it)),
        (_origin("others"), _others(it)),
    ]
    parts: list[RenderableType] = [Text(it.story), "", facts]
    for title, body in blocks:
        parts += ["", Text(title, style="bold"), body] if body else []
    return Group(*parts)


def _listed(lines: Sequence[str], style: str = "") -> RenderableType | None:
    return Group(*(Text.assemble("· ", foreign(one), style=style) for one in lines)) if lines else None


def _records(samples: Sequence[Sample]) -> Table | None:
    grid = _grid(14, None)
    for number, sample in enumerate(samples):
        if number:
            grid.add_row("", "")
        for _, name, said in sample:
            grid.add_row(foreign(name, "cyan"), _short(said))
    return grid if samples else None


def _thrown(it: Origin) -> Table | None:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for one in it.thrown:
        example = _short(" → ".join(said for _, _, said in one.examples[0][1]), "italic") if one.examples else ""
        grid.add_row(foreign(one.name), Text(_number(one.count), style="bold", justify="right"), example)
    return grid if it.thrown else None


def _others(it: Origin) -> Table | None:
    grid = _grid(30, None)
    for other in it.others:
        about = ", ".join(part for part in (other.licence, other.size) if part)
        grid.add_row(foreign(other.name), Group(foreign(about), foreign(other.why_not, "dim")))
    return grid if it.others else None


def _origin(key: str, **values: object) -> str:
    return text(f"report.origin.{key}", current.language, **values)
