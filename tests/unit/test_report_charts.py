"""Charts stay inside their frame, words stay readable, trials fold to what the journal says."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.report import charts, words
from autoswift.report.history import fold

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


def percents(svg: str) -> list[float]:
    return [float(x) for x in re.findall(r'\b(?:x|x1|x2|cx)="(-?[\d.]+)%"', svg)]


@given(st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=300))
def test_lines_stay_inside_and_parse(points: list[tuple[float, float]]) -> None:
    svg = str(charts.lines("t", [charts.Series("a", points)]))
    ElementTree.fromstring(svg)
    assert all(-0.01 <= x <= 100.01 for x in percents(svg))
    ys = [float(y) for y in re.findall(r'\by[12]="(-?[\d.]+)"', svg)]
    assert all(-0.1 <= y <= 230.1 for y in ys)


@given(st.lists(st.tuples(st.floats(1e-7, 1.0), FINITE), min_size=1, max_size=40))
def test_scatter_keeps_every_point(points: list[tuple[float, float]]) -> None:
    svg = str(charts.scatter("t", [(x, y, "#1", "s0") for x, y in points]))
    assert svg.count("<circle") == len(points)
    assert all(-0.01 <= x <= 100.01 for x in percents(svg))


@given(FINITE, FINITE, FINITE, FINITE)
def test_whiskers_hold_both_ends(a: float, b: float, c: float, d: float) -> None:
    first, second = sorted((a, b)), sorted((c, d))
    rows = [("m", charts.Span(sum(first) / 2, *first), charts.Span(sum(second) / 2, *second))]
    svg = str(charts.whiskers("t", rows, ("base", "tuned")))
    assert svg.count('class="whisker') == 2
    assert all(-0.01 <= x <= 100.01 for x in percents(svg))


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9))
def test_ticks_lie_between_the_ends(low: float, span: float) -> None:
    found = charts.ticks(low, low + span)
    slack = abs(low) * 1e-6 + span * 1e-6
    assert len(found) <= 12
    assert all(low - slack <= t <= low + span + slack for t in found)


def test_labels_are_escaped() -> None:
    svg = str(charts.bars("<t>", [("<b>&", 1.0, '"x"', None)]))
    ElementTree.fromstring(svg)
    assert "<b>" not in svg


def test_a_prediction_is_marked_at_its_place() -> None:
    svg = str(charts.bars("t", [("a", 50.0, "", 100.0), ("b", 100.0, "", None)]))
    assert 'x1="99.60%"' in svg
    assert 'width="50.00%"' in svg


def test_broken_series_end_in_a_cross() -> None:
    svg = str(charts.lines("t", [charts.Series("a", [(1, 2), (2, 3)], broken=True)]))
    assert "✕" in svg


def test_nothing_to_draw_is_empty() -> None:
    assert str(charts.lines("t", [charts.Series("a", [])])) == ""
    assert str(charts.scatter("t", [])) == ""
    assert str(charts.columns("t", [])) == ""


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0002, "2e-4"),
        (0.00081, "8.1e-4"),
        (30.53, "30.5"),
        (1234.6, "1,235"),
        (0.02, "0.0200"),
        (None, "–"),
        (math.nan, "–"),
        (True, "–"),
        (0, "0"),
    ],
)
def test_numbers(value: object, shown: str) -> None:
    assert words.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.05, "0.05"), (3.0, "3"), (12_000, "12,000"), (False, "no"), (["a", 1], "a, 1"), ({"k": 2}, "k 2")],
)
def test_values(value: object, shown: str) -> None:
    assert words.value(value, "en") == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.25, "0.2 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (7260, "2 h 1 min")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert words.duration(seconds, "en") == shown.replace("0.2 s", f"{seconds:.1f} s")


def test_a_note_may_be_a_key_with_values() -> None:
    row = {"key": "serve.port_taken", "values": {"wanted": 8000, "port": 8001}}
    assert "8001" in words.note(row, "zh")
    assert words.note({"text": "plain"}, "zh") == "plain"


def test_trials_fold_over_attempts() -> None:
    scores = {"nll": 1.0, "chrf": 20.0}
    rows = [
        {"event": "proposed", "trial": 1, "parameters": {"learning_rate": 1e-4}, "origin": "prior"},
        {"event": "started", "trial": 1, "attempt": 1, "total_steps": 4},
        {"event": "progress", "trial": 1, "attempt": 1, "step": 1, "metrics": {"loss": 9.0, "memory_bytes": 5}},
        {"event": "ended", "trial": 1, "outcome": {"status": "failed", "symptom": "killed", "device_seconds": 3.0}},
        {"event": "started", "trial": 1, "attempt": 2, "total_steps": 4},
        {"event": "progress", "trial": 1, "attempt": 2, "step": 2, "metrics": {"loss": None}},
        {"event": "progress", "trial": 1, "attempt": 2, "step": 3, "metrics": {"loss": 2.0}},
        {"event": "ended", "trial": 1, "outcome": {"status": "finished", "metrics": scores, "device_seconds": 4.0}},
    ]  # fmt: skip
    (trial,) = fold(rows)
    assert (trial.status, trial.attempt, trial.device_seconds) == ("finished", 2, 7.0)
    assert trial.curve == [(2, None), (3, 2.0)]
    assert trial.losses == [2.0]
    assert trial.failures == ["killed"]
    assert trial.metric(None) == 20.0
    assert trial.memory_bytes == 5
