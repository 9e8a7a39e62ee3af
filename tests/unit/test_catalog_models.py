from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.catalog.describe import counted as weights_of
from autoswift.catalog.describe import family_facts, kind_of, parsed_size, quantization, shape_facts
from autoswift.catalog.models import ModelFacts, all_models, catalog, find, registry
from autoswift.errors import ModelError
from autoswift.tables import table

BY_ID = {one.id: one for one in all_models()}


def counted(one: ModelFacts) -> int:
    """Weights that the shape implies (norms, biases of Qwen2 and the norms of Qwen3's heads included)."""
    h, q, kv = one.hidden, one.heads * one.head_dim, one.kv_heads * one.head_dim
    layer = 2 * h * q + 2 * h * kv + 3 * h * one.intermediate + 2 * h
    layer += q + 2 * kv if one.model_type == "qwen2" else 0
    return one.vocabulary * h * (1 if one.tied else 2) + one.layers * layer + h


@pytest.mark.parametrize("one", [m for m in all_models() if m.layers and m.modality == "text"], ids=lambda m: m.id)
def test_the_shape_explains_the_published_number_of_parameters(one):
    assert counted(one) == pytest.approx(one.parameters, rel=0.003)


def test_the_catalogue_is_consistent():
    models = all_models()
    assert len(models) >= 40
    assert len({one.id for one in models}) == len(models)
    assert len({one.hf for one in models}) == len(models)
    for one in models:
        assert one.id == one.id.lower()
        assert one.parameters > 1e8
        assert one.kind in ("base", "chat", "reasoning", "embedding", "reranking")
        assert one.modality in ("text", "image", "audio", "video")
        assert one.blocked in ("", "own_code", "pickle")
        assert one.curated
        assert 2022 < int(one.released[:4]) < 2027
        assert one.languages
        assert one.domains
        for language in ("en", "zh"):
            assert bool(one.note(language)) == bool(one.blocked or one.notes)


def test_domains_that_have_models_of_their_own():
    usable = [one for one in all_models() if not one.blocked]
    for domain in ("medical", "code", "math", "finance", "general"):
        assert [one for one in usable if domain in one.domains], domain
    assert BY_ID["smollm2-135m-instruct"].packaged == "smollm2"


def test_a_model_is_found_by_each_of_its_names():
    for one in all_models():
        for name in (one.id, one.hf, one.hf.upper(), one.ms):
            if name:
                assert find(name) == one
    assert find("Meta-Llama-3.1-8B-Instruct").id == "llama-3.1-8b-instruct"


def test_a_part_that_fits_several_lists_them():
    with pytest.raises(ModelError, match=r"qwen3-0\.6b, qwen3-1\.7b"):
        find("qwen3-")


@given(st.text(max_size=30))
def test_any_name_finds_a_model_or_says_why_not(name):
    with suppress(ModelError):  # any other exception fails the test
        assert find(name) in catalog()


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("swift"), reason="needs the training environment")
def test_model_types_and_templates_are_those_of_ms_swift():
    program = (
        "import json\nfrom swift.model import MODEL_MAPPING\nfrom swift.template import TEMPLATE_MAPPING\n"
        "print(json.dumps([sorted(map(str, MODEL_MAPPING)), sorted(map(str, TEMPLATE_MAPPING))]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=250)
    types, templates = (set(names) for names in json.loads(done.stdout.splitlines()[-1]))
    rows = [(one.id, one.model_type, one.template) for one in catalog() if one.model_type]
    for name, row in table("model_types")["architectures"].items():
        rows += [(name, one["model_type"], one["template"]) for one in (row["default"], *row.get("markers", ()))]
    assert [row for row in rows if row[1] not in types or row[2] not in templates] == []


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("swift"), reason="needs the training environment")
def test_the_snapshot_is_what_the_script_makes_of_the_installed_registry():
    script = Path(__file__).resolve().parents[2] / "scripts" / "models_snapshot.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_the_snapshot_holds_the_whole_registry_and_stays_small():
    rows = registry()
    assert len(rows) == 1193
    whole = json.loads(files("autoswift.tables").joinpath("registry.json").read_text(encoding="utf-8"))
    assert len(whole["types"]) == 237
    assert {row["model_type"] for row in rows} <= whole["types"].keys()
    assert len({row["id"] for row in rows}) == len(rows)
    assert len(files("autoswift.tables").joinpath("registry.json").read_bytes()) < 600_000
    marks = Counter(row["parameters_from"] for row in rows)
    assert set(marks) == {"measured", "parsed", "unknown"}
    assert marks["measured"] > 600
    assert marks["unknown"] < 60
    for row in rows:
        assert ("parameters" in row) == (row["parameters_from"] != "unknown")
        assert ("licence" in row) == ("commercial" in row)
        assert ("licence" in row) <= ("licence_from" in row), row["id"]


