from __future__ import annotations

import json
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoswift.catalog.folder import inspect_folder, read_header
from autoswift.catalog.schemas import cleaned
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
    config = {"architectures": [architecture], "model_type": architecture.removesuffix("ForCausalLM").lower()}
    found = inspect_folder(model(tmp_path / "m", config, template))
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


def test_an_architecture_that_ms_swift_knows_as_one_type_is_that_type(tmp_path):
    config = {"architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe"}
    assert inspect_folder(model(tmp_path / "m", config)).model_type == "glm4_moe"
    refused(model(tmp_path / "n", config | {"architectures": ["Emu3ForCausalLM"], "model_type": "emu3"}), "not known")


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


def written(folder, name, value):
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("config.json", {"model_type": "evil"}, "calls itself 'evil'"),
        ("config.json", {"model_type": "qwen2"}, "calls itself 'qwen2'"),
        ("config.json", {"model_type": ["llama"]}, "model_type cannot be"),
        ("config.json", {"model_type": "../llama"}, "model_type cannot be"),
        ("config.json", {"architectures": "LlamaForCausalLM"}, "architectures cannot be"),
        ("config.json", {"architectures": ["os.system"]}, "architectures cannot be"),
        ("config.json", {"hidden_size": "8"}, "hidden_size cannot be"),
        ("config.json", {"hidden_size": 10**12}, "hidden_size cannot be"),
        ("config.json", {"vocab_size": -1}, "vocab_size cannot be"),
        ("config.json", {"num_hidden_layers": True}, "num_hidden_layers cannot be"),
        ("config.json", {"text_config": []}, "text_config cannot be"),
        ("tokenizer_config.json", {"tokenizer_class": "os.system"}, "tokenizer_class cannot be"),
        ("tokenizer_config.json", {"chat_template": 5}, "chat_template cannot be"),
        ("tokenizer_config.json", {"chat_template": "{% if %}"}, "cannot be parsed"),
        ("preprocessor_config.json", {"image_processor_type": "a/b"}, "image_processor_type cannot be"),
    ],
)
def test_configurations_are_checked_value_by_value(tmp_path, name, value, words):
    folder = model(tmp_path / "m")
    kept = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    refused(written(folder, name, kept | value), words)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages['__class__'] }}",
        "{{ messages|attr('pop') }}",
        "{% include '/etc/passwd' %}",
        "{% import 'x' as y %}",
        "{{ 'x' * 1000000000 }}",
        "{{ 'x' * 999 * 999 * 999 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ cycler._x }}",
    ],
)
def test_templates_that_reach_out_are_refused(tmp_path, template):
    refused(model(tmp_path / "one", template=template), "no template needs")
    folder = model(tmp_path / "two")
    (folder / "chat_template.jinja").write_text(template)
    refused(folder, "no template needs")


def test_a_deep_template_does_not_end_the_program(tmp_path):
    refused(model(tmp_path / "m", template="{{" + "(" * 5000 + "1" + ")" * 5000 + "}}"), "cannot be parsed")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"text_config": {"auto_map": 1, "auto_map": 2}}', "twice"),
        (b'{"a":' * 2000 + b"1" + b"}" * 2000, "nested too deeply"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "cannot be read"),
        (b'{"a": "' + b"x" * (4 * 2**20) + b'"}', "exhaust"),
        (b'{"a": "\xff"}', "cannot be read"),
    ],
)
def test_json_that_is_built_to_hurt_is_refused(tmp_path, raw, words):
    folder = model(tmp_path / "m")
    (folder / "config.json").write_bytes(raw)
    with pytest.raises(ModelError) as caught:
        inspect_folder(folder)
    assert words in caught.value.what + caught.value.why


@pytest.mark.parametrize("key", ['"auto_map"', '"auto\\u005fmap"', '"\\u0061uto_map"'])
def test_references_to_code_go_however_they_are_written(key):
    raw = b'{"model_type": "llama", "sub": [{%s: {"AutoModel": "x.Y"}, "kept": 1}]}' % key.encode()
    content, gone = cleaned("config.json", raw, "config.json")
    assert gone == ("auto_map",)
    assert json.loads(content) == {"model_type": "llama", "sub": [{"kept": 1}]}


