"""General rows to train on beside the user's: the base's own answers to general questions, so that it forgets less.

Nothing is taken from elsewhere: what the base says itself is what it must keep (self-distillation). The questions are
none of the guard's.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from autoswift.engines.worker import ModelWorker
from autoswift.run.files import dumps, write_atomic

MAX_NEW_TOKENS = 48
"""Of an answer: long enough for the manner of answering, short enough for 24 of them on two cores."""

Row = dict[str, Any]


def prompts() -> list[Row]:
    """The questions, as rows without an answer."""
    text = files("autoswift.evaluate").joinpath("guard", "replay.tsv").read_text(encoding="utf-8")
    lines = [line.split("\t") for line in text.splitlines() if line.strip()]
    return [{"messages": [{"role": "user", "content": prompt}]} for _, prompt in lines]


def replay_rows(worker: ModelWorker, batch_size: int) -> list[Row]:
    """The questions with the loaded model's own answers; answers that did not end by themselves are cut, and kept."""
    asked = prompts()
    made = worker.ask("generate", rows=asked, max_new_tokens=MAX_NEW_TOKENS, batch_size=batch_size)
    rows = []
    for row, answer in zip(asked, made["answers"], strict=True):
        if str(answer["text"]).strip():
            rows.append({"messages": [*row["messages"], {"role": "assistant", "content": str(answer["text"]).strip()}]})
    return rows


def mixed(train: Sequence[Row], replay: Sequence[Row], share: float, seed: int) -> list[Row]:
    """Training rows among which `share` (0 to 1, exclusive) are replayed ones, in a drawn order.

    Replayed rows are repeated as often as it takes.
    """
    if not replay or share <= 0:
        return list(train)
    count = max(1, round(len(train) * share / (1 - share)))
    found = [*train, *(replay[i % len(replay)] for i in range(count))]
    random.Random(seed).shuffle(found)  # noqa: S311 - an order, no secret
    return found


def write_mixed(folder: Path, replay: Sequence[Row], share: float, seed: int) -> Path:
    """Writes `data/train.replay.jsonl` from `data/train.fit.jsonl` of a run's folder."""
    source = (folder / "data" / "train.fit.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in source.splitlines() if line.strip()]
    path = folder / "data" / "train.replay.jsonl"
    write_atomic(path, "".join(dumps(row) + "\n" for row in mixed(rows, replay, share, seed)))
    return path
