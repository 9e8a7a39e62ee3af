"""Makes docs/terminal.svg, the picture in the README: a plan and a finished run, as the terminal shows them.

Usage: python scripts/terminal_picture.py RUN [--lang zh|en] [--out docs/terminal.svg]
RUN is a run folder, an id or a prefix; the picture shows that run, nothing is invented.
"""

from __future__ import annotations

import argparse
import html
import io
import re
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from autoswift.cli.options import current
from autoswift.cli.show import plan_view, result_view, stage_states, stages_line, trials_table
from autoswift.report.history import fold
from autoswift.run.record import RunRecord, find

WIDTH = 128
"""Columns: the table of trials just fits, and the picture is still legible at a README's width."""
CHARACTER = 12.2
"""Width of a column in the picture's units: Rich's line of 20 units, 0.61 of it wide."""
THEME = TerminalTheme(
    (17, 21, 25),
    (232, 236, 239),
    [(42, 50, 58), (240, 133, 122), (87, 199, 140), (224, 176, 80), (143, 161, 238), (213, 143, 195), (79, 192, 223),
     (168, 178, 188)],
    [(118, 129, 140), (240, 133, 122), (87, 199, 140), (224, 176, 80), (143, 161, 238), (213, 143, 195), (79, 192, 223),
     (232, 236, 239)],
)  # fmt: skip
"""The report's dark colours."""


def picture(record: RunRecord) -> str:
    """The picture as SVG, without anything that is loaded from elsewhere."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
    task, plan = record.task(), record.plan()
    data = f" --data {Path(task.data).name}" if task.data else ""
    console.print(Text.assemble(("$ ", "green"), f'autoswift run "{task.sentence}"{data}'))
    if plan is not None:
        console.print(plan_view(plan, task))
    console.print(stages_line(stage_states(record.journal.events())))
    console.print()
    best = (record.value("search") or {}).get("best")
    trials = fold(record.journal.trials())
    console.print(trials_table(trials, plan.search.metric if plan else None, best, width=WIDTH))
    console.print(result_view(record))
    svg = console.export_svg(title="autoswift", theme=THEME, unique_id="autoswift")
    svg = svg.replace(html.escape(str(record.folder)), f"~/.autoswift/runs/{record.id}")
    return without_fonts(with_wide_characters(svg))


def with_wide_characters(svg: str) -> str:
    """Corrects the length of each text: Rich counts a Chinese character as one column where it takes two."""

    def corrected(match: re.Match[str]) -> str:
        words = html.unescape(match[3])
        return f'{match[1]}"{cell_len(words) * CHARACTER:g}"{match[2]}{match[3]}</text>'

    return re.sub(r'(<text [^>]*textLength=)"[\d.]+"([^>]*>)([^<]*)</text>', corrected, svg)


def without_fonts(svg: str) -> str:
    """Drops the web fonts that Rich names: the picture must look the same with no network."""
    lines, skipping = [], False
    for line in svg.splitlines():
        if "@font-face" in line:
            skipping = True
        if not skipping:
            lines.append(line)
        elif "}" in line:
            skipping = False
    text = "\n".join(lines) + "\n"
    return text.replace(
        "Fira Code, monospace", "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', 'Noto Sans Mono CJK SC', monospace"
    )


def main() -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--lang", choices=("zh", "en"))
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "terminal.svg")
    arguments = parser.parse_args()
    record = find(arguments.run)
    current.language = arguments.lang or record.task().language
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(picture(record), encoding="utf-8")
    print(arguments.out)


if __name__ == "__main__":
    main()
