"""The table of curves, the engine that replays it, and the recorder, in miniature."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Event
from autoswift.domain.trial import Trial
from autoswift.engines.curves import SHIPPED, CurveTable, vars_of
from autoswift.engines.curves.smooth import Interpolator
from autoswift.engines.simulated import Landscape, SimulatedEngine, SimulatedSession, TableLandscape
from autoswift.errors import InputError
from unit.curve_tables import BASE, EPOCH_TOKENS, arrays, write
from unit.plans import make_plan

ROOT = Path(__file__).resolve().parents[2]
CPU = Device(kind="cpu", name="test")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> CurveTable:
    return CurveTable.load(write(tmp_path_factory.mktemp("t") / "curves.npz"))


def test_the_shipped_table_is_as_promised() -> None:
    table = CurveTable.load()
    assert len(table.corpora) >= 3
    assert len(table.configurations) >= 200
    assert table.seeds == 2
    assert table.tokens.shape[1] >= 15
    assert (np.diff(table.tokens, axis=1) >= 0).all()
    rates = [c.learning_rate for c in table.configurations]
    assert max(rates) / min(rates) > 1000
    for number, corpus in enumerate(table.corpora):
        last = table.curves["averaged"][number, :, :, -1]
        assert np.nanmin(last) < table.base_nll[number] - 5 * table.noise(corpus), "training helps"
        worse = ~(last < np.nanmin(last) + 1.0)
        assert worse.mean() > 0.05, "rates that diverge are in it"
    assert sum(f.stat().st_size for f in SHIPPED.parent.glob("*.npz")) < 3 * 2**20


def test_every_recorded_configuration_is_its_own_nearest(table: CurveTable) -> None:
    for one in table.configurations:
        assert table.nearest(vars_of(one)) == one


@given(tokens=st.floats(0, 10 * EPOCH_TOKENS), row=st.integers(0, 149), kind=st.sampled_from(["nll", "averaged"]))
@settings(max_examples=60)
def test_a_value_lies_between_its_checkpoints(table: CurveTable, tokens: float, row: int, kind: Any) -> None:
    curve = table.curve("first", row, 0, kind)
    value = curve.at(tokens)
    around = np.concatenate([[BASE], curve.values])
    if value is None:
        assert np.isnan(around).any()
    else:
        assert np.nanmin(around) - 1e-9 <= value <= np.nanmax(around) + 1e-9
    assert curve.at(0.0) == BASE
    assert (
        curve.at(float(curve.tokens[3])) == pytest.approx(float(curve.values[3]), nan_ok=True)
        or curve.at(float(curve.tokens[3])) is None
    )


def test_what_lies_between_is_nearer_by_the_process_than_by_the_neighbour(tmp_path: Path) -> None:
    whole = arrays(noise=0.0)
    names = ("learning_rate", "rank", "batch", "warmup_ratio", "tokens")
    left_out = [n for n in range(20, 100, 7) if whole["learning_rate"][n] < 0.02]
    keep = np.setdiff1d(np.arange(len(whole["rank"])), left_out)
    part = {n: whole[n][keep] for n in names} | {n: whole[n][:, keep] for n in ("nll", "averaged", "train")}
    full, table = CurveTable(whole), CurveTable.load(write(tmp_path / "part.npz", **part))
    made = Interpolator(table)
    errors = []
    for number in left_out:
        asked = vars_of(full.configurations[number])
        real = full.curve("second", number, None, "averaged").values
        near = table.curve("second", table.nearest(asked).number, None, "averaged").values
        found = made.values("second", asked, "averaged")
        assert (found >= np.nanmin(table.curves["averaged"][1].mean(axis=1), axis=0) - 1e-9).all()
        errors.append((np.abs(found - real).max(), np.abs(near - real).max()))
    process, neighbour = np.mean(errors, axis=0)
    assert process < neighbour / 2


def test_a_diverged_cell_stays_diverged(table: CurveTable) -> None:
    row = max(table.configurations, key=lambda c: c.learning_rate).number
    assert table.final("first", row, 4 * EPOCH_TOKENS) == math.inf
    assert table.curve("first", row, 0, "nll").at(4 * EPOCH_TOKENS) is None


def test_what_is_no_table_says_so(tmp_path: Path) -> None:
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    for path in (tmp_path / "broken.npz", tmp_path / "missing.npz"):
        with pytest.raises(InputError, match=r"npz"):
            CurveTable.load(path)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", **(arrays() | {"corpora": np.array([print], dtype=object)}))
    with pytest.raises(InputError):
        CurveTable.load(tmp_path / "evil.npz")


def trial(rate: float = 0.02, tokens: int = 2 * EPOCH_TOKENS, number: int = 1, **fields: Any) -> Trial:
    parameters = {"learning_rate": rate, "effective_batch_size": 8, "lora_rank": 8}
    return Trial(number=number, attempt=1, parameters=parameters, tokens=tokens, **fields)


def session(folder: Path, table: CurveTable, plan: Plan | None = None, **fields: Any) -> SimulatedSession:
    land = TableLandscape(table=table, corpus="first")
    return SimulatedEngine(folder, land, **fields).open(plan or table_plan(), CPU)


def table_plan() -> Plan:
    plan = make_plan(tokens_per_row=32.0)
    return replace(plan, training=replace(plan.training, per_device_train_batch_size=8))


def drained(one: SimulatedSession) -> list[Event]:
    seen: list[Event] = []
    while one.lanes:
        seen += one.events(0.1)
    return seen


def test_the_engine_replays_the_recorded_numbers_on_the_recorded_clock(tmp_path: Path, table: CurveTable) -> None:
    one = session(tmp_path, table)
    one.submit(trial())
    seen = drained(one)
    row = table.nearest({"learning_rate": 0.02, "rank": 8, "batch": 8, "warmup_ratio": 0.05}).number
    assert seen[-1].metrics["nll"] == pytest.approx(table.final("first", row, 2 * EPOCH_TOKENS, 0))
    steps = [e for e in seen if e.kind == "progress"]
    assert len(steps) == 2 * EPOCH_TOKENS / 32 / 8
    assert seen[-1].time - seen[0].time == pytest.approx(len(steps) * table.step_seconds(8))
    assert [e.time for e in seen] == sorted(e.time for e in seen)


def test_a_diverged_trial_reports_none_and_fails(tmp_path: Path, table: CurveTable) -> None:
    one = session(tmp_path, table)
    one.submit(trial(rate=0.5))
    seen = drained(one)
    assert seen[-1].kind == "failed"
    assert seen[-1].symptom == "nan"
    assert any(e.metrics["loss"] is None for e in seen if e.kind == "progress")


def test_a_continued_trial_equals_an_unbroken_one_and_takes_only_the_rest(tmp_path: Path, table: CurveTable) -> None:
    whole = session(tmp_path / "whole", table)
    whole.submit(trial())
    unbroken = drained(whole)
    parts = session(tmp_path / "parts", table)
    parts.submit(trial(tokens=EPOCH_TOKENS))
    first = drained(parts)
    parts.submit(trial(), Path(first[-1].evidence["resume"]))
    rest = drained(parts)
    assert rest[-1].metrics == unbroken[-1].metrics
    steps = [e.step for e in first + rest if e.kind == "progress"]
    assert steps == [e.step for e in unbroken if e.kind == "progress"]
    assert rest[-1].time == pytest.approx(unbroken[-1].time)


def test_a_stopped_trial_is_worth_what_it_had_reached(tmp_path: Path, table: CurveTable) -> None:
    one = session(tmp_path, table)
    one.submit(trial())
    seen: list[Event] = []
    while len(seen) < 20:
        seen += one.events(0.1)
    one.stop(1)
    seen += drained(one)
    reached = seen[-1].metrics["tokens"]
    assert reached is not None
    assert 0 < reached < EPOCH_TOKENS
    row = table.nearest({"learning_rate": 0.02, "rank": 8, "batch": 8, "warmup_ratio": 0.05}).number
    assert seen[-1].metrics["nll"] == pytest.approx(table.final("first", row, reached, 0), rel=1e-3)


def test_several_trials_run_side_by_side_at_their_own_pace(tmp_path: Path) -> None:
    engine = SimulatedEngine(tmp_path, Landscape(step_seconds=2.0), capacity=2)
    one = engine.open(make_plan(), CPU)
    for number, tokens in ((1, 4000), (2, 2000)):
        one.submit(Trial(number=number, attempt=1, parameters={}, tokens=tokens))
    seen = drained(one)
    ends = {e.trial: e.time for e in seen if e.kind == "finished"}
    assert ends == {1: 20.0, 2: 10.0}
    assert one.clock == 20.0, "side by side, not one after the other"


def test_on_the_real_clock_events_come_when_they_are_due(tmp_path: Path) -> None:
    engine = SimulatedEngine(tmp_path, Landscape(), time_scale=0.01)
    one = engine.open(make_plan(), CPU)
    begin = time.time()
    one.submit(Trial(number=1, attempt=1, parameters={}, tokens=12_000))  # 30 steps of a second each
    seen = drained(one)
    assert time.time() - begin >= 0.3
    assert seen[-1].time - seen[0].time == pytest.approx(0.3, abs=0.02)
    late = Trial(number=2, attempt=1, parameters={}, tokens=1_200_000, deadline=time.time() + 0.2)
    one.submit(late)
    seen = drained(one)
    assert seen[-1].kind == "finished"
    assert time.time() - begin < 5


ENVIRONMENT = {"PATH": "/usr/bin:/bin", "CURVES_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""One thread: on a busy machine two wait for each other."""
TEXT = ["The quick brown fox jumps over the lazy dog. " * 3, "def add(a, b):\n    return a + b\n" * 3]


