"""Charts as inline SVG.

Horizontal positions are percentages, so a chart fills its column on any screen while its text keeps its size; lines
are drawn as segments for the same reason. Colours come from the page's style sheet by class, so light and dark need
nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

from autoswift.report.words import number

MOST_POINTS = 120
"""Of one curve: more cannot be told apart on a page."""
LEFT, RIGHT = 7.0, 97.0
"""Per cent of the width between which data are drawn: clear of the numbers at the left, dots at the end inside."""


@dataclass(frozen=True)
class Series:
    """One line of a chart: points, and the class that colours it; `broken` marks one that ended in failure."""

    label: str
    points: Sequence[tuple[float, float]]
    style: str = "s0"
    broken: bool = False


@dataclass(frozen=True)
class Span:
    """A value with its interval."""

    value: float
    low: float | None = None
    high: float | None = None


def svg(height: int, title: str, body: Sequence[str]) -> Markup:
    """An SVG of the column's width."""
    head = f'<svg class="chart" role="img" aria-label="{escape(title)}" width="100%" height="{height}">'
    return Markup(head + "".join(body) + "</svg>")  # noqa: S704 - every text in it went through escape


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Maps low..high to start..end; one value alone stands in the middle."""
    if high <= low:
        return lambda _: (start + end) / 2
    return lambda v: start + (v - low) / (high - low) * (end - start)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values from low to high, about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    unit = 10 ** math.floor(math.log10(raw))
    step = next(s * unit for s in (1, 2, 2.5, 5, 10) if s * unit >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick(value: float) -> str:
    """A tick's label: no digits that say nothing."""
    size = abs(value)
    return f"{value:,.10g}" if size >= 1e-3 or size == 0 else number(value, 1)


def _text(x: str, y: float, words: str, style: str = "", anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.2f}%" y1="{y1:.1f}" x2="{x2:.2f}%" y2="{y2:.1f}" class="{style}"/>'


def _dot(x: float, y: float, radius: float, style: str, title: str = "") -> str:
    hint = f"<title>{escape(title)}</title>" if title else ""
    return f'<circle cx="{x:.2f}%" cy="{y:.1f}" r="{radius}" class="{style}">{hint}</circle>'


def _rect(x: float, y: float, width: float, height: float, style: str) -> str:
    return (
        f'<rect x="{x:.2f}%" y="{y:.1f}" width="{max(width, 0.3):.2f}%" height="{height:.1f}" rx="2" class="{style}"/>'
    )


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= MOST_POINTS:
        return list(points)
    step = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(k * step)] for k in range(MOST_POINTS)]


def _frame(title: str, height: int, low: float, high: float) -> tuple[list[str], Callable[[float], float], float]:
    """Horizontal grid lines with their values; the scale of y; where the x axis lies."""
    bottom = height - 24.0
    y = scale(low, high, bottom, 22.0)
    body = []
    for tick in ticks(low, high):
        body.append(f'<line x1="0" y1="{y(tick):.1f}" x2="100%" y2="{y(tick):.1f}" class="grid"/>')
        body.append(_text("0", y(tick) - 4, _tick(round(tick, 10)), "tick"))
    return body, y, bottom


def lines(
    title: str, series: Sequence[Series], *, height: int = 230, zero: bool = False, x_values: Sequence[float] = ()
) -> Markup:
    """Lines over a numeric x axis.

    Args:
        title: read out by screen readers.
        series: later ones are drawn on top.
        height: in pixels.
        zero: y starts at zero.
        x_values: ticks of the x axis; chosen when empty.
    """
    points = [p for one in series for p in one.points]
    if not points:
        return Markup("")
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    low, high = (0.0 if zero else min(ys)), max(ys)
    margin = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    body, y, bottom = _frame(title, height, low if zero else low - margin, high + margin)
    x = scale(min(xs), max(xs), LEFT, RIGHT)
    for tick in x_values or ticks(min(xs), max(xs), 5):
        anchor = "start" if x(tick) < 4 else "end" if x(tick) > 94 else "middle"
        body.append(_text(f"{x(tick):.2f}%", bottom + 17, _tick(round(tick, 10)), "tick", anchor))
    for one in series:
        shown = _thinned(one.points)
        hint = f"<title>{escape(one.label)}</title>"
        body.append(f'<g class="line {escape(one.style)}">{hint}')
        body.extend(_line(x(a[0]), y(a[1]), x(b[0]), y(b[1]), "") for a, b in pairwise(shown))
        if len(shown) <= 4 and not one.broken:
            body.extend(_dot(x(px), y(py), 3.5, "dot", f"{one.label}: {number(py)}") for px, py in shown)
        body.append("</g>")
        if one.broken and shown:
            body.append(_text(f"{x(shown[-1][0]):.2f}%", y(shown[-1][1]) + 5, "✕", "bad", "middle"))
    return svg(height, title, body)


def scatter(title: str, points: Sequence[tuple[float, float, str, str]], *, height: int = 230) -> Markup:
    """Dots over a logarithmic x axis.

    Args:
        title: read out by screen readers.
        points: (x above 0, y, label, class).
        height: in pixels.
    """
    points = [p for p in points if p[0] > 0]
    if not points:
        return Markup("")
    logs, ys = [math.log10(p[0]) for p in points], [p[1] for p in points]
    margin = (max(ys) - min(ys)) * 0.15 or abs(max(ys)) * 0.1 or 1.0
    body, y, bottom = _frame(title, height, min(ys) - margin, max(ys) + margin)
    first, last = min(logs) - 0.15, max(logs) + 0.15
    x = scale(first, last, 5.0, 93.0)
    marks = [(m, e) for e in range(math.floor(first), math.ceil(last) + 1) for m in (1, 2, 5)]
    shown = [(m, e) for m, e in marks if first <= math.log10(m) + e <= last]
    if len(shown) > 6:
        shown = [(m, e) for m, e in shown if m == 1]
    for m, e in shown:
        place = x(math.log10(m) + e)
        body.append(_line(place, bottom, place, bottom + 4, "grid"))
        body.append(_text(f"{place:.2f}%", bottom + 18, f"{m}e{e}", "tick", "middle"))
    for (_, value, label, style), log in zip(points, logs, strict=True):
        body.append(_dot(x(log), y(value), 6, f"dot {style}", f"{label}: {number(value)}"))
        body.append(_text(f"{x(log):.2f}%", y(value) - 11, label, "mark", "middle"))
    return svg(height, title, body)


