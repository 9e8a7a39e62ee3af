"""The pictures of a data section: what became of the rows, and how long they are."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from autoswift.report.charts import svg
from autoswift.report.data_shown import Section
from autoswift.report.words import percent, value
from autoswift.tables import text

TOP, PLOT, BELOW = 44.0, 150.0, 26.0
"""Pixels of a histogram: for the marks' names in two lines, the bars, the axis."""
MOST_TICKS = 8
STYLES = ("train", "validation", "test", "out")


def flow(section: Section) -> tuple[Markup, list[tuple[str, str, int, str]]]:
    """All rows as one bar: the parts that are used, and what was left out.

    Returns:
        The picture, and a legend: style, name, rows, share.
    """
    parts = [(name, rows) for name, rows, _, _ in section.splits[:3]]
    if section.left_out:
        parts.append((text("report.data.left_out", section.language), section.left_out))
    styles = [*STYLES[: min(3, len(section.splits))], *(["out"] if section.left_out else [])]
    total = sum(rows for _, rows in parts) or 1
    body, at, legend = [], 0.0, []
    for style, (name, rows) in zip(styles, parts, strict=True):
        width = rows / total * 100
        if rows:
            hint = f"<title>{escape(name)}: {value(rows, section.language)}</title>"
            shown = max(width - 0.25, 0.3)
            body.append(
                f'<rect x="{at:.3f}%" y="0" width="{shown:.3f}%" height="22" rx="3" class="part {style}">{hint}</rect>'
            )
        at += width
        legend.append((style, name, rows, percent(rows / total, section.language)))
    return svg(22, text("report.data.flow", section.language), body), legend


def lengths(section: Section) -> Markup:
    """A histogram of equal bars with the quantiles; the last bar holds all that is longer, too."""
    bins = _trimmed(section.bins)
    if not bins:
        return Markup("")
    language, count = section.language, len(bins)
    most = max(rows for _, _, rows in bins) or 1
    bottom = TOP + PLOT
    width = 100 / count
    body = [f'<line x1="0" y1="{bottom}" x2="100%" y2="{bottom}" class="grid"/>']
    named = []
    for index, (low, high, rows) in enumerate(bins):
        if not rows:
            continue
        tall = max(rows / most * (PLOT - 16), 1.5)
        rest = index == count - 1 and _wider(bins)
        shown = {"low": value(round(low), language), "high": value(round(high), language)}
        hint = text(f"report.data.{'bar_last' if rest else 'bar'}", language, **shown, count=value(rows, language))
        place = f'x="{index * width + 0.2:.2f}%" y="{bottom - tall:.1f}" width="{width - 0.4:.2f}%" height="{tall:.1f}"'
        style = "rest" if rest else "bar"
        body.append(f'<rect {place} rx="2" class="{style}"><title>{escape(hint)}</title></rect>')
        named.append(_text((index + 0.5) * width, bottom - tall - 4, value(rows, language), "tick halo", "middle"))
    body += _marks(section, bins, width, bottom)
    return svg(int(bottom + BELOW), text("report.data.hist", language), [*body, *named, *_axis(bins, bottom, language)])


def _wider(bins: Sequence[tuple[float, float, int]]) -> bool:
    """Whether the last bar holds all that is longer than the others."""
    (low, high, _), (first, end, _) = bins[-1], bins[0]
    return len(bins) > 1 and high - low > 1.5 * (end - first)


def _trimmed(bins: Sequence[tuple[float, float, int]]) -> Sequence[tuple[float, float, int]]:
    """Without the empty bars at both ends."""
    full = [i for i, (_, _, rows) in enumerate(bins) if rows]
    return bins[full[0] : full[-1] + 1] if full else ()


def _axis(bins: Sequence[tuple[float, float, int]], bottom: float, language: str) -> list[str]:
    """Lengths below the bars' edges; below a last bar that holds the rest, from where to where it goes."""
    count = len(bins)
    step, rest, width = -(-count // MOST_TICKS), _wider(bins), 100 / count
    last = value(round(bins[-1][1]), language)
    body = []
    for index, (low, _, _) in enumerate(bins[:-1] if rest else bins):
        if index % step == 0 and 100 - index * width > 7:
            body.append(_text(index * width, bottom + 17, value(round(low), language), "tick", _anchor(index * width)))
    if rest:
        last = f"{value(round(bins[-1][0]), language)} – {last}"
    body.append(_text(100, bottom + 17, last, "tick", "end"))
    return body


def _marks(section: Section, bins: Sequence[tuple[float, float, int]], width: float, bottom: float) -> list[str]:
    """Median and 95th percentile as lines with their names, each on a line of its own."""
    body = []
    for number, (name, at) in enumerate(section.marks[:2]):
        place = _place(at, bins, width)
        high = 14.0 + 18.0 * number
        body.append(f'<line x1="{place:.2f}%" y1="{high + 5}" x2="{place:.2f}%" y2="{bottom}" class="quantile"/>')
        body.append(_text(place, high, name, "label", _anchor(place)))
    return body


def _place(at: float, bins: Sequence[tuple[float, float, int]], width: float) -> float:
    """Where a length stands among equal bars; within the last one, which is wider than it looks, in the middle."""
    for index, (low, high, _) in enumerate(bins):
        if at < high or index == len(bins) - 1:
            inside = 0.5 if index == len(bins) - 1 and len(bins) > 1 else (at - low) / (high - low or 1)
            return (index + min(max(inside, 0.0), 1.0)) * width
    return 0.0


def _anchor(place: float) -> str:
    return "start" if place < 15 else "end" if place > 85 else "middle"


def _text(x: float, y: float, words: str, style: str, anchor: str) -> str:
    return f'<text x="{x:.2f}%" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(words)}</text>'