@pytest.mark.parametrize("one", [m for m in all_models() if m.hf], ids=lambda m: m.id)
def test_a_curated_row_agrees_with_the_registry(one: ModelFacts):
    rows = [row for row in registry() if one.hf and row.get("hf", "").lower() == one.hf.lower()]
    for row in rows:
        assert one.model_type == row["model_type"]
        if row["parameters_from"] == "measured":
            assert one.parameters == pytest.approx(row["parameters"], rel=0.003)
        for field in ("kind", "licence", "commercial", "released"):
            if field in row and not (field == "released" and row["released_from"] == "parsed"):
                assert getattr(one, field) == row[field], field
        assert one.gated == row.get("gated", False)
        if "shape" in row and one.layers:
            assert [one.layers, one.hidden, one.heads, one.kv_heads, one.intermediate] == row["shape"][:5]
        assert (one.blocked == "own_code") == bool(row.get("own_code"))
        assert one.modality in ("text", *row.get("modalities", ()))
        assert one.modality != "text" or not row.get("modalities")


def test_the_catalogue_has_each_model_once_with_curated_ones_first():
    models = catalog()
    assert len({one.id for one in models}) == len(models)
    assert models[: len(all_models())] == all_models()
    hubs = Counter(one.hf.lower() for one in models if one.hf)
    twice = {name for name, count in hubs.items() if count > 1}
    assert twice <= {"baidu/ernie-4.5-0.3b-pt", "zai-org/glm-edge-4b-chat"}, "ms-swift lists these twice itself"
    assert len(models) > 1193


def test_models_beyond_the_registry_say_what_is_known_and_nothing_else():
    beyond = [one for one in catalog()[len(all_models()) :] if one.curated]
    assert {"medical", "legal", "finance", "code"} <= {domain for one in beyond for domain in one.domains}
    for one in beyond:
        assert one.blocked in ("", "own_code", "pickle", "adapter", "engine")
        assert one.blocked or one.model_type
        assert one.blocked or one.template
        for language in ("zh", "en"):
            assert bool(one.note(language)) == bool(one.blocked or one.notes)
    assert find("HuatuoGPT-o1-72B").layers == find("qwen2.5-72b-instruct").layers
    assert find("FinGPT/fingpt-mt_llama2-7b_lora").blocked == "adapter"


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Qwen/Qwen2.5-7B-Instruct-1M", (7e9, 0)),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", (30e9, 3e9)),
        ("internlm/internlm2_5-1_8b-chat", (1.8e9, 0)),
        ("google/gemma-3-270m-it", (270e6, 0)),
        ("ISTA-DASLab/Llama-2-7b-AQLM-2Bit-1x16-hf", (7e9, 0)),
        ("baichuan-inc/Baichuan2-13B-Chat-4bits", (13e9, 0)),
        ("inclusionAI/Ling-1T", (1e12, 0)),
        ("Qwen/Qwen3.8-2.4T-A95B", (2.4e12, 95e9)),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", (0, 0)),
        ("Qwen/Qwen1.5-MoE-A2.7B-Chat", (0, 2.7e9)),
        ("unsloth/DeepSeek-V3-bf16", (0, 0)),
        ("Qwen/Qwen3-TTS-12Hz-1.7B-Base", (1.7e9, 0)),
        ("microsoft/phi-2", (0, 0)),
        ("Ray2333/GRM_Llama3.1_8B_rewardmodel-ft", (8e9, 0)),
        ("zai-org/glm-4-9b-chat-1m", (9e9, 0)),
    ],
)
def test_the_size_is_read_from_the_name_and_nothing_else_is(name: str, size: tuple[float, float]):
    assert parsed_size(name) == size


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Qwen/Qwen2.5-7B", "base"),
        ("Qwen/Qwen2.5-7B-Instruct", "chat"),
        ("Qwen/Qwen3-8B", "chat"),
        ("Qwen/Qwen3-8B-Base", "base"),
        ("Qwen/Qwen3-4B-Thinking-2507", "reasoning"),
        ("meta-llama/Llama-3.2-1B", "base"),
        ("google/gemma-3-4b-pt", "base"),
        ("baidu/ERNIE-4.5-21B-A3B-PT", "chat"),
        ("baidu/ERNIE-4.5-21B-A3B-Base-PT", "base"),
        ("Qwen/Qwen3-Embedding-4B", "embedding"),
        ("BAAI/bge-reranker-v2-m3", "reranking"),
        ("Qwen/Qwen3Guard-Gen-8B", "guard"),
        ("deepseek-ai/DeepSeek-OCR", "ocr"),
        ("Qwen/Qwen3-ASR-1.7B", "media"),
        ("bytedance-research/UI-TARS-7B-DPO", "agent"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "reasoning"),
        ("01-ai/Yi-1.5-9B", "base"),
        ("01-ai/Yi-1.5-9B-Chat", "chat"),
        ("mistralai/Mistral-7B-v0.1", "base"),
    ],
)
def test_what_a_model_is_made_for_follows_from_its_name(name: str, kind: str):
    assert kind_of(name, "", (), "", reward=False) == kind


