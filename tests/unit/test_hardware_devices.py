from __future__ import annotations

import pytest

from autoswift.domain.profile import GIB, Device
from autoswift.hardware.devices import all_devices, lookup
from autoswift.hardware.shape import shape_of
from autoswift.hardware.speed import (
    generation_tokens_per_second,
    operations_per_token,
    stage_seconds,
    start_seconds,
    training_tokens_per_second,
)

SMOL = shape_of({"parameters": 134515008})
SEVEN = shape_of({"parameters": 7615616512})


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-80g"),
        ("a100-80g", "a100-80g"),
        ("A100 80 GiB", "a100-80g"),
        ("A100", "a100-40g"),
        ("rtx4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090 D", "rtx-4090-d"),
        ("NVIDIA GeForce RTX 3060 Ti", "rtx-3060-ti"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("NVIDIA RTX A6000", "rtx-a6000"),
        ("Tesla V100-SXM2-32GB", "v100-32g"),
        ("NVIDIA A10G", "a10g"),
        ("Ascend910B3", "ascend-910b"),
        ("Apple M2 Max", "apple-m2-max"),
    ],
)
def test_a_card_is_found_by_any_of_its_spellings(name, found):
    facts = lookup(name)
    assert facts is not None
    assert facts.id == found


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 4090 Laptop GPU", "Quadro RTX 6000", "GTX 1060", "", "4090 Ti"])
def test_an_unknown_variant_is_never_taken_for_its_faster_sibling(name):
    assert lookup(name) is None


def test_every_row_of_the_table_is_found_by_its_own_name_and_is_plausible():
    for one in all_devices():
        assert lookup(one.id.replace("-", " ")) == one, one.id
        assert one.source
        assert 2 <= one.memory_gib <= 200
        assert 2 <= one.tflops <= 3000
        # Operations for each byte read: 20 on a phone-class chip, 500 on the newest cards.
        assert 15 <= one.tflops * 1000 / one.bandwidth <= 500, one.id
        assert one.device().memory_bytes == int(one.memory_gib * GIB)
        assert one.device().tflops < one.tflops


def test_training_on_a_cpu_goes_as_fast_as_it_was_seen_to():
    # Two AVX2 cores: about 0.08 TFLOP/s sustained gave 140 to 170 tokens a second, 4 rows of 190 tokens.
    rate = training_tokens_per_second(
        SMOL, "lora", Device(kind="cpu", name="x", tflops=0.085), length=190, micro_batch=4, checkpointing=False
    )
    assert 130 <= rate <= 180


def test_a_small_step_on_a_fast_card_is_bound_by_launches():
    card = Device(kind="cuda", name="H100", tflops=346.0)
    one = training_tokens_per_second(SEVEN, "lora", card, length=256, checkpointing=False)
    two = training_tokens_per_second(SEVEN, "lora", card, length=256, micro_batch=2, checkpointing=False)
    assert one == pytest.approx(256 / 0.207, rel=0.2)  # 207 ms measured
    assert two == pytest.approx(2 * one)


def test_what_costs_more_operations_is_slower():
    card = Device(kind="cuda", name="x", tflops=10.0)

    def rate(method, checkpointing=False, length=2048):
        return training_tokens_per_second(SEVEN, method, card, length=length, checkpointing=checkpointing)

    assert rate("lora") > rate("qlora")
    assert rate("lora") > rate("lora", checkpointing=True) > rate("full", checkpointing=True)
    assert rate("lora", length=1024) > rate("lora", length=8192)
    ratio = operations_per_token(SEVEN, "full", length=1, checkpointing=False) / operations_per_token(
        SEVEN, "lora", length=1, checkpointing=False
    )
    assert 1.4 < ratio < 1.5  # 6 to 4, and a little for the adapter


def test_an_unknown_rate_is_zero_and_generation_never_is():
    unknown = Device(kind="cuda", name="something new")
    assert training_tokens_per_second(SMOL, "lora", unknown, length=128) == 0.0
    assert generation_tokens_per_second(SMOL, unknown) > 0


def test_generation_is_bound_by_reading_the_weights():
    cpu = Device(kind="cpu", name="x", tflops=0.08)
    native = generation_tokens_per_second(SMOL, cpu, bytes_per_weight=1.0625, native=True)
    assert native == pytest.approx(112, rel=0.05)  # llama.cpp at 8 bits
    assert generation_tokens_per_second(SMOL, cpu) < native
    assert generation_tokens_per_second(SMOL, cpu, parallel=8) > 4 * generation_tokens_per_second(SMOL, cpu)


def test_fixed_costs_grow_with_the_model():
    card = Device(kind="cuda", name="H100", tflops=346.0)
    assert start_seconds(SEVEN, card) == pytest.approx(39, rel=0.15)  # of a 49 s process, 10 s were steps
    for stage in ("fetch", "merge", "convert", "serve"):
        assert stage_seconds(stage, SEVEN, card) > stage_seconds(stage, SMOL, card) > 0
