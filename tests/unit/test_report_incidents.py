"""The report's timeline: each incident once, in words: what happened, what was changed, what it cost, how it ended."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autoswift.domain.budget import Budget
from autoswift.domain.profile import GIB
from autoswift.engines.simulated import Landscape, SimulatedEngine
from autoswift.report.incidents import incidents, wasted
from autoswift.run.clock import RunClock
from autoswift.run.journal import RunJournal
from autoswift.search.executors.local import LocalExecutor
from autoswift.search.searcher import Search
from unit.memory_engine import H100, FullDevice, plan_for
from unit.plans import make_plan


@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_out_of_memory_is_told_from_beginning_to_end(tmp_path: Path, language: str) -> None:
    plan = plan_for("0.5b", "lora", micro=8, batch=8, length=2048, room=10 * GIB)
    journal, budget = RunJournal(tmp_path), Budget(trials=1)
    executor = LocalExecutor(H100, RunClock(budget), language)
    executor.run(Search(plan), FullDevice(tmp_path, plan, cap=10 * GIB), plan, budget, journal)
    found = incidents(journal.events(), journal.trials(), language)
    assert len(found) == len([e for e in journal.events() if e["kind"] == "symptom"])
    one = found[0]
    assert one.kind == "remedy"
    told = " ".join([one.happened, one.evidence, *one.changed, one.because, one.holds, one.cost, one.ended])
    said = ["Tried to allocate", "8 → ", "2"]
    said += ["ran out of memory", "first step", "equally many rows", "plan 2", "device time", "finished"]
    said = said if language == "en" else ["显存不足", "第一步", "样本数不变", "第 2 版计划", "设备时间", "顺利完成"]
    assert [word for word in said if word not in told] == []
    assert not re.search(r"[{}]|None|per_device|_", " ".join(one.changed) + one.happened + one.cost + one.ended)
    assert wasted(found) == pytest.approx(
        sum(e["wasted_device_seconds"] for e in journal.events() if e["kind"] == "symptom")
    )


def test_what_was_given_up_repeated_or_interrupted_is_told_too(tmp_path: Path) -> None:
    faults = ((1, 1, "killed"), (2, 1, "nan"))
    journal, budget, plan = RunJournal(tmp_path), Budget(trials=3), make_plan(trials=3)
    engine = SimulatedEngine(tmp_path, Landscape(faults=faults))
    LocalExecutor(H100, RunClock(budget), "en").run(Search(plan), engine, plan, budget, journal)
    killed, nan = incidents(journal.events(), journal.trials(), "en")
    assert killed.changed == ["nothing: the same settings were tried again"]
    assert "pause of 2.0 s, which is not charged" in killed.cost
    assert killed.ended == "It then finished, at attempt 2."
    assert nan.kind == "symptom"
    assert nan.ended == "The trial was given up; the search now avoids such learning rates."
    lost = {"event": "ended", "trial": 9, "attempt": 1, "final": False, "time": 1.0,
            "outcome": {"status": "failed", "symptom": "interrupted", "device_seconds": 12.0}}  # fmt: skip
    first = incidents(journal.events(), [lost, *journal.trials()], "en")[0]
    assert first.seconds == 12.0
    assert "started again" in first.changed[0]


def test_options_stand_where_the_run_stopped() -> None:
    events = [
        {"kind": "symptom", "trial": 1, "attempt": 1, "symptom": "device_out_of_memory", "evidence": "x", "time": 1.0},
        {"kind": "gave_up", "trial": 1, "attempt": 1, "symptom": "device_out_of_memory", "options": ["qlora"]},
    ]
    one = incidents(events, [], "en")[0]
    assert one.options == ["4-bit weights: --set method=qlora"]
    assert one.ended == "The run stopped here."
