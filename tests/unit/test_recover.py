"""Symptoms are named rightly, and no remedy changes what a user would notice without a word."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.domain.decision import Decision
from autoswift.domain.plan import RecoverySettings
from autoswift.domain.protocols import Symptom
from autoswift.domain.trial import Trial
from autoswift.recover.diagnose import diagnose, ladder, row, rows
from autoswift.recover.ladder import Situation, climb
from autoswift.recover.memory import MemoryModel, shortage
from autoswift.recover.remedies import MAX_ATTEMPTS, REMEDIES, blocked, by_rate, kind_of, remedy, repeats
from autoswift.recover.revise import adds, changed, merged, revised
from autoswift.search.configuration import settings_in_force, split_batch
from unit.memory_engine import H100, plan_for, said
from unit.plans import make_plan

OOM = Symptom(name="device_out_of_memory", evidence="CUDA out of memory")
ALL = RecoverySettings(allow_truncate=True, liger=True, bits=True, bfloat16=True)

settings = st.fixed_dictionaries(
    {
        "per_device_train_batch_size": st.integers(1, 97),
        "gradient_accumulation_steps": st.integers(1, 64),
        "devices": st.sampled_from([1, 2, 3, 8]),
        "gradient_checkpointing": st.booleans(),
        "use_liger_kernel": st.booleans(),
        "optimizer": st.sampled_from(["adamw_torch", "adamw_bnb_8bit"]),
        "method": st.sampled_from(["lora", "qlora", "full"]),
        "precision": st.sampled_from(["bfloat16", "float16", "float32"]),
        "max_length": st.integers(64, 4096),
        "generation_batch_size": st.integers(1, 64),
        "attention": st.sampled_from(["sdpa", "flash_attn"]),
        "max_grad_norm": st.sampled_from([0.1, 1.0]),
        "learning_rate": st.floats(1e-6, 1e-2),
        "warmup_ratio": st.sampled_from([0.0, 0.05, 0.3]),
        "flags": st.sampled_from([{}, {"dataloader_num_workers": "2"}]),
    }
)
names = st.sampled_from([r["name"] for r in rows()])
phases = st.sampled_from(["", "load", "first_step", "long_batch", "evaluation", "save"])


def effective(one: dict[str, Any]) -> int:
    product = one["per_device_train_batch_size"] * one["gradient_accumulation_steps"] * one.get("devices", 1)
    return int(product)


@given(settings, names, phases, st.integers(1, MAX_ATTEMPTS), st.booleans(), st.sampled_from(["en", "zh"]))
def test_no_remedy_changes_the_effective_batch_or_repeats_what_failed(
    one: dict[str, Any], name: str, phase: str, tried: int, final: bool, language: str
) -> None:
    symptom = Symptom(name=name, evidence="seen", phase=phase, transient=bool(row(name)["transient"]))
    cure = remedy(symptom, Situation(settings=one, recovery=ALL, tried=tried, final=final, language=language))
    if cure is None:
        return
    after = one | cure.changes
    assert effective(after) == effective(one)
    assert cure.changes or symptom.transient, "the same configuration again, though it was at fault"
    assert all(after[k] != one.get(k) for k in cure.changes)
    assert cure.before == {k: one.get(k) for k in cure.changes}
    assert cure.decision.because
    assert cure.decision.source == "measurement"


@given(settings, st.sets(st.sampled_from(["per_device_train_batch_size", "gradient_checkpointing", "use_liger_kernel",
                                          "method", "optimizer", "max_length", "learning_rate", "precision"])),
       names, phases)  # fmt: skip
def test_what_the_user_fixed_is_never_changed(one: dict[str, Any], fixed: set[str], name: str, phase: str) -> None:
    symptom = Symptom(name=name, evidence="seen", phase=phase)
    situation = Situation(settings=one, recovery=ALL, fixed=frozenset(fixed), final=True)
    for tried in range(1, MAX_ATTEMPTS):
        cure = remedy(symptom, replace(situation, tried=tried))
        assert cure is None or not fixed & set(cure.changes)


@given(settings, names, st.sampled_from(["en", "zh"]))
def test_attempts_are_bounded_for_every_kind(one: dict[str, Any], name: str, language: str) -> None:
    symptom = Symptom(name=name, evidence="x", transient=bool(row(name)["transient"]))
    most = repeats(name) + 1 if symptom.transient else MAX_ATTEMPTS
    assert remedy(symptom, Situation(settings=one, recovery=ALL, tried=most, final=True, language=language)) is None


@given(settings)
def test_rows_are_cut_and_quality_given_up_only_with_consent_and_last(one: dict[str, Any]) -> None:
    without = replace(ALL, allow_truncate=False)
    places = list(climb(ladder(OOM), Situation(settings=one, recovery=without)))
    assert not any("shorter_length" in place.names for place in places)
    if one["max_length"] >= 512:
        assert "shorter_length" in blocked(OOM, Situation(settings=one, recovery=without))
    plain = [bool(place.downgrades) for place in climb(ladder(OOM), Situation(settings=one, recovery=ALL))]
    assert plain == sorted(plain)


@pytest.mark.parametrize("name", ["nan", "divergence", "zero_loss"])
def test_a_trial_that_diverges_tells_the_searcher_and_the_final_training_is_tamed(name: str) -> None:
    one = settings_in_force(make_plan(), Trial(number=1, attempt=1, parameters={}, tokens=1000))
    symptom = Symptom(name=name, evidence="x")
    assert by_rate(name)
    assert remedy(symptom, Situation(settings=one, recovery=ALL)) is None
    first = remedy(symptom, Situation(settings=one, recovery=ALL, final=True))
    assert first is not None
    assert first.changes == {"max_grad_norm": 0.3}
    second = remedy(symptom, Situation(settings=one | first.changes, recovery=ALL, final=True, tried=2))
    assert second is not None
    assert second.changes["learning_rate"] < one["learning_rate"]
    assert second.changes["warmup_ratio"] > one["warmup_ratio"]
    assert not first.standing
    half = one | {"precision": "float16"}
    cure = remedy(Symptom(name="nan", evidence="x"), Situation(settings=half, recovery=ALL))
    assert cure is not None
    assert cure.standing == {"precision": "bfloat16"}


def test_a_lack_of_memory_says_nothing_of_rates() -> None:
    assert not by_rate("device_out_of_memory")
    assert kind_of("host_out_of_memory") == kind_of("device_out_of_memory") != kind_of("nan")


@pytest.mark.parametrize("name", ["disk_full", "unknown", "template_mismatch"])
def test_what_another_try_cannot_mend_is_not_tried_again(name: str) -> None:
    one = settings_in_force(make_plan(), Trial(number=1, attempt=1, parameters={}, tokens=1000))
    assert remedy(Symptom(name=name, evidence="x"), Situation(settings=one, recovery=ALL, final=True)) is None


def test_a_kill_from_outside_repeats_the_same_settings_with_growing_pauses() -> None:
    one = settings_in_force(make_plan(), Trial(number=1, attempt=1, parameters={}, tokens=1000))
    killed = Symptom(name="killed", evidence="SIGKILL", transient=True)
    cures = [remedy(killed, Situation(settings=one, tried=n)) for n in (1, 2, 3)]
    assert [c.changes if c else None for c in cures] == [{}, {}, None]
    waits = [c.wait_seconds for c in cures if c]
    assert waits[1] == 2 * waits[0] > 0


def test_the_memory_model_skips_steps_that_cannot_do() -> None:
    plan = plan_for("0.5b", "lora", micro=16, batch=32, length=2048, room=12 * 2**30)
    one = settings_in_force(plan, Trial(number=1, attempt=1, parameters={}, tokens=1000))
    memory = MemoryModel(plan, H100)
    words = said(2 * 2**30, 11 * 2**30, 2**30, 80 * 2**30)
    memory.ran_out(one, words)
    cure = remedy(Symptom(name="device_out_of_memory", evidence=words, phase="first_step"),
                  Situation(settings=one, recovery=plan.recovery, memory=memory))  # fmt: skip
    assert cure is not None
    assert cure.changes["per_device_train_batch_size"] < 8, "one halving of sixteen rows frees far too little"
    assert not cure.downgrades
    assert cure.decision.alternatives, "what was passed over is told"
    assert memory.share(one | cure.changes) <= 0.97


def test_a_real_peak_corrects_the_model_and_never_downwards() -> None:
    plan = plan_for("0.5b", "lora", micro=4, batch=8, length=1024)
    one = settings_in_force(plan, Trial(number=1, attempt=1, parameters={}, tokens=1000))
    memory = MemoryModel(plan, H100)
    before = memory.needs(one)
    memory.peak(one, int(0.5 * before))
    assert memory.needs(one) == before
    memory.peak(one, int(1.5 * before))
    assert memory.needs(one) > 1.4 * before
    memory.peak(one, 10**15)
    assert memory.needs(one) < 3 * before, "a figure that cannot be is not believed"


def test_torchs_sentence_is_read() -> None:
    found = shortage(said(2 * 2**30, 70 * 2**30, 2**30, 80 * 2**30))
    assert found.room == pytest.approx(71 * 2**30, rel=1e-3)
    assert found.least == pytest.approx(72 * 2**30, rel=1e-3)
    assert shortage("NPU out of memory").room == 0
    words = "CUDA out of memory. Tried to allocate 1.00 GiB. 4.00 GiB allowed; Of the allocated memory 3.50 GiB is"
    allowed = shortage(words + " allocated by PyTorch, and 10.00 MiB is reserved by PyTorch but unallocated.")
    assert allowed.room <= 4 * 2**30


@given(st.integers(1, 96), st.integers(1, 8), st.sampled_from([1, 2, 4]), st.integers(1, 16))
def test_a_revision_keeps_the_effective_batch_of_the_plan_and_of_every_trial(
    micro: int, accumulation: int, devices: int, batch: int
) -> None:
    plan = make_plan()
    training = replace(
        plan.training, per_device_train_batch_size=micro, gradient_accumulation_steps=accumulation, devices=devices
    )
    user = Decision(name="lora_rank", value=16, because="you fixed it", source="user")
    told = Decision(name="per_device_train_batch_size", value=micro, because="fits", source="formula")
    plan = replace(plan, training=training, decisions=(user, told))
    trial = Trial(number=1, attempt=1, parameters={"effective_batch_size": batch * devices}, tokens=1000)
    one = settings_in_force(plan, trial)
    cure = remedy(OOM, Situation(settings=one, recovery=ALL, fixed=plan.fixed))
    assert cure is not None
    new = revised(plan, cure, "en")
    assert new.revision == 2
    assert new.cause
    assert new.training.effective_batch_size == plan.training.effective_batch_size
    assert new.decision("lora_rank") == user
    later = replace(trial, number=2, overrides=cure.standing)
    in_force = settings_in_force(plan, later)
    assert effective(in_force) == batch * devices
    assert in_force["per_device_train_batch_size"] <= one["per_device_train_batch_size"]
    assert not adds(changed(plan, cure.standing), cure.standing)
    assert merged(cure.standing, cure.standing) == cure.standing


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
