from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.catalog.folder import inspect_folder, read_header
from autoswift.errors import ModelError
from unit.catalog_folders import model, safetensors


def refused(folder, words):
    with pytest.raises(ModelError, match=words) as caught:
        inspect_folder(folder)
    assert caught.value.why
    assert caught.value.fix
    return caught.value


def test_facts_are_read_from_the_headers(tmp_path):
    found = inspect_folder(model(tmp_path / "tiny"))
    assert (found.id, found.parameters, found.path) == ("tiny", 32 * 8 + 8, str(tmp_path / "tiny"))
    assert (found.layers, found.hidden, found.heads, found.kv_heads, found.head_dim) == (1, 8, 2, 1, 4)
    assert (found.model_type, found.template, found.context, found.tied) == ("llama", "chatml", 64, True)


@pytest.mark.parametrize(
    ("architecture", "template", "expected"),
    [
        ("LlamaForCausalLM", "Cutting Knowledge Date <|start_header_id|>", ("llama", "llama3_2")),
        ("LlamaForCausalLM", "<|start_header_id|>", ("llama", "llama3")),
        ("LlamaForCausalLM", "[INST]", ("llama", "llama")),
        ("Qwen2ForCausalLM", "<|im_start|>system You are Qwen", ("qwen2", "qwen2_5")),
        ("Qwen2ForCausalLM", "<｜User｜>", ("qwen2", "deepseek_r1")),
        ("Qwen3ForCausalLM", "<|im_start|>", ("qwen3", "qwen3")),
        ("Phi3ForCausalLM", "<|im_sep|>", ("phi4", "phi4")),
    ],
)
def test_the_type_follows_architecture_and_template(tmp_path, architecture, template, expected):
    found = inspect_folder(model(tmp_path / "m", {"architectures": [architecture]}, template))
    assert (found.model_type, found.template) == expected


def test_shards_are_counted_together_and_an_untied_output_is_seen(tmp_path):
    folder = model(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    safetensors(folder / "model-1.safetensors", {"a": (4, 4)})
    safetensors(folder / "model-2.safetensors", {"lm_head.weight": (32, 8)})
    index = {"weight_map": {"a": "model-1.safetensors", "lm_head.weight": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    found = inspect_folder(folder)
    assert found.parameters == 16 + 256
    assert found.tied is False
    (folder / "model-2.safetensors").unlink()
    assert "model-2.safetensors" in refused(folder, "lacks 1 of its 2").what


def test_no_folder(tmp_path):
    refused(tmp_path / "absent", "no model folder")


def test_no_config(tmp_path):
    refused(tmp_path, "no config.json")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    refused(tmp_path, "only GGUF")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "last.ckpt"])
def test_pickles_are_refused(tmp_path, name):
    folder = model(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / name)
    assert "can run any code" in refused(folder, name).why or "pickle" in refused(folder, name).why


def test_own_code_is_refused_only_where_it_would_be_needed(tmp_path):
    config = {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}
    known = model(tmp_path / "known", config)
    (known / "modeling_x.py").write_text("raise SystemExit")
    assert inspect_folder(known).model_type == "llama"
    own = model(tmp_path / "own", config | {"architectures": ["BaichuanForCausalLM"]})
    refused(own, "its own Python code")
    unknown = model(tmp_path / "unknown", {"architectures": ["NeverHeardOf"]})
    refused(unknown, "not known")


def test_a_missing_tokenizer(tmp_path):
    folder = model(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    refused(folder, "no tokenizer")


def test_a_truncated_file(tmp_path):
    folder = model(tmp_path / "m")
    safetensors(folder / "model.safetensors", {"a": (64, 64)}, missing_bytes=7)
    assert "header says" in refused(folder, "damaged").why


def test_quantized_weights(tmp_path):
    folder = model(tmp_path / "m")
    safetensors(folder / "model.safetensors", {"layer.qweight": (4, 4)})
    refused(folder, "quantized")


def test_an_index_cannot_name_files_elsewhere(tmp_path):
    folder = model(tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    refused(folder, "outside the folder")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_a_clear_error(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with suppress(ModelError):  # any other exception fails the test
        assert isinstance(read_header(path), dict)


@pytest.mark.parametrize("content", ["", "{", "[]", "\xff"])
def test_a_damaged_configuration(tmp_path, content):
    folder = model(tmp_path / "m")
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    refused(folder, "config.json")
