"""The tables, this version's and the first one's, and rows as entries."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from autoswift.knowledge.entry import SCHEMA, Fingerprint, RunEntry, TrialRow, body_of, parsed
from autoswift.run.files import plain

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData, Table

MULTIPLES = (1.0, 3.0, 0.35)
"""Learning rates that the first version tried first, as multiples of its rule's: by them the rule's own is known."""


@cache
def tables() -> tuple[MetaData, Table]:
    """The table of entries. The columns beside the body are for finding rows; the body is the truth."""
    from sqlalchemy import Column, Float, Index, Integer, MetaData, String, Table, Text

    metadata = MetaData()
    entries = Table(
        "entries",
        metadata,
        Column("run_id", String(64), primary_key=True),
        Column("version", Integer, nullable=False),
        Column("created", Float, nullable=False),
        Column("goal", String(40), nullable=False),
        Column("modality", String(40), nullable=False),
        Column("metric", String(40), nullable=False),
        Column("digest", String(64), nullable=False),
        Column("body", Text, nullable=False),
        Index("entries_by_task", "goal", "modality", "created"),
    )
    return metadata, entries


@cache
def aside_table() -> Table:
    """Rows that were damaged, as they were found: for whoever wants to look, never read by anything here."""
    from sqlalchemy import Column, Float, Integer, MetaData, String, Table, Text

    return Table(
        "damaged",
        MetaData(),
        Column("number", Integer, primary_key=True, autoincrement=True),
        Column("run_id", String(64), nullable=False),
        Column("found", Float, nullable=False),
        Column("row", Text, nullable=False),
    )


@cache
def first_table() -> Table:
    """Version 1: a column a fact, no digest."""
    from sqlalchemy import JSON, BigInteger, Column, Float, Integer, MetaData, String, Table

    words = ("goal", "language", "domain", "modality", "model", "method", "device")
    return Table(
        "runs",
        MetaData(),
        Column("run_id", String(64), primary_key=True),
        Column("version", Integer, nullable=False),
        Column("created", Float, nullable=False),
        *(Column(name, String(128), nullable=False) for name in words),
        Column("rows", Integer, nullable=False),
        Column("tokens_mean", Float, nullable=False),
        Column("parameters", BigInteger, nullable=False),
        Column("best", JSON, nullable=False),
        Column("metric", String(64), nullable=False),
        Column("base", Float),
        Column("tuned", Float),
        Column("trials", JSON, nullable=False),
        Column("device_seconds", Float, nullable=False),
    )


def row_of(entry: RunEntry) -> dict[str, Any]:
    """An entry as a row. The body is canonical JSON, so its hash is the entry's digest."""
    body = body_of(entry)
    return _found_by(entry) | {"digest": sha256(body.encode()).hexdigest(), "body": body}


def _found_by(entry: RunEntry) -> dict[str, Any]:
    """The columns that rows are found by."""
    mark = entry.fingerprint
    return {
        "run_id": entry.run_id,
        "version": SCHEMA,
        "created": entry.created,
        "goal": mark.goal,
        "modality": mark.modality,
        "metric": entry.metric,
    }


def entry_of(row: Mapping[Any, Any]) -> RunEntry | None:
    """A row as an entry; None where it is damaged or not of this version.

    The columns must say what the body says: a row is found by them.
    """
    try:
        if sha256(row["body"].encode()).hexdigest() != row["digest"]:
            return None
        entry = parsed(row["body"])
    except (ValueError, TypeError, AttributeError):
        return None
    return entry if all(row[name] == value for name, value in _found_by(entry).items()) else None


def put_rows_aside(connection: Connection, found: float) -> list[str]:
    """Moves damaged rows to a table of their own; their names.

    Args:
        connection: in a transaction that writes. found: unix seconds.
    """
    from sqlalchemy import delete, select

    _, entries = tables()
    names = []
    for row in connection.execute(select(entries)).fetchall():
        if entry_of(row._mapping) is None and row.version in (None, SCHEMA):
            _keep_aside(connection, str(row.run_id), dict(row._mapping), found)
            connection.execute(delete(entries).where(entries.c.run_id == row.run_id))
            names.append(str(row.run_id)[:64])
    return names


