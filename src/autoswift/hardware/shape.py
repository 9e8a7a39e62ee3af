"""The numbers of a decoder that memory and speed follow from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autoswift.tables import table


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A decoder-only transformer as numbers.

    Attributes:
        parameters: number of weights, embeddings included; tied ones once.
        head_dim: width of one attention head.
        tied: the output projection shares the embedding's weights.
        assumed: fields that were not known and were taken from the nearest known shape.
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

    @property
    def embedding(self) -> int:
        """Weights in the token embedding."""
        return self.vocabulary * self.hidden

    @property
    def matrix_parameters(self) -> int:
        """Weights that take part in a matrix product of the forward pass (the output projection included)."""
        return max(self.parameters - (0 if self.tied else self.embedding), 1)

    @property
    def linear_io(self) -> int:
        """Sum over one layer's seven linear maps of (inputs + outputs): what one rank of an all-linear LoRA adds."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = (self.hidden + q) + 2 * (self.hidden + kv) + (q + self.hidden)
        return attention + 3 * (self.hidden + self.intermediate)

    def lora_parameters(self, rank: int) -> int:
        """Weights of a LoRA of that rank on every linear map but the output projection."""
        return rank * self.linear_io * self.layers


_NAMES = ("layers", "hidden", "heads", "kv_heads", "intermediate", "vocabulary")


def shape_of(values: Any) -> ModelShape:
    """The shape of anything that has its numbers as attributes or keys (a ModelChoice, catalogue facts, a dict).

    A number that is 0 or missing is taken from the known shape nearest in parameters, and named in `assumed`.

    Args:
        values: has `parameters` and some of layers, hidden, heads, kv_heads, intermediate, vocabulary, head_dim, tied.
    """

    def get(name: str) -> Any:
        found = values.get(name) if isinstance(values, dict) else getattr(values, name, None)
        return found or 0

    parameters = int(get("parameters"))
    known = {name: int(get(name)) for name in _NAMES}
    missing = tuple(name for name in _NAMES if not known[name])
    if missing:
        near = nearest_shape(parameters)
        known |= {name: int(near[name]) for name in missing}
    tied = values.get("tied") if isinstance(values, dict) else getattr(values, "tied", None)
    if tied is None:
        # Families tie below about 4B (Qwen2.5 to 3B, Qwen3 to 4B, Llama 3.2 to 3B, SmolLM2) and untie above.
        tied = parameters < 4.5e9
    head_dim = int(get("head_dim")) or known["hidden"] // known["heads"]
    return ModelShape(parameters=parameters, head_dim=head_dim, tied=bool(tied), assumed=missing, **known)


def nearest_shape(parameters: int) -> dict[str, int]:
    """The known shape whose number of parameters is nearest by ratio."""
    rows: list[dict[str, int]] = table("shapes")
    size = max(parameters, 1)
    return min(rows, key=lambda row: max(size / row["parameters"], row["parameters"] / size))
