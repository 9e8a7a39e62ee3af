"""The live display: what is in view on a terminal, what a log gets, and that any thread may report."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from autoswift.cli import live
from autoswift.cli.live import Display
from autoswift.cli.options import current
from autoswift.cli.show import sparkline
from autoswift.run.record import RunRecord
from autoswift.testing.runs import synthetic_run


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    monkeypatch.setattr(current, "language", "en")
    return synthetic_run(tmp_path / "run", language="en")


def rows(record: RunRecord) -> list[dict[str, Any]]:
    found = record.journal.events() + [{"kind": "trial"} | row for row in record.journal.trials()]
    return sorted(found, key=lambda row: float(row["time"]))


def shown(display: Display, width: int = 140) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(display.render())
    return out.getvalue()


def plain(record: RunRecord) -> tuple[Display, io.StringIO]:
    out = io.StringIO()
    return Display(Console(file=out, width=200), record.task()), out


def test_in_the_middle_of_a_run(record: RunRecord) -> None:
    display, _ = plain(record)
    plan = record.plan()
    assert plan is not None
    display.use_plan(plan)
    for row in rows(record):
        display(row | {"time": time.time()})
        if row.get("trial") == 0 and row.get("step") == 60:
            break
    text = shown(display)
    assert "✓ search" in text
    assert "● train" in text
    assert "60/120" in text
    assert "left" in text
    assert "★ 2" in text
    assert "failed  The loss is no longer a number" in text
    assert "finished  The machine ran out of memory" in text
    assert "trials 0" in text
    assert "the effective batch stays 16" in text
    assert all(len(line) <= 80 for line in shown(display, 80).splitlines())


def test_a_log_gets_a_line_for_each_important_event(record: RunRecord) -> None:
    display, out = plain(record)
    plan = record.plan()
    assert plan is not None
    display.use_plan(plan)
    with display:
        for row in rows(record):
            display(row)
    text = out.getvalue()
    for words in ("search …", "Trial 2 finished: chrF 26.8", "Trial 3 failed", "Trial 4 again: Half", "Plan changed",
                  "port 8000 is taken", "load test done (38 s)"):  # fmt: skip
        assert words in text
    assert "step" not in text  # nothing moved for 15 s
    assert len(text.splitlines()) < 60


def test_a_log_gets_progress_now_and_then(record: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LINE_SECONDS", 0.0)
    display, out = plain(record)
    display(
        {
            "kind": "progress",
            "stage": "fetch",
            "done": 2**20,
            "total": 2**21,
            "unit": "bytes",
            "text": "model.safetensors",
        }
    )
    assert "fetch model model.safetensors 1 MiB / 2 MiB" in out.getvalue()
    for row in rows(record):
        if row.get("trial") == 1:
            display(row)
    assert "Trial 1: step 20/20, loss 2.32" in out.getvalue()


def test_a_terminal_gets_a_display_that_makes_way_for_a_question(record: RunRecord) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=140)
    display = Display(console, record.task())
    with display:
        for row in rows(record)[:4]:
            display(row)
        with display.paused():
            console.print("QUESTION")
        display(rows(record)[-1])
    text = out.getvalue()
    assert "QUESTION" in text
    assert "understand" in text.split("QUESTION")[1]


def test_rows_from_many_threads_at_once(record: RunRecord) -> None:
    display, _ = plain(record)
    everything = rows(record)
    errors: list[BaseException] = []

    def report() -> None:
        try:
            for row in everything:
                display(row)
                display.render()
        except Exception as exc:
            errors.append(exc)

    threads = [threading.Thread(target=report) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(display.trials) == 6


def test_unknown_kinds_and_missing_fields_do_no_harm(record: RunRecord) -> None:
    display, out = plain(record)
    for row in ({"kind": "newer_than_us"}, {"kind": "note"}, {"kind": "symptom"}, {"kind": "progress"}, {}):
        display(row)
    display({"kind": "stage", "stage": "brand_new", "state": "started"})
    assert "brand new …" in out.getvalue()


@pytest.mark.parametrize(
    ("values", "line"), [([], ""), ([3.0], "▁"), ([1.0, 1.0], "▁▁"), ([4.0, 2.0, 1.0], "█▃▁"), (list(range(99)), None)]
)
def test_sparklines(values: list[float], line: str | None) -> None:
    found = sparkline(values)
    assert len(found) <= 12
    if line is None:
        assert (found[0], found[-1]) == ("▁", "█")
    else:
        assert found == line
