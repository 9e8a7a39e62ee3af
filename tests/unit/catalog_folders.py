"""Tiny model folders, written by hand."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "num_key_value_heads": 1,
    "intermediate_size": 16,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def safetensors(path: Path, tensors: dict[str, tuple[int, ...]], *, missing_bytes: int = 0) -> None:
    """A float32 file of zeros; `missing_bytes` cuts its end off."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in tensors.items():
        size = 4
        for n in shape:
            size *= n
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header).encode()
    path.write_bytes((struct.pack("<Q", len(raw)) + raw + bytes(offset))[: 8 + len(raw) + offset - missing_bytes])


def tokenizer(folder: Path) -> None:
    """A byte-level BPE without merges: a token a byte."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>", "<s>", "</s>")])
    made.save(str(folder / "tokenizer.json"))


def model(folder: Path, config: dict[str, Any] | None = None, template: str = TEMPLATE) -> Path:
    """A folder that can be used."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    tokenizer(folder)
    values = {
        "chat_template": template,
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")
    safetensors(folder / "model.safetensors", {"model.embed_tokens.weight": (32, 8), "model.norm.weight": (8,)})
    return folder
