"""Quality against what it costs, drawn where a search had several objectives."""

from __future__ import annotations

from typing import Any

from autoswift.report import charts
from autoswift.tables import text

STYLES = ("best", "s0", "base")
"""Of the trial taken, the others on the front, and those that another beats."""


def fronts(value: dict[str, Any] | None, language: str) -> list[dict[str, Any]]:
    """A chart for each objective beside quality: {title, chart, caption, legend}.

    Args:
        value: `front` of the step `search` (`search.winner.front_of`), or None.
        language: of its words.
    """
    if not value:
        return []
    legend = [(text(f"report.front.{style}", language), style) for style in STYLES]
    made = []
    for name in value["objectives"]:
        rows = [row for row in value["trials"] if name != "quality" and row.get(name)]
        if len(rows) < 2:
            continue
        title = text("report.front.title", language, objective=text(f"report.word.objective.{name}", language))
        dots = [(float(row[name]), float(row["quality"]), f"#{row['trial']}", _style(row, value)) for row in rows]
        dots.sort(key=lambda dot: -STYLES.index(dot[3]))  # what matters is drawn on top
        caption = text(f"report.front.{name}", language)
        made.append({"title": title, "chart": charts.scatter(title, dots), "caption": caption, "legend": legend})
    return made


def _style(row: dict[str, Any], value: dict[str, Any]) -> str:
    return STYLES[0] if row["trial"] == value["taken"] else STYLES[1] if row["front"] else STYLES[2]
