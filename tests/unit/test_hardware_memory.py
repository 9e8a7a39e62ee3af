from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.domain.profile import GIB
from autoswift.hardware.memory import LIBRARY_WORKSPACE, MemorySettings, peak_memory
from autoswift.hardware.shape import ModelShape, shape_of

SHAPES = {
    "0.5B": (494032768, 24, 896, 14, 2, 4864, 151936, True),
    "1.5B": (1543714304, 28, 1536, 12, 2, 8960, 151936, True),
    "7B": (7615616512, 28, 3584, 28, 4, 18944, 152064, False),
    "wide": (869318656, 3, 4096, 32, 32, 11008, 32000, False),  # Llama-2's layers and vocabulary
    "72B": (72706203648, 80, 8192, 64, 8, 29568, 152064, False),
}

# Peak bytes of a trace of live storages over fake tensors: two steps, AdamW, fp32 adapters on every linear map.
TRACED = [
    # size, rows, length, checkpointing, rank (0: full), float32, peak
    ("0.5B", 4, 1024, False, 16, False, 14597357056),
    ("0.5B", 4, 1024, True, 16, False, 8757128704),
    ("0.5B", 1, 512, True, 16, False, 2051597824),
    ("0.5B", 1, 512, False, 16, False, 2797207040),
    ("0.5B", 1, 4096, True, 16, False, 8770522624),
    ("0.5B", 1, 4096, False, 16, False, 14598143488),
    ("1.5B", 4, 1024, True, 16, False, 11159396864),
    ("1.5B", 2, 1024, False, 16, False, 13379617280),
    ("1.5B", 1, 256, True, 16, False, 3799748096),
    ("7B", 2, 2048, True, 16, False, 24080400896),
    ("7B", 1, 512, False, 16, False, 20170883584),
    ("7B", 1, 2048, False, 16, False, 33294713344),
    ("7B", 1, 256, True, 16, False, 16242989056),
    ("0.5B", 2, 512, True, 0, False, 4940631552),
    ("0.5B", 2, 512, False, 0, False, 6249763328),
    ("1.5B", 1, 1024, True, 0, False, 15437316608),
    ("0.5B", 2, 512, True, 16, True, 4041417728),
    ("0.5B", 2, 512, False, 16, True, 6427968512),
    ("0.5B", 4, 1024, False, 64, False, 15032684032),
    ("wide", 1, 512, False, 16, False, 2299619840),
    ("wide", 1, 512, True, 16, False, 2001777152),
    ("7B", 1, 512, True, 64, False, 18461048320),
]


def shape(name: str) -> ModelShape:
    p, layers, h, heads, kv, i, v, tied = SHAPES[name]
    return ModelShape(parameters=p, layers=layers, hidden=h, heads=heads, kv_heads=kv, intermediate=i, vocabulary=v,
                      head_dim=h // heads, tied=tied)  # fmt: skip


@pytest.mark.parametrize(("size", "rows", "length", "checkpointing", "rank", "float32", "peak"), TRACED)
def test_never_under_the_trace_and_within_ten_percent(size, rows, length, checkpointing, rank, float32, peak):
    settings = MemorySettings(
        length=length,
        micro_batch=rows,
        rank=rank,
        gradient_checkpointing=checkpointing,
        precision="float32" if float32 else "bfloat16",
        accumulates=False,
    )
    found = peak_memory(shape(size), "lora" if rank else "full", settings)
    assert peak <= found.peak_bytes <= peak * 1.10
    assert sum(found.parts.values()) == found.peak_bytes


@pytest.mark.parametrize(
    ("size", "method", "rows", "length", "checkpointing", "gib"),
    [
        ("0.5B", "lora", 4, 1024, False, 13.66),  # max_memory_allocated on an H100
        ("0.5B", "lora", 8, 2048, True, 29.6),
        ("7B", "lora", 4, 64, True, 15.1),
        ("7B", "qlora", 4, 64, True, 5.9),
    ],
)
def test_agrees_with_what_a_card_measured(size, method, rows, length, checkpointing, gib):
    settings = MemorySettings(length=length, micro_batch=rows, gradient_checkpointing=checkpointing, accumulates=False)
    found = peak_memory(shape(size), method, settings)
    assert found.peak_bytes / GIB == pytest.approx(gib, rel=0.10)
    assert found.low <= found.reserved_bytes <= found.high < found.device_bytes + found.high


@pytest.mark.parametrize(
    ("rows", "length", "checkpointing", "gib"), [(4, 256, False, 4.41), (2, 512, True, 2.75), (2, 256, False, 2.61)]
)
def test_on_a_cpu_the_processs_resident_size_lies_between_low_and_high(rows, length, checkpointing, gib):
    smol = shape_of({"parameters": 134515008})
    settings = MemorySettings(
        length=length, micro_batch=rows, gradient_checkpointing=checkpointing, precision="float32", device="cpu"
    )
    found = peak_memory(smol, "lora", settings)
    assert found.low / GIB <= gib <= found.high / GIB
    assert found.device_bytes == found.reserved_bytes


def test_72b_in_four_bits_does_not_fit_24_gb_and_2b_in_sixteen_does():
    settings = MemorySettings(length=512)
    assert peak_memory(shape("72B"), "qlora", settings).peak_bytes > 24 * GIB
    assert peak_memory(shape("1.5B"), "lora", settings).device_bytes < 24 * GIB


@given(
    size=st.sampled_from(sorted(SHAPES)),
    method=st.sampled_from(["full", "lora", "qlora"]),
    length=st.integers(16, 8192),
    rows=st.integers(1, 16),
    precision=st.sampled_from(["float32", "bfloat16"]),
)
def test_more_work_never_needs_less_and_each_lever_never_more(size, method, length, rows, precision):
    def peak(**changes: object) -> int:
        values = {"length": length, "micro_batch": rows, "precision": precision, "gradient_checkpointing": False}
        return peak_memory(shape(size), method, MemorySettings(**(values | changes))).peak_bytes

    now = peak()
    assert peak(length=length * 2) >= now
    assert peak(micro_batch=rows + 1) >= now
    assert peak(rank=64) >= now
    assert peak(gradient_checkpointing=True) <= now
    assert peak(accumulates=False) <= now
    assert peak(attention="eager") >= now >= peak(attention="flash_attn")
    assert peak(optimizer="adamw_8bit") <= now
    if length * rows >= 1024:  # a slice of the logits has a lower limit
        assert peak(fused_loss=True) <= now


def test_an_unknown_shape_is_taken_from_the_nearest_and_says_so():
    found = shape_of({"parameters": 7_000_000_000})
    assert (found.layers, found.hidden) == (28, 3584)
    assert "layers" in found.assumed
    assert peak_memory(found, "lora", MemorySettings(length=128)).assumed == found.assumed
    assert shape_of(shape("7B")).assumed == ()


def test_the_workspace_of_the_libraries_is_counted_on_a_card_only():
    on_card = peak_memory(shape("0.5B"), "lora", MemorySettings(length=512, optimizer="sgd"))
    on_cpu = peak_memory(shape("0.5B"), "lora", MemorySettings(length=512, optimizer="sgd", device="cpu"))
    assert on_card.parts["workspace"] - on_cpu.parts["workspace"] == LIBRARY_WORKSPACE
