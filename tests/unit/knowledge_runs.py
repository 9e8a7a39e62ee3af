"""Runs to remember, for the tests of the knowledge base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from autoswift.knowledge.entry import Fingerprint, RunEntry, TrialRow
from autoswift.knowledge.evidence import Remembered

TASK = Fingerprint(
    goal="chat",
    language="zh",
    domain="medical",
    rows=1000,
    characters=300.0,
    answer_characters=120.0,
    tokens_mean=200.0,
    model="qwen2.5-7b-instruct",
    parameters=7_615_616_512,
    method="lora",
    device="NVIDIA A100-SXM4-80GB",
)
PRIOR: dict[str, Any] = {"learning_rate": 2e-4, "effective_batch_size": 16, "lora_rank": 16}
SPACE: dict[str, dict[str, Any]] = {
    "learning_rate": {"low": 4e-5, "high": 1e-3, "log": True, "prior": 2e-4},
    "effective_batch_size": {"choices": [8, 16, 32], "prior": 16},
}
RATIOS = (1.0, 3.0, 0.35, 2.0, 1.4)


def trial(ratio: float, score: float | None, *, stderr: float = 0.3, **more: Any) -> TrialRow:
    """At `ratio` times the prior's learning rate; `prior` and further parameters may be given."""
    prior = more.pop("prior", PRIOR)
    parameters = prior | {"learning_rate": prior["learning_rate"] * ratio} | more.pop("parameters", {})
    fields = {"tokens": 10_000, "curve": ((10, 2.0, None, None), (20, 1.5, 1.6, score))} | more
    return TrialRow(parameters=parameters, prior=prior, score=score, stderr=stderr, **fields)


def trials(best: float, *, prior: dict[str, Any] = PRIOR, steep: float = 8.0) -> tuple[TrialRow, ...]:
    """Five trials of a task whose score falls with the squared log distance from `best` times the prior."""
    return tuple(trial(r, 30.0 - steep * math.log(r / best) ** 2, prior=prior) for r in RATIOS)


def entry(run_id: str, created: float = 1.0, tried: Sequence[TrialRow] | None = None, **changes: Any) -> RunEntry:
    """An entry; `changes` are of its fingerprint."""
    return RunEntry(
        run_id=run_id,
        created=created,
        updated=created,
        fingerprint=replace(TASK, **changes),
        best={"learning_rate": 2e-4, "lora_rank": 16},
        metric="chrf",
        base=20.5,
        tuned=31.25,
        low=5.0,
        high=15.5,
        verdict="better",
        trials=tuple(trials(2.0) if tried is None else tried),
        device_seconds=1234.5,
    )


def remembered(run_id: str, tried: Sequence[TrialRow], **changes: Any) -> Remembered:
    """A run as a plan is given it."""
    return Remembered(run_id=run_id, fingerprint=replace(TASK, **changes), trials=tuple(tried))


numbers = st.floats(-1e6, 1e6)
rows = st.builds(
    trial,
    st.floats(1e-3, 1e3),
    st.none() | numbers,
    stderr=st.sampled_from([0.0, 1e-9, 0.3, 1e3]),
    status=st.sampled_from(["finished", "finished", "pruned", "failed"]),
    symptom=st.sampled_from(["", "nan", "divergence", "device_out_of_memory"]),
    tokens=st.sampled_from([1000, 9000, 10_000]),
    prior=st.builds(
        lambda rate, batch: {"learning_rate": rate, "effective_batch_size": batch},
        st.floats(1e-7, 1.0),
        st.integers(1, 512),
    ),
    parameters=st.fixed_dictionaries(
        {}, optional={"effective_batch_size": st.integers(1, 4096), "packing": st.booleans(), "optimizer": st.just("a")}
    ),
)
"""Any trial that an entry has a place for."""
fingerprints = st.builds(
    Fingerprint,
    goal=st.sampled_from(["chat", "classification"]),
    language=st.sampled_from(["zh", "en", "mixed"]),
    domain=st.sampled_from(["medical", "legal"]),
    modality=st.sampled_from(["text", "image"]),
    rows=st.integers(0, 10**7),
    characters=st.floats(0, 1e5),
    parameters=st.integers(0, 10**12),
    method=st.sampled_from(["", "lora", "qlora", "full"]),
)
entries = st.builds(
    RunEntry,
    run_id=st.text("abcdef0123456789", min_size=1, max_size=12),
    created=st.floats(0, 2e9),
    updated=st.floats(0, 2e9),
    fingerprint=fingerprints,
    best=st.dictionaries(st.sampled_from(["learning_rate", "lora_rank", "packing"]), numbers | st.booleans()),
    metric=st.sampled_from(["chrf", "macro_f1"]),
    base=st.none() | numbers,
    tuned=st.none() | numbers,
    verdict=st.sampled_from(["", "better", "unclear", "worse", "vetoed"]),
    trials=st.lists(rows, max_size=4).map(tuple),
)
