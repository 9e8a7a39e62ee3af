"""Broken trainings are seen soon after their break, and healthy ones of every awkward kind are left alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.engines.curves import CurveTable
from autoswift.recover.detect import NANS, Finding, Watch
from autoswift.recover.diagnose import row, rows
from autoswift.recover.gradients import AT_START, IN_A_ROW, Gradients
from autoswift.search.stopping import Curves
from autoswift.testing.streams import BROKEN, HEALTHY, Point, Stream, broken, healthy

RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "swift_curves.json").read_text(encoding="utf-8"))
"""Trainings of a tiny model by ms-swift on a CPU: [step, loss, gradient norm, learning rate]; null is no number."""

SOON = {name: 10 for name in BROKEN} | {"blown at the start": 12}
"""Steps from the break within which nine of ten must be seen; a training that breaks in its first steps has no level
before it. What grows by a few percent a step breaks at no step that one could name."""
LATE = ("swings", "creeping")


def found(points: Iterable[Point], first: int = 1, *, all_of_them: bool = False) -> list[Finding]:
    """What a watch says, up to the first fatal finding."""
    watch, made = Watch(continued=first > 1), list[Finding]()
    for step, point in enumerate(points, first):
        made += watch.take(step, point)
        if not all_of_them and any(f.fatal for f in made):
            break
    return made


def points_of(one: dict[str, Any]) -> list[Point]:
    return [{"loss": p[1], "grad_norm": p[2], "learning_rate": p[3]} for p in one["points"]]


def delay(stream: Stream) -> int | None:
    """Steps from the break to what was seen of it; None when nothing was."""
    seen = [f for f in found(stream.points) if f.fatal or f.symptom == "under_floor"]
    return seen[0].step - stream.breaks_at + 1 if seen else None


@pytest.mark.parametrize("one", [r for r in RECORDED if r["kind"] == "healthy"], ids=lambda r: r["name"])
def test_real_healthy_trainings_are_left_alone(one: dict[str, Any]) -> None:
    whole = points_of(one)
    assert not [f for f in found(whole) if f.fatal]
    assert not [f for f in found([{"loss": p["loss"]} for p in whole if p["loss"] is not None]) if f.fatal]


@pytest.mark.parametrize("one", [r for r in RECORDED if r["kind"] == "broken"], ids=lambda r: r["name"])
def test_real_broken_trainings_are_stopped(one: dict[str, Any]) -> None:
    last = found(points_of(one))[-1]
    assert last.fatal
    assert last.symptom in ("nan", "divergence")
    assert last.step <= len(one["points"])


def test_no_recorded_curve_of_the_table_that_ends_well_is_stopped() -> None:
    """Over a thousand trainings, some of which lose several times their first loss for a while and make it good."""
    table, judged = CurveTable.load(), 0
    for number, corpus in enumerate(table.corpora):
        base, ends = float(table.base_nll[number]), table.curves["averaged"][number, :, :, -1]
        gain = (base - ends) / (base - np.nanmin(ends))
        for configuration, seed in zip(*(gain >= 0.25).nonzero(), strict=True):
            values = table.curve(corpus, int(configuration), int(seed), "train").values
            assert not [f for f in found([{"loss": float(v)} for v in values]) if f.fatal], (corpus, configuration)
            judged += 1
    assert judged > 900


@pytest.mark.parametrize("kind", list(HEALTHY))
def test_healthy_streams_are_left_alone(kind: str) -> None:
    number = list(HEALTHY).index(kind)
    streams = [healthy(number + len(HEALTHY) * n) for n in range(7)]  # 112 in all
    assert {s.kind for s in streams} == {kind}
    assert not [f for s in streams for f in found(s.points) if f.fatal]


@pytest.mark.parametrize("kind", [k for k in BROKEN if k not in LATE])
def test_broken_streams_are_seen_within_ten_steps(kind: str) -> None:
    number = list(BROKEN).index(kind)
    delays = [delay(broken(number + len(BROKEN) * n)) for n in range(10)]
    soon = [d for d in delays if d is not None and 1 <= d <= SOON[kind]]
    assert len(soon) >= 9, delays


@pytest.mark.parametrize("kind", LATE)
def test_what_breaks_slowly_is_seen_in_time(kind: str) -> None:
    number = list(BROKEN).index(kind)
    delays = [delay(broken(number + len(BROKEN) * n)) for n in range(10)]
    assert sum(d is not None and 1 <= d <= 60 for d in delays) >= 7, delays


def test_twenty_broken_curves_are_caught_and_named() -> None:
    names = {"nan": "nan", "gradients": "nan_gradient", "zero": "zero_loss", "frozen": "flat"}
    caught = 0
    for seed in range(40):
        stream = broken(seed)
        if stream.kind in (*LATE, "leak"):
            continue
        seen = found(stream.points)[-1:]
        caught += bool(seen and 0 <= seen[0].step - stream.breaks_at <= SOON[stream.kind])
        if seen:
            assert seen[0].symptom == names.get(stream.kind, "divergence")
    assert caught >= 24  # of 28


@pytest.mark.slow
def test_the_rate_of_false_alarms_over_many_seeds() -> None:
    false = [s for s in range(50_000, 52_000) if any(f.fatal for f in found(healthy(s).points))]
    assert len(false) <= 10, false  # one in 200, of shapes that are made to deceive


def test_one_batch_without_an_answer_ends_nothing_and_lost_numbers_do() -> None:
    good: Point = {"loss": 2.0, "grad_norm": 1.0}
    empty: Point = {"loss": None, "grad_norm": 0.0}
    assert [(f.symptom, f.fatal) for f in found([good, empty, good, empty, good])] == [("nan", False)]
    assert [f.step for f in found([good] + [empty] * NANS) if f.fatal] == [1 + NANS]
    for lost in (None, math.nan, math.inf):
        assert [f.step for f in found([good, {"loss": lost, "grad_norm": None}]) if f.fatal] == [2]
        assert [f.step for f in found([good, {"loss": lost}]) if f.fatal] == [2]


def test_a_loss_scaler_may_look_for_its_scale() -> None:
    gradients = Gradients()
    for _ in range(AT_START - 1):
        gradients.take(math.inf)
    assert not gradients.lost
    gradients.take(1.0)
    for n in range(IN_A_ROW):
        assert gradients.lost == (n >= IN_A_ROW)
        gradients.take(None)
    assert gradients.lost


def test_growing_gradients_are_told_once_and_spikes_are_not() -> None:
    gradients = Gradients()
    calm = [gradients.take(n) for n in [1.0, 0.8, 1.2, 0.9, 1.1] * 5 + [80.0] + [1.0] * 5]
    assert calm == [None] * len(calm)
    growth = [g for n in range(12) if (g := gradients.take(1.5**n)) is not None]
    assert len(growth) == 1
    assert growth[0] >= 10


def test_an_easy_task_that_rounds_to_zero_is_no_zero_loss() -> None:
    easy: list[Point] = [{"loss": round(0.7 * 0.8**n, 4), "grad_norm": 0.1} for n in range(60)]
    assert easy[-1]["loss"] == 0.0
    assert not [f for f in found(easy) if f.fatal]


def test_a_continued_training_is_not_judged_by_its_first_reports() -> None:
    converged: list[Point] = [{"loss": 1.0 + 0.001 * (n % 3)} for n in range(150)]
    assert [f.symptom for f in found(converged)] == ["plateau"]
    assert found(converged, first=101) == []


losses = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.floats(0, 20))


@given(st.lists(st.tuples(losses, losses), max_size=120))
def test_any_stream_is_taken_and_nothing_is_told_twice(stream: list[tuple[float | None, float | None]]) -> None:
    made = found([{"loss": loss, "grad_norm": norm} for loss, norm in stream], all_of_them=True)
    told = [(f.symptom, f.fatal) for f in made]
    assert len(told) == len(set(told))
    known = {r["name"] for r in rows()}
    for one in made:
        assert one.symptom in known
        assert one.evidence
        assert one.fatal or row(one.symptom).get("warns") or one.symptom == "nan"


def test_the_searchs_curves_stop_warn_and_forget() -> None:
    curves = Curves()
    stream = broken(list(BROKEN).index("gradients"))
    words = [curves.tell(3, step, point, 0.1) for step, point in enumerate(stream.points, 1)]
    assert words[stream.breaks_at - 2] == ""
    assert words[-1] == "nan_gradient"
    seen = curves.found(3)
    assert seen is not None
    assert seen.step == stream.breaks_at + IN_A_ROW - 1
    assert "not finite" in seen.evidence
    curves.restarted(3)
    assert curves.found(3) is None
    assert curves.tell(3, 1, {"loss": 2.0}, 0.0) == ""
    for step in range(2, 40):
        curves.tell(3, step, {"loss": 2.0 + 0.01 * (step % 3), "grad_norm": 1.0 if step < 20 else 50.0}, 0.1)
    assert [f.symptom for f in curves.warned(3)] == ["gradients_growing"]
    assert curves.warned(3) == []
