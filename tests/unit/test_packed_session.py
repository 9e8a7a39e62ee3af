"""The control side of packed trials, against a worker without a model: protocol, ends, losses, fall-backs."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Event
from autoswift.domain.trial import Trial
from autoswift.engines import lines as lines_module
from autoswift.engines.context import EngineContext
from autoswift.engines.packed import session as session_module
from autoswift.engines.packed.engine import PackedEngine
from autoswift.engines.packed.protocol import Checkpoint, Open, Said, Stop, Submit, Unreadable, decoded, encoded
from autoswift.engines.packed.session import PackedSession
from autoswift.run.manifest import flaw
from autoswift.testing.engine_contract import TrainEngineContract
from unit.plans import make_plan

FAKE = Path(__file__).parents[1] / "packed_fake_worker.py"
CPU = Device(kind="cpu", name="cpu")


def context_of(folder: Path, **behaviour: Any) -> EngineContext:
    model = folder / "base"
    model.mkdir(exist_ok=True)
    (model / "behaviour.json").write_text(json.dumps(behaviour))
    for name in ("train", "validation"):
        (folder / f"{name}.jsonl").touch()
    return EngineContext(
        folder=folder,
        model=model,
        python=Path(sys.executable),
        train=folder / "train.jsonl",
        validation=folder / "validation.jsonl",
        references=("hello", "world"),
        score=lambda answers, references: {"chrf": 100.0 * sum(map(str.__eq__, answers, references)) / len(answers)},
    )


def packed_plan(trials: int = 4) -> Plan:
    return make_plan(packed=trials)


def trial_of(number: int, steps: int = 6, **fields: Any) -> Trial:
    return Trial(number=number, attempt=1, parameters={"learning_rate": 1e-3}, tokens=400 * steps, **fields)


def opens(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(row) for row in (folder / "base" / "opens.jsonl").read_text().splitlines()]


def run_all(session: PackedSession, trials: list[Trial], seconds: float = 30.0) -> dict[int, list[Event]]:
    """Submits all and returns every trial's events, the last one its end."""
    for one in trials:
        session.submit(one)
    return ends(session, {one.number for one in trials}, seconds)


def ends(session: PackedSession, numbers: set[int], seconds: float = 30.0) -> dict[int, list[Event]]:
    seen: dict[int, list[Event]] = {number: [] for number in numbers}
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        for event in session.events(0.2):
            seen[event.trial].append(event)
        if all(found and found[-1].kind in ("finished", "failed") for found in seen.values()):
            return seen
    raise TimeoutError({number: [e.kind for e in found] for number, found in seen.items()})


@pytest.fixture
def close() -> Any:
    opened: list[PackedSession] = []
    yield opened.append
    for session in opened:
        session.close()


class TestPacked(TrainEngineContract):
    @pytest.fixture
    def plan(self) -> Plan:
        return packed_plan()

    @pytest.fixture
    def engine(self, tmp_path: Path) -> PackedEngine:
        return PackedEngine(context_of(tmp_path, step_seconds=0.002), FAKE)


def started(tmp_path: Path, close: Any, trials: int = 4, **behaviour: Any) -> PackedSession:
    session = PackedEngine(context_of(tmp_path, **behaviour), FAKE).open(packed_plan(trials), CPU)
    close(session)
    return session


def test_trials_share_one_worker_and_each_keeps_its_record(tmp_path: Path, close: Any) -> None:
    session = started(tmp_path, close)
    seen = run_all(session, [trial_of(n, evaluate_rows=2) for n in (1, 2, 3)])
    assert len(opens(tmp_path)) == 1
    for number, events in seen.items():
        assert [e.step for e in events if e.kind == "progress"] == list(range(1, 7))
        assert events[-1].metrics["chrf"] == 50.0
        assert events[-1].artifact is not None
        checkpoint = tmp_path / events[-1].artifact.path
        assert flaw(checkpoint) == ""
        command = json.loads((checkpoint.parent.parent / "command.json").read_text())
        assert command["argv"][:2] == ["swift", "sft"]
        assert f"trials/{number}/" in command["argv"][command["argv"].index("--output_dir") + 1]


