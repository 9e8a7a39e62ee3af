from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoswift.domain.profile import GIB
from autoswift.hardware.activations import Recipe, loss_slice, nearest
from autoswift.hardware.levers import levers
from autoswift.hardware.memory import MemorySettings, peak_memory, usable_bytes, weight_bytes
from autoswift.hardware.serving_memory import serving_memory
from autoswift.hardware.shape import ModelShape, family_of, shape_by_name, shape_of, shape_of_config

TRACES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("memory_traces.json").read_text(encoding="utf-8"))
"""Peaks of live storages over fake tensors, two steps with AdamW; none of these shapes was used to derive the table."""

SHAPES = {
    "0.5B": (494032768, 24, 896, 14, 2, 4864, 151936, True),
    "1.5B": (1543714304, 28, 1536, 12, 2, 8960, 151936, True),
    "7B": (7615616512, 28, 3584, 28, 4, 18944, 152064, False),
    "72B": (72706203648, 80, 8192, 64, 8, 29568, 152064, False),
}


def shape(name: str) -> ModelShape:
    p, layers, h, heads, kv, i, v, tied = SHAPES[name]
    return ModelShape(parameters=p, layers=layers, hidden=h, heads=heads, kv_heads=kv, intermediate=i, vocabulary=v,
                      head_dim=h // heads, tied=tied, family="qwen2")  # fmt: skip


def settings_of(request: dict[str, Any], **changes: Any) -> MemorySettings:
    values: dict[str, Any] = {
        "length": request["length"],
        "micro_batch": request["rows"],
        "rank": request.get("rank", 16),
        "gradient_checkpointing": request["checkpointing"],
        "precision": request.get("precision", "bfloat16"),
        "adapter_precision": request.get("adapter", "float32"),
        "attention": "eager" if request.get("attention") == "eager" else "sdpa",
        "padded": request.get("padded", False),
        "liger": request.get("liger", False),
        "dropout": request.get("dropout", 0.0),
        "targets": request.get("targets", "all"),
        "optimizer": request.get("optimizer", "adamw_torch"),
        "accumulates": request.get("accumulates", False),
    }
    return MemorySettings(**(values | changes))


def label(row: dict[str, Any]) -> str:
    asked = row["request"]
    rest = {k: v for k, v in asked.items() if k not in ("config", "method", "rows", "length")}
    return f"{asked['config']['model_type']} {asked['method']} {asked['rows']}x{asked['length']} {rest}"


@pytest.mark.parametrize("row", TRACES, ids=label)
def test_a_shape_that_no_table_has_comes_out_as_its_own_trace(row: dict[str, Any]) -> None:
    asked = row["request"]
    # A trace has no libraries' workspace: neither has this kind of device.
    found = peak_memory(shape_of_config(asked["config"]), asked["method"], settings_of(asked, device="npu"))
    assert found.peak_bytes == pytest.approx(row["peak"], rel=0.005)
    assert sum(found.parts.values()) == found.peak_bytes


@pytest.mark.parametrize(
    ("size", "rows", "length", "checkpointing", "gib"),
    [
        ("0.5B", 4, 1024, False, 13.66),  # max_memory_allocated on an H100
        ("0.5B", 8, 2048, True, 29.6),
        ("7B", 4, 64, True, 15.1),
    ],
)
def test_agrees_with_what_a_card_measured(size: str, rows: int, length: int, checkpointing: bool, gib: float) -> None:
    asked = MemorySettings(
        length=length, micro_batch=rows, gradient_checkpointing=checkpointing, accumulates=False, card="h100"
    )
    found = peak_memory(shape(size), "lora", asked)
    assert found.peak_bytes / GIB == pytest.approx(gib, rel=0.01)
    assert found.low <= found.reserved_bytes <= found.high
    assert found.device_bytes == found.reserved_bytes + found.context_bytes


@pytest.mark.parametrize(
    ("rows", "length", "checkpointing", "gib"), [(4, 256, False, 4.41), (2, 512, True, 2.75), (2, 256, False, 2.61)]
)
def test_on_a_cpu_the_processs_resident_size_lies_between_low_and_high(
    rows: int, length: int, checkpointing: bool, gib: float
) -> None:
    smol = shape_of_config(TRACES_BY_NAME["smol"])
    asked = MemorySettings(
        length=length, micro_batch=rows, gradient_checkpointing=checkpointing, precision="float32", device="cpu"
    )
    found = peak_memory(smol, "lora", asked)
    assert found.low / GIB <= gib <= found.high / GIB
    assert found.device_bytes == found.reserved_bytes


TRACES_BY_NAME = {
    "smol": {"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
             "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
}  # fmt: skip


def test_72b_in_four_bits_does_not_fit_24_gb_and_2b_in_sixteen_does() -> None:
    asked = MemorySettings(length=512)
    assert peak_memory(shape("72B"), "qlora", asked).peak_bytes > 24 * GIB
    assert 36e9 < weight_bytes(shape("72B"), "qlora", "bfloat16") < 42e9  # 36 GB packed, and two maps at 16 bits
    assert peak_memory(shape("1.5B"), "lora", asked).device_bytes < 24 * GIB


@settings(deadline=None, max_examples=60)
@given(
    size=st.sampled_from(sorted(SHAPES)),
    method=st.sampled_from(["full", "lora", "qlora"]),
    length=st.integers(64, 8192),
    rows=st.integers(1, 16),
    precision=st.sampled_from(["float32", "bfloat16"]),
)
def test_more_work_never_needs_less_and_each_lever_never_more(
    size: str, method: Any, length: int, rows: int, precision: str
) -> None:
    def peak(**changes: Any) -> int:
        values = {"length": length, "micro_batch": rows, "precision": precision, "gradient_checkpointing": False}
        return peak_memory(shape(size), method, MemorySettings(**(values | changes))).peak_bytes

    now = peak()
    assert peak(length=length * 2) >= now
    assert peak(micro_batch=rows + 1) >= now
    assert peak(rank=64) >= now
    assert peak(gradient_checkpointing=True) <= now * 1.001
    assert peak(accumulates=False) <= now
    assert peak(attention="eager") >= now >= peak(attention="flash_attn")
    assert peak(padded=True) >= now
    assert peak(optimizer="adamw_8bit") <= now
    assert peak(optimizer="adamw_torch_fused") <= now
    if precision == "bfloat16" and length * rows >= 1024:  # a slice of the logits has a lower limit
        assert peak(liger=True) <= now


@given(size=st.sampled_from(sorted(SHAPES)), method=st.sampled_from(["full", "lora"]), devices=st.integers(4, 16))
def test_more_sharding_never_needs_more(size: str, method: Any, devices: int) -> None:
    def need(kind: str, count: int = devices) -> int:
        asked = MemorySettings(length=512, sharding=kind, devices=count)
        return peak_memory(shape(size), method, asked).device_bytes

    assert need("zero2", 2 * devices) <= need("zero2")
    if method == "full":
        assert need("zero2") < need("ddp")
        assert need("zero3", 2 * devices) <= need("zero3")


def test_zero3_lets_two_cards_hold_what_one_cannot() -> None:
    one = peak_memory(shape("7B"), "full", MemorySettings(length=512))
    eight = peak_memory(shape("7B"), "full", MemorySettings(length=512, devices=8, sharding="zero3"))
    assert eight.device_bytes < 40 * GIB < one.device_bytes
    with pytest.raises(ValueError, match="zero9"):
        peak_memory(shape("7B"), "full", MemorySettings(length=512, devices=2, sharding="zero9"))


def test_an_unknown_shape_is_taken_from_the_nearest_and_says_so() -> None:
    found = shape_of({"parameters": 9_000_000_000})
    assert found.hidden == 3584
    assert found.layers > 28
    assert "layers" in found.assumed
    assert peak_memory(found, "lora", MemorySettings(length=128)).assumed == found.assumed
    assert shape_of(shape("7B")).assumed == ()


@pytest.mark.parametrize(
    ("name", "billions", "family"),
    [
        ("meta-llama/Llama-2-7b-hf", 6.74, "llama"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", 8.03, "llama"),
        ("Qwen/Qwen-7B-Chat", 7.72, "qwen2"),
        ("Qwen/Qwen1.5-72B-Chat", 72.3, "qwen2"),
        ("google/gemma-2-9b-it", 9.24, "gemma2"),
        ("mistralai/Mixtral-8x7B-v0.1", 46.7, "llama"),
    ],
)
def test_well_known_models_are_found_by_name(name: str, billions: float, family: str) -> None:
    found = shape_by_name(name)
    assert found is not None
    assert found.parameters / 1e9 == pytest.approx(billions, rel=0.01)
    assert found.family == family
    assert shape_by_name("nobody/knows-this-7b") is None


def test_the_named_shapes_explain_their_parameters() -> None:
    from autoswift.hardware.shape import _named

    for row in _named():
        width, kept = row.get("d", row["h"] // row["a"]), 1 if row.get("t") else 2
        inner = row.get("e", 0) * row.get("m", 0) or row["i"]
        layer = row["h"] * (2 * row["a"] * width + 2 * row["k"] * width + 3 * inner)
        counted = kept * row["v"] * row["h"] + row["l"] * layer
        # Vision towers, biases and maps without a gate explain the rest.
        assert counted == pytest.approx(row["p"], rel=0.12), row["words"]


def test_a_mixture_of_experts_is_charged_for_the_experts_a_token_sees() -> None:
    whole = {"parameters": 30_532_122_624, "layers": 48, "hidden": 2048, "heads": 32, "kv_heads": 4,
             "intermediate": 6144, "vocabulary": 151936, "head_dim": 128, "tied": False}  # fmt: skip
    found = shape_of(whole | {"active": 3_353_000_000})
    assert found.mixture
    assert found.token_intermediate == pytest.approx(8 * 768, rel=0.05)
    assert found.experts_intermediate == pytest.approx(128 * 768, rel=0.05)


def test_a_recipe_without_a_trace_falls_back_and_says_on_what() -> None:
    exact = Recipe(family="qwen2", method="lora", precision="16", checkpointing=True)
    assert nearest(exact) == (exact.key, ())
    other = Recipe(family="never-traced", method="lora", precision="16", checkpointing=True)
    assert nearest(other)[1] == ("family",)
    assert family_of("qwen2_5_vl") == "qwen2"
    assert family_of("llama3_1") == "llama"


def test_the_fused_loss_takes_slices_as_liger_does() -> None:
    # Liger: ceil(152064 / 3584) = 43 parts; 4096 / 43 = 96 tokens, up to a power of two.
    assert loss_slice(shape("7B"), 4096) == 128
    assert loss_slice(shape("7B"), 1) == 1


def test_levers_say_what_saves_most_and_what_is_left() -> None:
    start = MemorySettings(length=2048, micro_batch=8, gradient_checkpointing=False)
    found = levers(shape("0.5B"), "lora", start, devices=2)
    now = peak_memory(shape("0.5B"), "lora", start).device_bytes
    assert [one.saved_bytes for one in found] == sorted((one.saved_bytes for one in found), reverse=True)
    assert found[0].name == "micro_batch"
    names = {one.name for one in found}
    assert names >= {"checkpointing", "fused_loss", "qlora", "length", "rank"}
    for one in found:
        assert now - one.saved_bytes == one.estimate.device_bytes
        assert peak_memory(shape("0.5B"), one.method, one.settings) == one.estimate


def test_serving_grows_with_conversations_and_shrinks_with_quantization() -> None:
    one = serving_memory(shape("7B"), length=4096)
    many = serving_memory(shape("7B"), length=4096, concurrency=32)
    small = serving_memory(shape("7B"), length=4096, quant="int4")
    assert one.cache_per_token == 2 * 28 * 4 * 128 * 2
    assert many.parts["cache"] == 32 * one.parts["cache"]
    assert small.parts["weights"] < 0.45 * one.parts["weights"]
    with pytest.raises(KeyError):
        serving_memory(shape("7B"), length=1, quant="int3")


@pytest.mark.parametrize(
    ("name", "quant", "gb"),
    [("Llama-2-7b", "none", 13.52), ("Llama-2-7b", "nf4", 4.26), ("Llama-2-13b", "none", 26.21)],
)  # LitGPT's resource tables: one sequence on an A100, max_memory_allocated
def test_serving_agrees_with_a_published_table(name: str, quant: str, gb: float) -> None:
    known = shape_by_name(name)
    assert known is not None
    found = serving_memory(known, length=256, quant=quant)
    assert (found.total_bytes - found.parts["context"]) / 1e9 == pytest.approx(gb, rel=0.1)


def test_a_card_has_less_than_its_name_says() -> None:
    assert 78.5 < usable_bytes("h100", "cuda", 80 * GIB) / GIB < 79.3
    assert usable_bytes("t4", "cuda", 16 * GIB) / GIB < 15
    assert usable_bytes("cpu", "cpu", 8 * GIB) == 8 * GIB


def test_the_workspace_of_the_libraries_is_counted_on_a_card_only() -> None:
    def workspace(**values: Any) -> int:
        return peak_memory(shape("0.5B"), "lora", MemorySettings(length=512, **values)).parts["workspace"]

    assert workspace(card="NVIDIA H100 80GB HBM3") == 64 * 2**20 > workspace(card="a100-80g") > 0
    assert workspace(device="cpu") == 0