def whiskers(title: str, rows: Sequence[tuple[str, Span | None, Span | None]], labels: tuple[str, str]) -> Markup:
    """Base against tuned, one row a metric, each on an axis of its own that is labelled at both ends.

    Args:
        title: read out by screen readers.
        rows: name of the metric, base, tuned.
        labels: names of the two.
    """
    step, body = 78.0, []
    for index, (name, base, tuned) in enumerate(rows):
        top = index * step + 16
        spans = [s for s in (base, tuned) if s is not None]
        ends = [v for s in spans for v in (s.value, s.low, s.high) if v is not None]
        if not ends:
            continue
        room = (max(ends) - min(ends)) * 0.12 or abs(max(ends)) * 0.1 or 1.0
        low, high = min(0.0, min(ends)) if min(ends) < max(ends) * 0.6 else min(ends) - room, max(ends) + room
        x = scale(low, high, 1.0, 97.0)
        body.append(_text("0", top, name, "label"))
        body.append(f'<line x1="0" y1="{top + 50:.1f}" x2="100%" y2="{top + 50:.1f}" class="grid"/>')
        for tick in ticks(low, high, 5):
            body.append(_line(x(tick), top + 47, x(tick), top + 50, "grid"))
            if x(tick) < 95:
                body.append(_text(f"{x(tick):.2f}%", top + 44, _tick(round(tick, 10)), "tick", "start"))
        for offset, span, style, label in ((12, base, "base", labels[0]), (26, tuned, "tuned", labels[1])):
            if span is not None:
                body.append(_whisker(span, x, top + offset, style, label))
    return svg(int(len(rows) * step + 4), title, body)


def _whisker(span: Span, x: Callable[[float], float], y: float, style: str, label: str) -> str:
    parts = []
    if span.low is not None and span.high is not None:
        parts.append(_line(x(span.low), y, x(span.high), y, f"whisker {style}"))
    parts.append(_dot(x(span.value), y, 5.5, f"dot {style}", f"{label}: {number(span.value)}"))
    return "".join(parts)


def bars(title: str, rows: Sequence[tuple[str, float, str, float | None]]) -> Markup:
    """Horizontal bars, the value written beside each; a tick shows what was predicted.

    Args:
        title: read out by screen readers.
        rows: label, length, its words, prediction or None.
    """
    if not rows:
        return Markup("")
    most = max(max(length, predicted or 0.0) for _, length, _, predicted in rows) or 1.0
    step, body = 40.0, []
    for index, (label, length, words, predicted) in enumerate(rows):
        top = index * step
        body.append(_text("0", top + 13, label, "label"))
        body.append(_text("100%", top + 13, words, "tick", "end"))
        body.append(_rect(0, top + 19, 100, 8, "track"))
        body.append(_rect(0, top + 19, length / most * 100, 8, "bar"))
        if predicted:
            place = min(predicted / most * 100, 99.6)
            body.append(_line(place, top + 16, place, top + 30, "predicted"))
    return svg(int(len(rows) * step), title, body)


def columns(title: str, counts: Sequence[tuple[float, float, float]], *, height: int = 150) -> Markup:
    """A histogram.

    Args:
        title: read out by screen readers.
        counts: (low, high, count) of each bin.
        height: in pixels.
    """
    if not counts:
        return Markup("")
    low, high = counts[0][0], counts[-1][1]
    x, bottom = scale(low, high, 0.0, 100.0), height - 22.0
    y = scale(0.0, max(c for _, _, c in counts) or 1.0, bottom, 8.0)
    body = [_rect(x(a), y(c), x(b) - x(a) - 0.3, bottom - y(c), "bar") for a, b, c in counts if c > 0]
    body.append(f'<line x1="0" y1="{bottom:.1f}" x2="100%" y2="{bottom:.1f}" class="grid"/>')
    for tick in ticks(low, high, 6):
        anchor = "start" if x(tick) < 3 else "end" if x(tick) > 96 else "middle"
        body.append(_text(f"{x(tick):.2f}%", bottom + 16, _tick(round(tick, 10)), "tick", anchor))
    return svg(height, title, body)


def strip(title: str, marks: Sequence[tuple[str, float]], most: float) -> Markup:
    """Quantiles of a quantity on one line.

    Args:
        title: read out by screen readers.
        marks: name and value of each, ascending.
        most: right end of the line.
    """
    x = scale(0.0, most or 1.0, 0.5, RIGHT)
    body = ['<line x1="0" y1="34" x2="100%" y2="34" class="grid"/>']
    for index, (name, value) in enumerate(marks):
        place = x(value)
        anchor = "start" if place < 8 else "end" if place > 88 else "middle"
        body.append(_dot(place, 34, 5, "dot tuned", f"{name}: {number(value)}"))
        high = (56, 20, 73)[index % 3]  # neighbours may lie at one place
        body.append(_text(f"{place:.2f}%", high, f"{name} {number(round(value))}", "tick", anchor))
    return svg(80, title, body)
