"""The numbers of a decoder that memory and speed follow from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from autoswift import tables
from autoswift.tables import table


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A decoder-only transformer as numbers.

    Attributes:
        parameters: number of weights, embeddings included; tied ones once.
        head_dim: width of one attention head.
        tied: the output projection shares the embedding's weights.
        assumed: fields that were not known and were taken from the nearest known shape.
        family: whose layers it has: llama qwen2 qwen3 phi3 gemma2 gemma3_text glm4.
        mixture: it is a mixture of experts. experts_intermediate: inner width of a layer's experts together, of which a
            token goes through `token_intermediate`.
    """

    parameters: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    head_dim: int
    tied: bool
    assumed: tuple[str, ...] = ()
    family: str = "llama"
    experts_intermediate: int = 0
    token_intermediate: int = 0

    @property
    def mixture(self) -> bool:
        """Whether it is a mixture of experts."""
        return self.experts_intermediate > 0

    @property
    def embedding(self) -> int:
        """Weights in the token embedding."""
        return self.vocabulary * self.hidden

    @property
    def active_intermediate(self) -> int:
        """Inner width of the gated map that a token sees; of all its experts together."""
        return self.token_intermediate if self.mixture else self.intermediate

    @property
    def matrix_parameters(self) -> int:
        """Weights that take part in a matrix product of the forward pass (the output projection included)."""
        return max(self.parameters - (0 if self.tied else self.embedding), 1)

    @property
    def linear_io(self) -> int:
        """Sum over one layer's seven linear maps of (inputs + outputs): what one rank of an all-linear LoRA adds."""
        return self.attention_io + 3 * (self.hidden + self.intermediate)

    @property
    def attention_io(self) -> int:
        """The same over the attention's four maps."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return (self.hidden + q) + 2 * (self.hidden + kv) + (q + self.hidden)

    @property
    def packed_parameters(self) -> int:
        """Weights that bitsandbytes packs when a model is loaded for training.

        It replaces `nn.Linear` modules and nothing else (transformers 5.17, `replace_with_bnb_linear`), and a mixture's
        experts are single three-dimensional parameters there: they stay in 16 bits.
        """
        if not self.mixture:
            return self.linear_parameters
        return self.layers * self.hidden * 2 * (self.heads + self.kv_heads) * self.head_dim

    @property
    def linear_parameters(self) -> int:
        """Weights of the layers' linear maps: what a server's 4-bit and 8-bit forms pack."""
        outside = max(self.parameters - self.embedding * (1 if self.tied else 2), 0)
        if self.assumed or self.mixture:  # the layers' own numbers are those of another model, or not known one by one
            return outside
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return min(self.layers * self.hidden * (2 * q + 2 * kv + 3 * self.intermediate), outside)

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer."""
        kept = self.embedding * (1 if self.tied else 2)
        return int(max(self.parameters - kept, 0) // max(self.layers, 1))

    def lora_parameters(self, rank: int, targets: str = "all") -> int:
        """Weights of a LoRA of that rank.

        Args:
            rank: of each map's two factors.
            targets: all linear maps but the output projection, `attention` for its four, `qv` for two of them.
        """
        if targets == "qv":
            q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
            return rank * (2 * self.hidden + q + kv) * self.layers
        # A mixture's experts are one stacked tensor each in transformers 5, which PEFT's all-linear leaves out.
        io = self.attention_io if targets == "attention" or self.mixture else self.linear_io
        if self.family == "phi3":  # one fused map for query, key and value, one for both halves of the gated map
            io -= 2 * self.hidden + (0 if targets == "attention" else self.hidden)
        if self.family == "glm4" and targets != "attention":
            io -= self.hidden
        return rank * io * self.layers


_NAMES = ("layers", "hidden", "heads", "kv_heads", "intermediate", "vocabulary")
_FAMILIES = (
    ("qwen3", "qwen3"),
    ("qwen2", "qwen2"),
    ("qwen1", "qwen2"),  # Qwen1.5 has Qwen2's layers
    ("qwen", "qwen2"),
    ("gemma3", "gemma3_text"),
    ("gemma2", "gemma2"),
    ("gemma", "gemma2"),
    ("phi3", "phi3"),
    ("phi4", "phi3"),
    ("glm4", "glm4"),
    ("chatglm", "glm4"),
)
"""What a model type begins with, and the traced family; any other has Llama's layers."""


def family_of(model_type: str) -> str:
    """The traced family of a model type, as transformers or ms-swift spell it."""
    word = model_type.lower().replace("-", "").replace("_", "").replace(".", "")
    return next((family for start, family in _FAMILIES if word.startswith(start)), "llama")


def shape_of(values: Any) -> ModelShape:
    """The shape of anything that has its numbers as attributes or keys (a ModelChoice, catalogue facts, a dict).

    A number that is 0 or missing is taken from the known shape nearest in parameters, and named in `assumed`.

    Args:
        values: has `parameters` and some of layers, hidden, heads, kv_heads, intermediate, vocabulary, head_dim, tied,
            model_type, active (weights that a token takes part in, of a mixture of experts).
    """
    if isinstance(values, ModelShape):
        return values

    def get(name: str) -> Any:
        found = values.get(name) if isinstance(values, dict) else getattr(values, name, None)
        return found or 0

    parameters = int(get("parameters"))
    known = {name: int(get(name)) for name in _NAMES}
    missing = tuple(name for name in _NAMES if not known[name])
    if missing:
        near = nearest_shape(parameters)
        known |= {name: int(near[name]) for name in missing}
        if len(missing) == len(_NAMES):  # as many layers of that kind as the parameters make
            embedding = known["vocabulary"] * known["hidden"]
            share = max(parameters - embedding, 1) / max(near["parameters"] - embedding, 1)
            known["layers"] = max(round(known["layers"] * share), 1)
    tied = values.get("tied") if isinstance(values, dict) else getattr(values, "tied", None)
    if tied is None:
        # Families tie below about 4B (Qwen2.5 to 3B, Qwen3 to 4B, Llama 3.2 to 3B, SmolLM2) and untie above.
        tied = parameters < 4.5e9
    head_dim = int(get("head_dim")) or known["hidden"] // known["heads"]
    shape = ModelShape(
        parameters=parameters,
        head_dim=head_dim,
        tied=bool(tied),
        assumed=missing,
        family=str(get("family") or family_of(str(get("model_type") or ""))),
        **known,
    )
    active = int(get("active"))
    return _mixture(shape, active) if 0 < active < parameters else shape


def _mixture(shape: ModelShape, active: int) -> ModelShape:
    """Widths of the experts from what a token goes through: all of it that is neither embedding nor attention."""
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    outside = shape.embedding * (1 if shape.tied else 2) + shape.layers * shape.hidden * 2 * (q + kv)
    a_unit = 3 * shape.hidden * shape.layers
    return replace(
        shape,
        experts_intermediate=max((shape.parameters - outside) // a_unit, 1),
        token_intermediate=max((active - outside) // a_unit, 1),
    )


def shape_of_config(config: Mapping[str, Any]) -> ModelShape:
    """The shape that a model's `config.json` says, its parameters counted from it."""
    inner = config.get("text_config")
    values = {**config, **inner} if isinstance(inner, Mapping) else dict(config)
    family = family_of(str(values.get("model_type", "")))
    hidden, layers = int(values["hidden_size"]), int(values["num_hidden_layers"])
    heads = int(values["num_attention_heads"])
    kv_heads = int(values.get("num_key_value_heads") or heads)
    head_dim = int(values.get("head_dim") or hidden // heads)
    experts = int(values.get("num_experts") or values.get("num_local_experts") or values.get("n_routed_experts") or 0)
    expert = int(values.get("moe_intermediate_size") or values["intermediate_size"])
    vocabulary, tied = int(values["vocab_size"]), bool(values.get("tie_word_embeddings", False))
    q, kv = heads * head_dim, kv_heads * head_dim
    inner_width = experts * expert if experts else int(values["intermediate_size"])
    layer = hidden * (2 * q + 2 * kv + 3 * inner_width + experts) + 2 * hidden
    layer += {"qwen2": q + 2 * kv, "qwen3": 2 * head_dim, "gemma2": 2 * hidden, "glm4": 2 * hidden}.get(family, 0)
    layer += 2 * hidden + 2 * head_dim if family == "gemma3_text" else 0
    return ModelShape(
        parameters=vocabulary * hidden * (1 if tied else 2) + layers * layer + hidden,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        intermediate=int(values["intermediate_size"]),
        vocabulary=vocabulary,
        head_dim=head_dim,
        tied=tied,
        family=family,
        experts_intermediate=inner_width if experts else 0,
        token_intermediate=int(values.get("num_experts_per_tok") or 0) * expert if experts else 0,
    )


def shape_by_name(name: str) -> ModelShape | None:
    """The shape of a well-known model by its name in any spelling, or None."""
    words = set(re.split(r"[-_/\s:]+", name.lower()))
    hits = [row for row in _named() if set(row["words"]) <= words]
    if not hits:
        return None
    row = max(hits, key=lambda one: len(one["words"]))
    return ModelShape(
        parameters=row["p"],
        layers=row["l"],
        hidden=row["h"],
        heads=row["a"],
        kv_heads=row["k"],
        intermediate=row["i"],
        vocabulary=row["v"],
        head_dim=row.get("d", row["h"] // row["a"]),
        tied=row.get("t", False),
        family=row.get("f", "llama"),
        experts_intermediate=row.get("e", 0) * row.get("m", 0),
        token_intermediate=row.get("n", 0) * row.get("m", 0),
    )


@cache
def _named() -> tuple[dict[str, Any], ...]:
    found = json.loads(files(tables).joinpath("shapes_named.json").read_text(encoding="utf-8"))
    return tuple(found["shapes"])


def nearest_shape(parameters: int) -> dict[str, int]:
    """The known shape whose number of parameters is nearest by ratio."""
    rows: list[dict[str, int]] = table("shapes")
    size = max(parameters, 1)
    return min(rows, key=lambda row: max(size / row["parameters"], row["parameters"] / size))
