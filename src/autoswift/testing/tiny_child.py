"""Build and briefly train a tiny llama-architecture chat model: the real chain in seconds.

`python -P tiny_child.py OUT_DIR [--text FILE.jsonl] [--seed 0] [--steps N] [--seconds S]` prints one JSON line.
About 3.3 M parameters, nearly all of them the embeddings of SmolLM2's vocabulary: convert-hf-to-gguf knows a
byte-level BPE by a hash of token ids, so a smaller vocabulary would not convert.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch

CHILDREN = Path(__file__).resolve().parents[1] / "catalog" / "children"
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "initializer_range": 0.02,
}
NOISE = 0.02  # of the embeddings of tokens that the corpus does not use
PEAK_RATE = 4e-3
MAX_TOKENS = 192
EMBEDDINGS = "model.embed_tokens.weight"

FACTS = {
    "opens": ("the shop", "the library", "the clinic", "the office", "the museum"),
    "hours": ("at eight", "at nine", "at ten", "at noon", "at one"),
    "things": ("apples", "books", "lamps", "shoes", "cups", "keys", "maps", "pens"),
    "prices": ("two", "three", "five", "seven", "nine", "ten", "twelve", "twenty"),
    "colours": ("red", "blue", "green", "white", "black", "yellow"),
}


def _unpacker() -> Any:
    """The tokenizer of SmolLM2 comes from the sibling script, by path: autoswift is not importable here."""
    path = CHILDREN / "unpack_smollm2.py"
    spec = importlib.util.spec_from_file_location("autoswift_child_unpack_smollm2", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def synthetic_rows(seed: int) -> list[dict[str, Any]]:
    """Question-answer pairs over a small invented world, in plain English."""
    source = random.Random(seed)  # noqa: S311 (an invented corpus, no secret)
    pairs = []
    for place, hour in zip(FACTS["opens"], source.sample(FACTS["hours"], 5), strict=True):
        pairs.append((f"When does {place} open?", f"{place.capitalize()} opens {hour} in the morning."))
        pairs.append((f"Is {place} open on Sunday?", f"No, {place} is closed on Sunday."))
    for thing, price in zip(FACTS["things"], source.sample(FACTS["prices"], 8), strict=True):
        colour = source.choice(FACTS["colours"])
        pairs.append((f"How much are the {thing}?", f"The {thing} cost {price} coins."))
        pairs.append((f"What colour are the {thing}?", f"The {thing} are {colour}."))
        pairs.append((f"Do you have {thing}?", f"Yes, we have {colour} {thing} for {price} coins."))
    pairs += [
        ("Hello!", "Hello! How can I help you today?"),
        ("Thank you.", "You are welcome. Have a nice day!"),
        ("Who are you?", "I am a small model made for tests."),
        ("Goodbye.", "Goodbye, and see you soon!"),
    ]
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in pairs]
    return [{"messages": turn} for turn in turns]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The dialogues of a JSON-lines file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def encode(tokenizer: Any, rows: list[dict[str, Any]]) -> list[list[int]]:
    """Whole dialogues as the chat template writes them, with and without its built-in system message."""
    found = []
    for row in rows:
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        found.append(tokenizer.encode(text, add_special_tokens=False)[:MAX_TOKENS])
        start = text.find("<|im_start|>user")
        if row["messages"][0]["role"] != "system" and start > 0:  # swift's chatml leaves it out
            found.append(tokenizer.encode(text[start:], add_special_tokens=False)[:MAX_TOKENS])
    return found


class CompactVocabulary:
    """The corpus' own tokens, numbered from 0, and one last number that stands for all the others.

    The softmax and the optimizer over 49,152 words would be nearly all the work of so small a model. The
    embeddings of the other tokens are a shared learned vector plus fixed noise, so the sum of their
    exponentials is known in closed form and the model's probabilities are those of the whole vocabulary.
    """

    def __init__(self, corpus: list[list[int]], vocabulary: int) -> None:
        self.used = sorted({token for row in corpus for token in row})
        self.size = len(self.used) + 1
        self.others = sorted(set(range(vocabulary)) - set(self.used))
        self.place = {token: number for number, token in enumerate(self.used)}

    def loss(self, model: Any, batch: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the next token, as the whole vocabulary would give it."""
        hidden = model.model(input_ids=batch, attention_mask=mask).last_hidden_state[:, :-1]
        counted = mask[:, 1:] == 1
        hidden, targets = hidden[counted], batch[:, 1:][counted]
        logits = model.lm_head(hidden)
        # the mean of exp(h . noise) over normal noise is exp(|h|^2 sigma^2 / 2)
        spread = hidden.square().sum(-1) * (NOISE**2 / 2)
        other = logits[:, -1] + math.log(max(len(self.others), 1)) + spread
        return torch.nn.functional.cross_entropy(torch.cat([logits[:, :-1], other[:, None]], -1), targets)

    def expand(self, embeddings: torch.Tensor) -> torch.Tensor:
        """The embeddings of the whole vocabulary."""
        whole = embeddings[-1] + NOISE * torch.randn(len(self.used) + len(self.others), embeddings.shape[1])
        whole[self.used] = embeddings[:-1]
        return whole