def test_quantized_weights_are_known_by_their_names():
    names = {"Qwen/Qwen3-8B-AWQ": "awq", "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4": "gptq", "Qwen/Qwen3-8B-FP8": "fp8"}
    names |= {"Qwen/Qwen3-8B": "", "unsloth/Llama-3.3-70B-Instruct-bnb-4bit": "bnb", "01-ai/Yi-6B-Chat-4bits": "bnb"}
    assert {name: quantization(name) for name in names} == names


@pytest.mark.parametrize(
    ("family", "size"), [(family, size) for family, rows in table("families")["shapes"].items() for size in rows]
)
def test_a_familys_shape_has_about_as_many_weights_as_its_name_says(family: str, size: str):
    if "A" in size:
        pytest.skip("a mixture's experts are not counted from its shape")
    named = float(size[:-1]) * (1e6 if size.endswith("M") else 1e9)
    # Names round down: Gemma 7B has 8.5, Llama 3 1B 1.24, Qwen3-VL 2B's text part 1.7.
    assert 0.84 < weights_of(shape_facts(family, size), family) / named < 1.32


def test_a_particular_rule_stands_above_the_general_one():
    assert family_facts("Qwen/Qwen2.5-3B-Instruct")["commercial"] is False
    assert family_facts("Qwen/Qwen2.5-7B-Instruct")["commercial"] is True
    assert family_facts("google/gemma-4-E4B-it")["gated"] is False
    assert family_facts("google/gemma-3-4b-it")["gated"] is True
    assert family_facts("nobody/has-this") == {}


def test_what_needs_code_of_its_own_or_another_transformers_is_marked():
    by_hub = {one.hf: one for one in catalog()}
    assert by_hub["internlm/internlm2_5-20b-chat"].blocked == "own_code"
    assert by_hub["Qwen/Qwen3-32B"].blocked == ""
    assert by_hub["deepseek-ai/DeepSeek-OCR"].unmet == ("transformers==4.46.3",)
    assert by_hub["Qwen/Qwen3-8B-AWQ"].quantized == "awq"
    assert not by_hub["Qwen/Qwen3-8B-AWQ"].mergeable
    assert {"vllm", "sglang", "llamacpp", "transformers"} <= set(by_hub["Qwen/Qwen3-32B"].engines)
    assert json.dumps([one.id for one in catalog() if one.gguf]).count("qwen") > 100
