"""The contract of every training engine, as a test class: subclass it and give an engine.

class TestMine(TrainEngineContract):
    @pytest.fixture
    def engine(self, tmp_path): return MyEngine(...)
    @pytest.fixture
    def plan(self): ...
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from autoswift.domain.plan import Plan
from autoswift.domain.profile import Device
from autoswift.domain.protocols import Event, Session, TrainEngine
from autoswift.domain.trial import Trial

PATIENCE_SECONDS = 240.0
"""For one short trial, start-up included, on a busy machine."""


class TrainEngineContract:
    """What the executor relies on."""

    @pytest.fixture
    def device(self) -> Device:
        """A CPU; override for another."""
        return Device(kind="cpu", name="cpu")

    @pytest.fixture
    def trial(self, plan: Plan) -> Trial:
        """A trial of a few steps that answers two validation rows."""
        tokens = int(plan.search.tokens_per_row * plan.training.effective_batch_size * 6)
        return Trial(number=1, attempt=1, parameters={"learning_rate": 1e-3}, tokens=tokens, evaluate_rows=2)

    def test_a_trial_reports_from_start_to_proved_end(
        self, engine: TrainEngine, plan: Plan, device: Device, trial: Trial, tmp_path: Path
    ) -> None:
        """`started`, then growing steps with a loss, the metric, and `finished` last with an artefact that is there."""
        session = engine.open(plan, device)
        try:
            assert isinstance(session, Session)
            free = session.capacity()
            assert free >= 1
            session.submit(trial)
            seen = drain(session, trial.number)
            kinds = [e.kind for e in seen]
            assert kinds[0] == "started"
            assert kinds[-1] == "finished"
            assert kinds.count("started") == kinds.count("finished") == 1
            steps = [e.step for e in seen if e.kind == "progress"]
            assert steps == sorted(set(steps))
            assert len(steps) >= 5
            assert all(e.metrics.get("loss") is not None for e in seen if e.kind == "progress")
            assert all(e.trial == trial.number for e in seen)
            last = seen[-1]
            assert last.metrics[plan.search.metric] is not None
            assert last.metrics["nll"] is not None
            assert last.metrics["tokens"]
            assert last.artifact is not None
            saved = session.save(trial.number, tmp_path / "kept")
            assert Path(saved.path).is_dir()
            assert session.capacity() == free
        finally:
            session.close()

    def test_a_stopped_trial_ends_early_and_still_finishes(
        self, engine: TrainEngine, plan: Plan, device: Device, trial: Trial
    ) -> None:
        """`stop` ends it before its last step, and what it has so far is kept."""
        long = Trial(number=2, attempt=1, parameters=trial.parameters, tokens=trial.tokens * 50, evaluate_rows=2)
        session = engine.open(plan, device)
        try:
            session.submit(long)
            seen: list[Event] = []
            end = time.monotonic() + PATIENCE_SECONDS
            while not any(e.kind == "progress" for e in seen) and time.monotonic() < end:
                seen += session.events(0.5)
            session.stop(2)
            seen += drain(session, 2)
            assert seen[-1].kind == "finished"
            assert seen[-1].artifact is not None
            assert len([e for e in seen if e.kind == "progress"]) < 300
        finally:
            session.close()

    def test_a_deadline_in_the_past_ends_at_once_with_what_there_is(
        self, engine: TrainEngine, plan: Plan, device: Device, trial: Trial
    ) -> None:
        """A trial never outlives its deadline by more than a step, its answers and its end."""
        late = Trial(
            number=3,
            attempt=1,
            parameters=trial.parameters,
            tokens=trial.tokens * 50,
            deadline=time.time() + 1,
            evaluate_rows=0,
        )
        session = engine.open(plan, device)
        try:
            session.submit(late)
            seen = drain(session, 3)
            assert seen[-1].kind in ("finished", "failed")
        finally:
            session.close()


def drain(session: Session, trial: int) -> list[Event]:
    """All events of a trial up to its end.

    Raises:
        TimeoutError: when the end does not come.
    """
    seen: list[Event] = []
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        seen += session.events(0.5)
        if any(e.trial == trial and e.kind in ("finished", "failed") for e in seen):
            return seen
    raise TimeoutError(f"trial {trial} did not end in {PATIENCE_SECONDS:.0f} s")
