"""Post-checks of a served model: the token ids it really feeds, its first token's probabilities, how it stops.

Token ids and probabilities come from llama.cpp's own endpoints; how it stops from the OpenAI API of any engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from autoswift.serve.client import Message, complete, request, served_model

Conversation = Sequence[Message]


def template_ids(address: str, rows: Sequence[Conversation]) -> list[list[int]]:
    """The token ids that the server makes of each conversation, as its chat endpoint feeds them.

    The server's own chat template gives the text; it leaves out a leading BOS that its tokenizer would add, so the
    tokenizer adds special tokens here as the chat endpoint does, and reads `<|…|>` as special tokens, not as text.

    Args:
        address: of a llama.cpp server, with or without /v1.
        rows: conversations that end with the user's turn.

    Raises:
        InputError: when the server has no such endpoint.
        StageFailed, ChildFailed: as `client.request`.
    """
    return [_ids(address, row) for row in rows]


def _ids(address: str, row: Conversation) -> list[int]:
    prompt = request(address, "/apply-template", {"messages": list(row)})["prompt"]
    body = {"content": prompt, "add_special": True, "parse_special": True}
    return [int(one) for one in request(address, "/tokenize", body)["tokens"]]


def next_logprobs(address: str, ids: Sequence[int], top: int = 5) -> dict[int, float] | None:
    """The most probable next tokens after some token ids: token id to natural log-probability.

    None where the server has none to give: llama.cpp holds a token back while it is only a part of a UTF-8 character,
    as the first token of many Chinese answers is, and leaves out its probabilities.

    Args:
        address: of a llama.cpp server, with or without /v1.
        ids: what the model has seen.
        top: how many tokens.

    Raises:
        StageFailed, ChildFailed, InputError: as `client.request`.
    """
    body = {"prompt": list(ids), "n_predict": 1, "n_probs": top, "temperature": 0.0, "cache_prompt": True}
    first = request(address, "/completion", body).get("completion_probabilities") or []
    return {int(one["id"]): float(one["logprob"]) for one in first[0]["top_logprobs"]} if first else None


def token_ids(address: str, text: str) -> list[int]:
    """A plain text's token ids, without special tokens."""
    return [int(one) for one in request(address, "/tokenize", {"content": text, "add_special": False})["tokens"]]


def stops_at_end_token(
    address: str, rows: Sequence[Conversation], max_tokens: int, parallel: int = 1, model: str = ""
) -> float:
    """The share (0 to 1) of greedy answers that end by the model's end token, not because `max_tokens` ran out.

    Args:
        address: of any OpenAI-compatible server, ending in /v1.
        rows: conversations that end with the user's turn.
        max_tokens: of one answer.
        parallel: requests at once.
        model: the served name; asked from the server when empty.

    Raises:
        ValueError: when there are no rows.
        StageFailed, ChildFailed, InputError: as `client.request`.
    """
    if not rows:
        raise ValueError("no conversations to ask")
    name = model or served_model(address)

    def stopped(row: Conversation) -> bool:
        return bool(complete(address, row, max_tokens, 0.0, model=name)["finish_reason"] == "stop")

    with ThreadPoolExecutor(max_workers=max(1, parallel)) as pool:
        return sum(pool.map(stopped, rows)) / len(rows)
