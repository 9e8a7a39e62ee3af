"""The margin on predicted memory, from trainings that were measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.domain.profile import GIB, Device
from autoswift.hardware import margins
from autoswift.hardware.margins import AGREEING, FLOOR, SPREAD, Seen, margin_of, with_margin
from autoswift.hardware.memory import MemorySettings, peak_memory
from autoswift.hardware.shape import shape_by_name

CARD = Device(kind="cuda", name="NVIDIA A10", memory_bytes=24 * GIB, free_bytes=23 * GIB)


def seen(ratio: float, trial: int, *, whole: bool = True, predicted: int = 10 * GIB, run: str = "r") -> Seen:
    where = margins.device_key(CARD)
    return Seen(device=where, family="qwen2", method="lora", measured=int(predicted * ratio), predicted=predicted,
                whole=whole, run=run, trial=trial)  # fmt: skip


RATIOS = st.lists(st.tuples(st.floats(0.1, 3.0), st.booleans(), st.integers(2**20, 2**37)), min_size=1, max_size=30)


def rows_of(drawn: list[tuple[float, bool, int]]) -> list[Seen]:
    return [seen(r, n, whole=w, predicted=p) for n, (r, w, p) in enumerate(drawn)]


@given(RATIOS)
def test_the_upper_bound_is_never_under_a_peak_that_was_measured(drawn: list[tuple[float, bool, int]]) -> None:
    rows = rows_of(drawn)
    found = margin_of(rows)
    assert found is not None
    for kind in ("cuda", "cpu"):
        shape = shape_by_name("Qwen2.5-1.5B")
        assert shape is not None
        plain = peak_memory(shape, "lora", MemorySettings(length=512, device=kind))
        high = with_margin(plain, found.factor).high
        assert all(high >= margins.comparable(plain, kind) * one.ratio for one in rows)
        assert all(one.predicted * found.factor >= one.measured for one in rows)


@given(RATIOS, st.randoms(use_true_random=False))
def test_the_order_of_the_trainings_and_repeated_ones_change_nothing(
    drawn: list[tuple[float, bool, int]], source: object
) -> None:
    rows = rows_of(drawn)
    other = [*rows, *rows[: len(rows) // 2]]
    source.shuffle(other)  # type: ignore[attr-defined]
    assert margin_of(other) == margin_of(rows)


@given(RATIOS)
def test_the_margin_shrinks_only_on_the_word_of_enough_that_agree(drawn: list[tuple[float, bool, int]]) -> None:
    rows = rows_of(drawn)
    found = margin_of(rows)
    assert found is not None
    assert found.factor >= FLOOR
    if found.factor < 1:
        whole = [one.ratio for one in rows if one.whole]
        assert len(whole) >= AGREEING
        assert max(whole) - min(whole) <= SPREAD * max(whole) + 1e-9
        assert max(one.ratio for one in rows) < 1


def test_eight_that_agree_shrink_it_a_little_and_many_more_so() -> None:
    seven, eight, many = (margin_of([seen(0.93 + 0.001 * (n % 3), n) for n in range(k)]) for k in (7, 8, 80))
    assert seven is not None
    assert eight is not None
    assert many is not None
    assert seven.factor == 1.0
    assert 0.935 < many.factor < eight.factor < 1.0
    assert (many.count, many.low, many.high) == (80, 0.93, 0.932)
    partial = margin_of([seen(0.93, n, whole=False) for n in range(80)])
    assert partial is not None
    assert partial.factor == 1.0, "trainings that never saw the longest row shrink nothing"
    above = margin_of([*(seen(0.93, n) for n in range(80)), seen(1.07, 99, whole=False)])
    assert above is not None
    assert above.factor == pytest.approx(1.07, abs=1e-4), "one above the prediction raises it, whatever the others say"


def test_what_was_remembered_is_read_again_and_kept_once(autoswift_home: Path) -> None:
    rows = [seen(1.02, 1), seen(0.97, 2)]
    assert margins.remember(rows) == 2
    assert margins.remember([*rows, seen(0.99, 3)]) == 1
    found, damaged = margins.read()
    assert (list(found), damaged) == ([*rows, seen(0.99, 3)], 0)
    one = margins.margins(found, CARD)
    assert [(m.family, m.method, m.count, m.factor) for m in one] == [("qwen2", "lora", 3, 1.02)]
    other = Device(kind="cuda", name="NVIDIA T4", memory_bytes=16 * GIB, free_bytes=15 * GIB)
    assert margins.margins(found, other) == ()


@given(st.binary(max_size=200))
def test_damaged_lines_are_counted_and_the_others_kept(autoswift_home: Path, junk: bytes) -> None:
    margins.place().unlink(missing_ok=True)
    margins.remember([seen(1.02, 1)])
    with margins.place().open("ab") as f:
        f.write(junk + b"\n" + b'{"device": "x", "measured": 1e400, "predicted": 1, "family": "", "method": ""}\n[1]\n')
    margins.remember([seen(1.03, 2)])
    found, damaged = margins.read()
    assert {one.trial for one in found} >= {1, 2}
    assert damaged >= 2


def test_a_file_that_cannot_be_read_is_a_warning(autoswift_home: Path) -> None:
    margins.place().mkdir(parents=True)
    assert margins.read() == ((), 1)