def put_first_rows_aside(connection: Connection, names: list[str], found: float) -> None:
    """The same for rows of the first version, whose table is about to go."""
    from sqlalchemy import Text, cast, select

    runs = first_table()
    raw = [cast(c, Text).label(c.name) for c in runs.columns]
    for row in connection.execute(select(*raw).where(runs.c.run_id.in_(names))).fetchall():
        _keep_aside(connection, str(row.run_id), dict(row._mapping), found)


def _keep_aside(connection: Connection, run_id: str, row: dict[str, Any], found: float) -> None:
    from sqlalchemy import insert

    aside = aside_table()
    aside.create(connection, checkfirst=True)
    text = json.dumps(row, ensure_ascii=False, default=repr)
    connection.execute(insert(aside).values(run_id=run_id[:64], found=found, row=text))


def first_entries(connection: Connection) -> tuple[list[RunEntry], list[str]]:
    """What the first version's table holds, if there is one: its entries, and the names of rows that are damaged."""
    from sqlalchemy import Text, cast, inspect, select

    if not inspect(connection).has_table("runs"):
        return [], []
    runs = first_table()
    raw = [c if c.name not in ("best", "trials") else cast(c, Text).label(c.name) for c in runs.columns]
    found: list[RunEntry] = []
    damaged: list[str] = []
    for row in connection.execute(select(*raw).order_by(runs.c.run_id)):
        values = dict(row._mapping)
        try:
            found.append(_upgraded(values))
        except (ValueError, TypeError, KeyError, AttributeError):
            damaged.append(str(values.get("run_id"))[:64])
    return found, damaged


def _upgraded(row: Mapping[str, Any]) -> RunEntry:
    """A row of version 1 as an entry.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: when it is damaged.
    """
    trials = [dict(one) for one in json.loads(row["trials"]) if one.get("parameters")]  # the final training had none
    prior = _first_prior([one["parameters"] for one in trials])
    names = ("goal", "language", "domain", "modality", "rows", "tokens_mean", "method", "parameters")
    entry = RunEntry(
        run_id=row["run_id"],
        created=row["created"],
        updated=row["created"],
        fingerprint=Fingerprint(
            **{name: row[name] for name in names}, model=_model(row["model"]), device=device_name(row["device"])
        ),
        best=json.loads(row["best"]),
        metric=row["metric"],
        base=row["base"],
        tuned=row["tuned"],
        trials=tuple(
            TrialRow(
                parameters=one["parameters"],
                prior=prior,
                tokens=one.get("tokens") or 0,
                score=one.get("metric"),
                nll=one.get("nll"),
                status=one.get("status", "finished"),
                symptom=one.get("symptom") or "",
            )
            for one in trials
        ),
        device_seconds=row["device_seconds"],
    )
    return parsed(json.dumps(plain(entry)))


def _first_prior(tried: list[dict[str, Any]]) -> dict[str, Any]:
    """What the first version's rules began with; empty where the trials do not show it."""
    rates = [one.get("learning_rate") for one in tried[: len(MULTIPLES)]]
    first = rates[0] if rates else None
    if not isinstance(first, float) or first <= 0:
        return {}
    for rate, multiple in zip(rates, MULTIPLES, strict=False):
        # Three digits were kept of a rate.
        if not isinstance(rate, float) or rate <= 0 or abs(math.log(rate / first / multiple)) > 0.02:
            return {}
    return dict(tried[0])


def _model(name: str) -> str:
    """A model's name without the path that a folder may have."""
    return name if name.count("/") <= 1 and not name.startswith(("/", ".", "~")) else name.rstrip("/").split("/")[-1]


def device_name(name: str) -> str:
    """A device's name in the letters that entries know."""
    kept = "".join(c for c in name if c.isascii() and (c.isalnum() or c in " ()@.,+_:-"))
    return " ".join(kept.split())[:80].strip()
