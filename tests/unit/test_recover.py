"""Symptoms are named rightly, and no remedy changes what a user would notice without a word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.domain.protocols import Symptom
from autoswift.recover.diagnose import diagnose, row, rows
from autoswift.recover.remedies import MAX_ATTEMPTS, REMEDIES, remedy
from autoswift.search.configuration import split_batch

OOM = Symptom(name="device_out_of_memory", evidence="CUDA out of memory")

settings = st.builds(
    lambda micro, accumulation, checkpointing: {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "gradient_checkpointing": checkpointing,
    },
    st.integers(1, 64),
    st.integers(1, 64),
    st.booleans(),
)


def effective(one: dict[str, int]) -> int:
    return one["per_device_train_batch_size"] * one["gradient_accumulation_steps"]


@given(settings, st.integers(1, MAX_ATTEMPTS - 1))
def test_no_remedy_changes_the_effective_batch_and_each_needs_less_memory(one: dict[str, int], attempt: int) -> None:
    cure = remedy(OOM, one, attempt, "en")
    if cure is None:
        assert one["per_device_train_batch_size"] == 1
        assert one["gradient_checkpointing"]
        return
    after = one | cure.changes
    assert effective(after) == effective(one)
    less = after["per_device_train_batch_size"] < one["per_device_train_batch_size"]
    assert less or (after["gradient_checkpointing"] and not one["gradient_checkpointing"])
    assert cure.decision.because
    assert cure.decision.source == "measurement"


@given(settings, st.sampled_from(["en", "zh"]))
def test_attempts_are_bounded_for_every_symptom(one: dict[str, int], language: str) -> None:
    for name in [r["name"] for r in rows()]:
        assert remedy(Symptom(name=name, evidence="x"), one, MAX_ATTEMPTS, language) is None


@pytest.mark.parametrize("name", ["nan", "divergence", "disk_full", "unknown", "template_mismatch"])
def test_what_another_try_cannot_mend_is_not_tried_again(name: str) -> None:
    one = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "gradient_checkpointing": False}
    assert remedy(Symptom(name=name, evidence="x"), one, 1, "en") is None


def test_a_kill_from_outside_repeats_the_same_settings_once() -> None:
    one = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "gradient_checkpointing": False}
    killed = Symptom(name="killed", evidence="SIGKILL", transient=True)
    first = remedy(killed, one, 1, "en")
    assert first is not None
    assert first.changes == {}
    assert remedy(killed, one, 2, "en") is None


@pytest.mark.parametrize(
    ("code", "log", "name"),
    [
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "device_out_of_memory"),
        (1, "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory", "host_out_of_memory"),
        (1, "OSError: [Errno 28] No space left on device: 'x'", "disk_full"),
        (137, "", "killed"),
        (1, "ValueError: something new", "unknown"),
        (0, "", "unknown"),
    ],
)
def test_logs_and_codes_are_named(code: int, log: str, name: str) -> None:
    found = diagnose(code, f"step 1\n{log}\n")
    if name != "killed":  # a kill by the kernel meanwhile would be named otherwise, and rightly
        assert found.name == name
    assert found.evidence
    assert found.transient == row(found.name)["transient"]


def test_every_remedy_of_the_table_exists() -> None:
    assert {name for r in rows() for name in r["remedies"]} <= set(REMEDIES)


@given(st.integers(1, 512), st.integers(1, 64))
def test_a_batch_is_split_exactly(effective_batch: int, largest: int) -> None:
    micro, accumulation = split_batch(effective_batch, largest)
    assert micro * accumulation == effective_batch
    assert 1 <= micro <= largest
