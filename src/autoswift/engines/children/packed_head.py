"""The loss of a pack: the base's body in one pass, then the logits of one trial at a time.

The gradient of the hidden states is made together with the loss, chunk by chunk, so that no logits are kept for the
backward pass: what a fused cross-entropy does, in plain operations that a CUDA graph can hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

CHUNK_ELEMENTS = 2**27
"""Logits that exist at once: half a GiB in float32, small beside any model that has such a vocabulary."""


class Refused(ValueError):
    """What cannot be packed, and why.

    Args:
        reason: a word for programs. text: for people.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason, self.text = reason, text


@contextmanager
def plain_causal() -> Iterator[None]:
    """Our rows are whole, start at 0 and are padded on the right: the causal mask alone is exact, and needs no look.

    transformers would look at the positions (a wait for the device) and build an explicit mask while a graph is
    captured, which takes the fast attention kernels away.
    """
    from transformers import masking_utils

    seen, tracing = masking_utils.find_packed_sequence_indices, masking_utils.is_tracing
    masking_utils.find_packed_sequence_indices = lambda *_, **__: None
    masking_utils.is_tracing = lambda *_, **__: False
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices, masking_utils.is_tracing = seen, tracing


class Head:
    """A causal language model as its body and its projection to the vocabulary."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.body: Any = getattr(model, model.base_model_prefix, None)
        projection = model.get_output_embeddings()
        if self.body is None or self.body is model or projection is None or not hasattr(projection, "weight"):
            raise Refused("architecture", f"{type(model).__name__} has no body and projection of the usual kind")
        self.weight, self.bias = projection.weight, getattr(projection, "bias", None)
        config = model.config.get_text_config()
        self.cap = getattr(config, "final_logit_softcapping", None)
        self.vocabulary, self.width = int(self.weight.shape[0]), int(self.weight.shape[1])
        self.chunk = max(1, CHUNK_ELEMENTS // self.vocabulary)

    def hidden(self, ids: Any) -> Any:
        """`ids [rows, tokens]`, padded on the right, to hidden states `[rows, tokens, width]`."""
        positions = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
        with plain_causal():
            return self.body(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state

    def logits(self, hidden: Any) -> Any:
        """Of the whole vocabulary, in the model's number format."""
        logits = functional.linear(hidden, self.weight, self.bias)
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def check(self) -> None:
        """Does our way to the logits give the model's own?

        Raises:
            Refused: when it does not (a model that scales or masks its logits in a way of its own).
        """
        ids = torch.arange(3, 11, device=self.weight.device).unsqueeze(0) % self.vocabulary
        training = self.model.training
        self.model.eval()
        ours = self.logits(self.hidden(ids)).float()
        theirs = self.model(input_ids=ids, use_cache=False).logits.float()
        self.model.train(training)
        far = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6))
        if not far < (1e-4 if self.weight.dtype == torch.float32 else 3e-2):
            raise Refused("architecture", f"the logits of {type(self.model).__name__} are not those of its projection")

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def losses(self, hidden: Any, labels: Any, factor: Any = None) -> tuple[Any, Any, Any]:
        """Losses of one trial's places.

        Args:
            hidden: `[places, width]`. labels: `[places]`, -100 where a place does not count.
            factor: what the summed loss is multiplied with before its gradient is taken; None wants no gradient.

        Returns:
            The loss of each place (0 where it does not count), how many were guessed, the gradient or None.
        """
        losses, right, gradients = [], [], []
        for first in range(0, hidden.shape[0], self.chunk):
            loss, hit, gradient = self._chunk(
                hidden[first : first + self.chunk], labels[first : first + self.chunk], factor
            )
            losses.append(loss)
            right.append(hit)
            gradients.append(gradient)
        if len(losses) == 1:
            return losses[0], right[0], gradients[0]
        grown = None if factor is None else torch.cat(gradients)
        return torch.cat(losses), torch.stack(right).sum(), grown

    def _chunk(self, hidden: Any, labels: Any, factor: Any) -> tuple[Any, Any, Any]:
        raw = functional.linear(hidden, self.weight, self.bias)
        squeezed = None if self.cap is None else torch.tanh(raw / self.cap)
        logits = (raw if squeezed is None else squeezed * self.cap).float()
        counted = labels >= 0
        targets = labels.clamp(min=0).unsqueeze(1)
        total = logits.logsumexp(-1)
        losses = (total - logits.gather(1, targets).squeeze(1)).masked_fill(~counted, 0.0)
        right = ((logits.argmax(-1) == labels) & counted).sum()
        if factor is None:
            return losses, right, None
        # the gradient of cross-entropy: the probabilities less one at the target
        slope = logits.sub_(total.unsqueeze(1)).exp_()
        slope.scatter_add_(1, targets, torch.full_like(slope[:, :1], -1.0))
        slope.mul_(factor).masked_fill_(~counted.unsqueeze(1), 0.0)
        if squeezed is not None:
            slope.mul_(1 - squeezed.float().square())
        return losses, right, slope.to(self.weight.dtype) @ self.weight
