from __future__ import annotations

import pytest

from autoswift.domain.profile import GIB
from autoswift.hardware.devices import all_devices, lookup


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
        ("Ascend 910A", "ascend-910a"),
        ("Ascend310P3", "ascend-310p"),
        ("Apple M2 Max", "apple-m2-max"),
        ("Jetson AGX Orin", "jetson-agx-orin"),
        ("jetson-orin", "jetson-agx-orin"),
        ("NVIDIA Jetson Orin Nano", "jetson-orin-nano"),
        ("rtx3060-12g", "rtx-3060"),
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
        assert 5 <= one.watts <= 1200
        assert one.capability or one.kind != "cuda" or one.products == pytest.approx(0.55)  # AMD has none
        # Operations for each byte read: 20 on a phone-class chip, 500 on the newest cards.
        assert 15 <= one.tflops * 1000 / one.bandwidth <= 500, one.id
        assert one.device().memory_bytes == int(one.memory_gib * GIB)
        assert one.device().tflops < one.tflops
