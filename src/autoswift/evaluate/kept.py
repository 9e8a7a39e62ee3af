"""The answers to the test rows as they are kept in the run, so that they can be compared again without asking anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoswift.errors import InputError
from autoswift.evaluate.answers import Answers, Row
from autoswift.run.files import digest, dumps, read_lines, write_atomic
from autoswift.run.record import RunRecord
from autoswift.tables import explain

PLACE = Path("evaluation") / "answers.jsonl"


@dataclass(frozen=True, slots=True)
class Kept:
    """One model's kept answers.

    Attributes:
        name: run and model. keys: digest of each row's messages. metric: that the run decided by.
    """

    name: str
    rows: list[Row]
    references: list[str]
    keys: list[str]
    answers: Answers
    metric: str


def key_of(row: Row) -> str:
    """What makes two test rows one and the same."""
    return digest([[m["role"], m["content"]] for m in row["messages"]])[:16]


def keep(folder: Path, rows: Sequence[Row], references: Sequence[str], answers: Mapping[str, Answers]) -> Path:
    """Writes `evaluation/answers.jsonl` of a run: a line a row, each model's answer by its name."""
    lines = []
    for i, reference in enumerate(references):
        models = {name: _one(side, i) for name, side in answers.items()}
        messages = rows[i]["messages"]
        extra = {"domain": rows[i]["domain"]} if rows[i].get("domain") else {}
        lines.append(dumps({"key": key_of(rows[i]), "messages": messages, "reference": reference} | extra | models))
    path = folder / PLACE
    write_atomic(path, "".join(line + "\n" for line in lines))
    return path


def _one(side: Answers, i: int) -> dict[str, Any]:
    return {
        "text": side.texts[i] if side.texts else "",
        "tokens": side.tokens[i] if side.tokens else 0,
        "stopped": side.stopped[i] if side.stopped else True,
        "nll_sum": side.nll_sums[i] if side.nll_sums else None,
        "nll_tokens": side.nll_tokens[i] if side.nll_tokens else 0,
        "seconds": side.latencies[i] if side.latencies else None,
    }


def kept(record: RunRecord, model: str = "tuned") -> Kept:
    """A model's kept answers of a run.

    Args:
        record: of the run. model: base or tuned.

    Raises:
        InputError: when the run has no kept answers, or none of that model.
    """
    lines = read_lines(record.folder / PLACE)
    if not lines or model not in lines[0]:
        raise InputError(*explain("evaluate.not_kept", run=record.id, model=model))
    found = [line[model] for line in lines]
    scored = all(one["nll_sum"] is not None for one in found)
    seconds = [float(one["seconds"]) for one in found if one["seconds"] is not None]
    answers = Answers(
        texts=[str(one["text"]) for one in found],
        tokens=[int(one["tokens"]) for one in found],
        stopped=[bool(one["stopped"]) for one in found],
        nll_sums=[float(one["nll_sum"]) for one in found] if scored else [],
        nll_tokens=[int(one["nll_tokens"]) for one in found] if scored else [],
        seconds=sum(seconds),
        latencies=seconds,
    )
    rows = [{"messages": line["messages"], "domain": line.get("domain")} for line in lines]
    tested = record.value("evaluate") or {}
    return Kept(
        name=record.id if model == "tuned" else f"{record.id}:{model}",
        rows=rows,
        references=[str(line["reference"]) for line in lines],
        keys=[str(line["key"]) for line in lines],
        answers=answers,
        metric=str(tested.get("metric") or "chrf"),
    )


def common(one: Kept, other: Kept) -> tuple[Kept, Kept]:
    """Both on the rows that both answered, in the order of the first.

    Raises:
        InputError: when they have none in common, or decide by different metrics.
    """
    if one.metric != other.metric:
        raise InputError(*explain("evaluate.other_metric", a=one.metric, b=other.metric))
    places = {key: i for i, key in enumerate(other.keys)}
    left = [i for i, key in enumerate(one.keys) if key in places]
    if not left:
        raise InputError(*explain("evaluate.no_common", a=one.name, b=other.name))
    return _chosen(one, left), _chosen(other, [places[one.keys[i]] for i in left])


def _chosen(side: Kept, indices: Sequence[int]) -> Kept:
    def pick(values: list[Any]) -> list[Any]:
        return [values[i] for i in indices] if len(values) == len(side.keys) else []

    a = side.answers
    answers = Answers(
        texts=pick(a.texts),
        tokens=pick(a.tokens),
        stopped=pick(a.stopped),
        nll_sums=pick(a.nll_sums),
        nll_tokens=pick(a.nll_tokens),
        seconds=a.seconds * len(indices) / max(1, len(side.keys)),
        latencies=pick(a.latencies),
    )
    return Kept(side.name, pick(side.rows), pick(side.references), pick(side.keys), answers, side.metric)