def test_kernels_of_other_repositories_go_and_words_of_a_vocabulary_stay():
    raw = b'{"attn_implementation": "evil/kernel", "_attn_implementation": "sdpa", "custom_pipelines": {"a": {}}}'
    content, gone = cleaned("config.json", raw, "config.json")
    assert gone == ("attn_implementation", "custom_pipelines")
    assert json.loads(content) == {"_attn_implementation": "sdpa"}
    vocabulary = b'{"auto_map": 5}'
    assert cleaned("vocab.json", vocabulary, "vocab.json") == (vocabulary, ())
    same = b'{ "model_type" : "llama" }'
    assert cleaned("config.json", same, "config.json") == (same, ())


def test_links_out_of_the_folder_are_refused_and_the_hub_clients_cache_is_not(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("password")
    folder = model(tmp_path / "m")
    (folder / "vocab.txt").symlink_to(secret)
    assert str(secret) in refused(folder, r"vocab\.txt .* is a link").what
    (folder / "vocab.txt").unlink()
    (folder / "same.json").symlink_to(folder / "config.json")
    assert inspect_folder(folder).layers == 1
    (folder / "same.json").unlink()
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "c0ffee", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        (blobs / f"{number:064x}").write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(Path("..") / ".." / "blobs" / f"{number:064x}")
    assert inspect_folder(snapshot).layers == 1
    (snapshot / "x.txt").symlink_to(tmp_path / "secret.txt")
    refused(snapshot, "is a link")


def header(*rows: tuple[str, str, list[int], list[int]], size: int = 16) -> bytes:
    raw = json.dumps({n: {"dtype": d, "shape": s, "data_offsets": o} for n, d, s, o in rows}).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(size)


@pytest.mark.parametrize(
    "content",
    [
        header(("a", "F32", [4], [0, 16]), ("b", "F32", [4], [0, 16])),
        header(("a", "F32", [2], [0, 8]), ("b", "F32", [2], [4, 12])),
        header(("a", "F32", [2], [0, 8]), ("b", "F32", [1], [12, 16])),
        header(("a", "F32", [2], [8, 16])),
        header(("a", "F32", [8], [0, 16])),
        header(("a", "F32", [4], [0, 16]), size=20),
        header(("a", "F32", [-4], [0, 16])),
        header(("a", "F32", [True], [0, 4]), size=4),
        header(("a", "X32", [4], [0, 16])),
        header(("a", "F32", [2**40, 2**40], [0, 16])),
        header(("a", "F32", [0], [4, 4]), ("b", "F32", [4], [0, 16])),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 40) + b'{"a":{},"a":{}}'.ljust(40),
    ],
)
def test_a_header_must_account_for_every_byte(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        read_header(path)


def test_shards_and_their_index_must_agree(tmp_path):
    folder = model(tmp_path / "m")
    safetensors(folder / "model-2.safetensors", {"model.norm.weight": (8,)})
    refused(folder, "twice")
    index = {"model.norm.weight": "model-2.safetensors", "model.embed_tokens.weight": "model-2.safetensors"}
    written(folder, "model.safetensors.index.json", {"weight_map": index})
    refused(folder, "do not agree")
    written(folder, "model.safetensors.index.json", {"weight_map": {"a": "pytorch_model-1.bin"}})
    refused(folder, "pytorch_model-1.bin")


def test_a_tokenizer_model_must_be_one(tmp_path):
    folder = model(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    piece = b"\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02"
    (folder / "tokenizer.model").write_bytes(b"\x0a" + bytes([len(piece)]) + piece + b"\x12\x02\x08\x01")
    assert inspect_folder(folder).layers == 1
    for bad in (b"\x80\x04K\x01.", b"PK\x03\x04", b"", b"cos\nsystem\n", b"\x0a\x7f", b"\x12\x02\x08\x01"):
        (folder / "tokenizer.model").write_bytes(bad)
        refused(folder, "not a SentencePiece")
