"""What models answered, and how they are made to answer: by the resident worker, or by a server."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoswift.domain.plan import EvaluationSettings
from autoswift.engines.worker import ModelWorker

LEAST_ROWS = 8
"""Fewer answers than this give no interval worth printing; the time limit never cuts below it."""

Row = dict[str, Any]


@dataclass(slots=True)
class Answers:
    """One model's answers to the test rows, in order.

    Attributes:
        nll_sums, nll_tokens: negative log-likelihood of each reference and its tokens; empty where not measured.
        latencies: seconds of each answer (of a batch: its seconds over its rows). ttft: until its first token.
        seconds: of all of them.
    """

    texts: list[str]
    tokens: list[int]
    stopped: list[bool]
    nll_sums: list[float]
    nll_tokens: list[int]
    seconds: float
    latencies: list[float] = field(default_factory=list)
    ttft: list[float] = field(default_factory=list)


def answer(
    worker: ModelWorker,
    load: dict[str, Any],
    rows: Sequence[Row],
    settings: EvaluationSettings,
    deadline: float,
    progress: Callable[[int], None],
) -> Answers:
    """Loads a model and lets it answer rows, batch by batch, until they or the time are at an end.

    Args:
        load: arguments of the worker's `load`.
        deadline: unix seconds; at least `LEAST_ROWS` rows are answered whatever it says.
        progress: is told the number of answered rows.
    """
    worker.ask("load", **load)
    found = Answers([], [], [], [], [], 0.0)
    begin = time.monotonic()
    size = settings.generation_batch_size
    for start in range(0, len(rows), size):
        if start >= LEAST_ROWS and time.time() > deadline:
            break
        batch = list(rows[start : start + size])
        prompts = [{"messages": row["messages"]} for row in batch]
        made = worker.ask("generate", rows=prompts, max_new_tokens=settings.max_new_tokens, batch_size=size)
        scored = worker.ask("score", rows=prompts, batch_size=size)
        found.texts += [str(a["text"]) for a in made["answers"]]
        found.tokens += [int(a["tokens"]) for a in made["answers"]]
        found.stopped += [bool(a["stopped"]) for a in made["answers"]]
        found.latencies += [float(a.get("seconds", 0.0)) for a in made["answers"]]
        found.nll_sums += [float(r["nll_sum"]) for r in scored["rows"]]
        found.nll_tokens += [int(r["tokens"]) for r in scored["rows"]]
        progress(len(found.texts))
    found.seconds = time.monotonic() - begin
    return found


def ask_server(rows: Sequence[Row], complete: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> Answers:
    """Lets a served model answer rows, one after the other; likelihoods are not known then.

    Args:
        complete: conversation to a chat completion's choice: {"message", "finish_reason"}.
    """
    found = Answers([], [], [], [], [], 0.0)
    begin = time.monotonic()
    for row in rows:
        start = time.monotonic()
        choice = complete(list(row["messages"][:-1]))
        text = str(choice["message"]["content"] or "")
        found.texts.append(text)
        found.stopped.append(choice.get("finish_reason") == "stop")
        found.latencies.append(time.monotonic() - start)
    found.seconds = time.monotonic() - begin
    return found