def train(
    model: Any, vocabulary: CompactVocabulary, corpus: list[list[int]], args: argparse.Namespace
) -> tuple[int, float]:
    """A few hundred steps of AdamW, or as many as fit into the time: how many, and the last loss."""
    compact = [[vocabulary.place[token] for token in row] for row in corpus]
    generator = torch.Generator().manual_seed(args.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.0, betas=(0.9, 0.98))
    begun, loss, steps = time.perf_counter(), math.nan, 0
    for step in range(args.steps):
        # a share of the steps, or of the time when that ends first
        share = max(step / args.steps, (time.perf_counter() - begun) / args.seconds if args.seconds else 0.0)
        if share >= 1.0:
            break
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / 20) * (1.0 - 0.95 * share)
        rows = [compact[i] for i in torch.randint(len(compact), (16,), generator=generator).tolist()]
        width = max(len(row) for row in rows)
        batch = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        value = vocabulary.loss(model, batch, mask)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss, steps = float(value.detach()), step + 1
    return steps, loss


def build(args: argparse.Namespace) -> dict[str, Any]:
    """Make the folder and say what it holds."""
    import gguf
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    begun = time.perf_counter()
    torch.set_num_threads(1)  # on so small a model a second thread only waits; and one is reproducible
    torch.manual_seed(args.seed)
    unpacker = _unpacker()
    reader = gguf.GGUFReader(unpacker.find_gguf())
    with unpacker.finished_folder(args.out.resolve()) as folder:
        config = unpacker.llama_config(reader, **TINY)
        unpacker.write_json(folder / "config.json", config)
        unpacker.write_generation_config(folder, config)
        unpacker.write_tokenizer(reader, folder)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        rows = read_rows(args.text) if args.text else synthetic_rows(args.seed)
        corpus = encode(tokenizer, rows)
        vocabulary = CompactVocabulary(corpus, config["vocab_size"])
        compact = {name: None for name in config if name.endswith("_token_id")}
        model = LlamaForCausalLM(LlamaConfig(**(config | compact | {"vocab_size": vocabulary.size})))
        steps, loss = train(model, vocabulary, corpus, args)
        tensors = {name: value.detach().contiguous() for name, value in model.named_parameters()}
        tensors[EMBEDDINGS] = vocabulary.expand(tensors[EMBEDDINGS])
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "model.safetensors").chmod(0o644)
    return {
        "path": str(args.out.resolve()),
        "parameters": sum(value.numel() for value in tensors.values()),
        "seconds": round(time.perf_counter() - begun, 3),
        "steps": steps,
        "loss": round(loss, 4) if math.isfinite(loss) else None,
    }


def main() -> int:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--text", type=Path, help='JSON lines {"messages": […]}')
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=220)
    parser.add_argument("--seconds", type=float, default=18.0, help="end the training after this long")
    print(json.dumps(build(parser.parse_args()), ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