def test_a_killed_worker_loses_no_trial_and_no_saved_step(tmp_path: Path, close: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(session_module, "CHECKPOINT_SECONDS", 0.05)
    session = started(tmp_path, close, step_seconds=0.03)
    for number in (1, 2):
        session.submit(trial_of(number, steps=20))
    seen: list[Event] = []
    limit = time.monotonic() + 20
    while sum(e.kind == "progress" for e in seen) < 16 and time.monotonic() < limit:
        seen += session.events(0.2)
    os.kill(opens(tmp_path)[-1]["pid"], signal.SIGKILL)
    rest = ends(session, {1, 2})
    for number in (1, 2):
        events = [e for e in seen if e.trial == number] + rest[number]
        assert events[-1].kind == "finished"
        assert [e.step for e in events if e.kind == "progress"] == list(range(1, 21)), "once each, in order"
        assert [e.symptom for e in events if e.kind == "warning"] == ["worker_lost"]
        told = json.loads((tmp_path / f"trials/{number}/attempt-1/trial.json").read_text())
        assert told["from_checkpoint"], "it went on from a checkpoint"
    assert len(opens(tmp_path)) == 2


def test_a_torn_checkpoint_is_not_gone_on_from(tmp_path: Path, close: Any) -> None:
    session = started(tmp_path, close, step_seconds=0.03)
    session.submit(trial_of(1, steps=60))
    steps = 0
    while steps < 4:
        steps += sum(e.kind == "progress" for e in session.events(0.2))
    lane = session.lanes[1]
    for _ in range(2):
        assert session.worker is not None
        session.worker.send(Checkpoint(trial=1))
        before = lane.lines.checkpoint
        while lane.lines.checkpoint == before:
            session.events(0.1)
    newest = Path(lane.lines.checkpoint)
    (newest / "adapter_model.safetensors").write_bytes(b"wei")
    os.kill(opens(tmp_path)[-1]["pid"], signal.SIGKILL)
    assert ends(session, {1})[1][-1].kind == "finished"
    told = json.loads((tmp_path / "trials/1/attempt-1/trial.json").read_text())
    assert told["from_checkpoint"] is not None
    assert told["from_checkpoint"] != str(newest)


def test_a_trial_that_kills_its_workers_ends_alone(tmp_path: Path, close: Any) -> None:
    session = started(tmp_path, close, victim=2, die_at=3, die_times=99)
    seen = run_all(session, [trial_of(n, steps=8) for n in (1, 2, 3)])
    assert [seen[n][-1].kind for n in (1, 2, 3)] == ["finished", "failed", "finished"]
    assert seen[2][-1].symptom == "killed"


def test_out_of_memory_of_the_worker_halves_the_pack(tmp_path: Path, close: Any) -> None:
    session = started(tmp_path, close, victim=1, die_at=3, exit_words="torch.OutOfMemoryError: CUDA out of memory.")
    seen = run_all(session, [trial_of(n) for n in (1, 2, 3, 4)])
    assert {events[-1].kind for events in seen.values()} == {"finished"}
    told = [e for events in seen.values() for e in events if e.symptom == "pack_halved"]
    assert len(told) == 1
    assert session.capacity() == 2
    assert opens(tmp_path)[-1]["max_trials"] == 2


def test_out_of_memory_alone_is_the_trials_own(tmp_path: Path, close: Any) -> None:
    words = "torch.OutOfMemoryError: CUDA out of memory."
    session = started(tmp_path, close, trials=1, die_at=2, die_times=9, exit_words=words)
    last = run_all(session, [trial_of(1)])[1][-1]
    assert (last.kind, last.symptom) == ("failed", "device_out_of_memory")


def test_a_pack_that_the_worker_halves_is_told_and_filled_no_further(tmp_path: Path, close: Any) -> None:
    session = started(tmp_path, close, halve_at=2)
    seen = run_all(session, [trial_of(n) for n in (1, 2, 3, 4)])
    assert {events[-1].kind for events in seen.values()} == {"finished"}
    assert [e.evidence["text"] for es in seen.values() for e in es if e.kind == "warning"] == [
        "2 trials: out of memory"
    ]
    assert session.capacity() == 2


def test_one_bad_trial_leaves_the_others_alone(tmp_path: Path, close: Any) -> None:
    session = started(tmp_path, close, fail_at=3)
    seen = run_all(session, [trial_of(n) for n in (1, 2)])
    assert (seen[1][-1].kind, seen[1][-1].symptom) == ("failed", "nan")
    assert seen[2][-1].kind == "finished"
    assert len(opens(tmp_path)) == 1


def test_a_worker_that_talks_nonsense_is_replaced(tmp_path: Path, close: Any) -> None:
    session = started(tmp_path, close, garbage_at=2, victim=1)
    session.submit(trial_of(1))
    warned: list[Event] = []
    limit = time.monotonic() + 20
    while not warned and time.monotonic() < limit:
        warned = [e for e in session.events(1.0) if e.kind == "warning"]
    assert warned[0].symptom == "worker_lost"
    assert "Loading checkpoint shards" in warned[0].evidence["text"]


def test_silence_is_noticed(tmp_path: Path, close: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(lines_module, "HANG_LEAST_SECONDS", 0.5)
    session = started(tmp_path, close, trials=1, hang_at=3)
    last = run_all(session, [trial_of(1)])[1]
    assert (last[-1].kind, last[-1].symptom) == ("failed", "hang")
    assert len(opens(tmp_path)) == 2, "once it may have been the worker"


def test_a_trial_that_outlives_its_deadline_does_not_take_the_others_with_it(
    tmp_path: Path, close: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(session_module, "GRACE_SECONDS", 0.3)
    session = started(tmp_path, close, hang_at=3, step_seconds=0.05)
    seen = run_all(session, [trial_of(1, deadline=time.time() + 1.5), trial_of(2)])
    assert seen[1][-1].kind == "failed"
    assert seen[2][-1].kind == "finished"


def test_a_base_that_is_refused_is_trained_by_a_process_a_trial(tmp_path: Path, close: Any, monkeypatch: Any) -> None:
    session = started(tmp_path, close, refuse="architecture")
    begun: list[int] = []
    monkeypatch.setattr(session._solo, "submit", lambda trial, checkpoint: begun.append(trial.number))
    session.submit(trial_of(1))
    session.submit(trial_of(2))
    seen: list[Event] = []
    limit = time.monotonic() + 20
    while not begun and time.monotonic() < limit:
        seen += session.events(0.2)
    assert [e.symptom for e in seen] == ["packing_refused"]
    assert "architecture" in seen[0].evidence["text"]
    assert session.capacity() == 1


def test_a_trial_that_is_refused_is_trained_by_a_process_of_its_own(
    tmp_path: Path, close: Any, monkeypatch: Any
) -> None:
    session = started(tmp_path, close, refuse_trial=2)
    begun: list[int] = []
    monkeypatch.setattr(session._solo, "submit", lambda trial, checkpoint: begun.append(trial.number))
    session.submit(trial_of(1))
    session.submit(trial_of(2))
    seen: list[Event] = []
    limit = time.monotonic() + 20
    while not begun and time.monotonic() < limit:
        seen += session.events(0.2)
    assert begun == [2], "when the worker was empty"
    assert [e.kind for e in seen if e.trial == 1][-1] == "finished"
    assert [e.symptom for e in seen if e.trial == 2] == ["packing_refused"]


def test_what_recovery_changes_decides_where_a_trial_goes(tmp_path: Path, close: Any, monkeypatch: Any) -> None:
    session = started(tmp_path, close)
    alone: list[Trial] = []
    monkeypatch.setattr(session._solo, "submit", lambda trial, checkpoint: alone.append(trial))
    smaller = trial_of(1, overrides={"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2})
    assert run_all(session, [smaller])[1][-1].kind == "finished"
    again = trial_of(2, overrides={"gradient_checkpointing": True})
    assert run_all(session, [again, trial_of(3)])[2][-1].kind == "finished"
    assert [one["gradient_checkpointing"] for one in opens(tmp_path)] == [False, True], "opened anew, and kept so"
    session.submit(trial_of(4, overrides={"optimizer": "paged_adamw_8bit"}))
    assert [one.number for one in alone] == [4]


def test_a_stop_that_comes_before_the_start_is_an_end_too(tmp_path: Path, close: Any) -> None:
    session = started(tmp_path, close, trials=1, step_seconds=0.05)
    session.submit(trial_of(1, steps=40))
    session.submit(trial_of(2))
    assert session.capacity() == 2, "nobody else is put in before the one that waits"
    session.stop(2)
    assert [e.kind for e in session.events(5.0) if e.trial == 2] == ["failed"]


@given(st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=8), max_size=4))
def test_only_lines_of_the_protocol_are_taken(value: dict[str, Any]) -> None:
    with pytest.raises(Unreadable):
        decoded(json.dumps(value | {"event": "surprise"}).encode())
    with pytest.raises(Unreadable):
        decoded(json.dumps(value).encode() if "event" not in value else b"[]")


@given(st.integers(0, 9), st.floats(allow_nan=False, allow_infinity=False) | st.none(), st.integers(1, 10**6))
def test_a_line_keeps_all_that_it_says(trial: int, loss: float | None, step: int) -> None:
    line = {"event": "progress", "trial": trial, "time": 1.5, "step": step, "metrics": {"loss": loss}, "more": [1]}
    said = decoded(json.dumps(line).encode())
    assert isinstance(said, Said)
    assert (said.trial, said.step, said.line) == (trial, step, line)


def test_commands_are_one_line_each(tmp_path: Path) -> None:
    submit = Submit(
        trial=1,
        attempt=2,
        settings={"seed": 0, "note": "两行\n"},
        folder=tmp_path,
        from_checkpoint=None,
        deadline=None,
        evaluate_rows=2,
        evaluate_seconds=1.0,
    )
    for command in (submit, Stop(trial=1), Checkpoint(trial=1)):
        line = encoded(command)
        assert line.count(b"\n") == 1
        assert json.loads(line)["do"] == type(command).__name__.lower()
    assert Open.__dataclass_fields__["do"].default == "open"


def test_the_opening_says_what_swift_would_be_told(tmp_path: Path, close: Any) -> None:
    context = context_of(tmp_path)
    plan = packed_plan()
    plan = replace(plan, training=replace(plan.training, method="qlora", precision="bfloat16"))
    session = PackedEngine(context, FAKE).open(plan, CPU)
    close(session)
    run_all(session, [trial_of(1)])
    told = opens(tmp_path)[0]
    assert (told["quant"], told["torch_dtype"], told["max_trials"]) == ("nf4", "bfloat16", 4)
    assert told["arguments"]["quant_method"] == "bnb"
    assert told["arguments"]["dataset"] == str(context.train)