def corpora(folder: Path) -> Path:
    one = {"train": TEXT * 12, "validation": TEXT * 6}
    raw = {"pretrain": {"en": TEXT * 40}, "corpora": {"customer": one, "pydoc": one}}
    path = folder / "corpora.json.gz"
    path.write_bytes(gzip.compress(json.dumps(raw).encode()))
    return path


def record(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(ROOT / "benchmarks" / "record_curves.py"), "--corpora", str(corpora(folder))]
    argv += ["--work", str(folder / "work"), "--out", str(folder / "out"), "--size", "test", "--device", "cpu", *more]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=ENVIRONMENT)


def test_the_recorder_goes_on_where_it_was_and_its_trials_share_nothing(tmp_path: Path) -> None:
    done = record(tmp_path, "--seconds", "100")
    assert done.returncode == 0, done.stderr
    table = CurveTable.load(tmp_path / "out" / "curves.npz")
    assert table.corpora == ["customer", "pydoc"]
    assert len(table.configurations) == 6
    assert np.isfinite(table.curves["train"][:, :, :, 0]).all()
    assert {one["schedule"] for one in table.meta["proxy"]} == {"cooldown", "cosine"}
    again_alone(tmp_path / "work")


def again_alone(work: Path) -> None:
    """Each trial of a pack trained once more, in a pack of its own, by a second call that leaves the rest as it is."""
    setting = json.loads((work / "setting.json").read_text(encoding="utf-8"))
    pack = next(p for p in setting["packs"] if len(p["trials"]) > 2)
    with np.load(work / "packs" / f"{pack['id']}.npz") as data:
        stacked = {k: data[k] for k in ("nll", "averaged", "train")}
    setting["packs"] += [pack | {"id": f"solo-{n}", "trials": [one]} for n, one in enumerate(pack["trials"])]
    (work / "setting.json").write_text(json.dumps(setting), encoding="utf-8")
    before = {f.name: f.stat().st_mtime_ns for f in (work / "packs").iterdir()}
    subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/children/curves.py"), str(work), "99"], check=True, env=ENVIRONMENT
    )
    assert {f.name: f.stat().st_mtime_ns for f in (work / "packs").iterdir() if f.name in before} == before
    for number in range(len(pack["trials"])):
        with np.load(work / "packs" / f"solo-{number}.npz") as data:
            for name, values in stacked.items():
                np.testing.assert_allclose(data[name][0], values[number], rtol=2e-4, equal_nan=True)
