"""What runs taught: one row a run, kept by run id, found again by likeness of the task.

Only words of fixed lists, counts, settings and scores are kept: no sentence, no data, no path, no user's name.
`$AUTOSWIFT_KNOWLEDGE_URL` names another database (for instance postgresql+psycopg://…) shared by several machines.
Callers treat every error from here as a warning: a run never fails for what it cannot remember.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any

from autoswift.errors import InputError
from autoswift.run.files import plain
from autoswift.run.places import home
from autoswift.tables import explain

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, MetaData, Row, Table

LOCK_SECONDS = 5.0
"""How long a writer waits for another process; rows are written in milliseconds."""
WEIGHTS = {"goal": 0.30, "domain": 0.20, "language": 0.15, "parameters": 0.15, "rows": 0.10, "tokens_mean": 0.05,
           "method": 0.05}  # fmt: skip
"""Share of each fact in the likeness of two tasks. The goal fixes the metric, so it weighs most; good learning rates
follow the model's size more than its name; the amount of data fixes how long training lasts."""
SCALE = {"parameters": math.log(10), "rows": math.log(100), "tokens_mean": math.log(10)}
"""At this ratio two numbers have nothing in common any more: a tenfold model, a hundredfold data set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """A task as words and counts.

    Attributes:
        rows: of training data. tokens_mean: of a row.
        model: its catalogue name, or the name of a local folder. parameters: its size.
        device: kind and name of the device.
    """

    goal: str
    language: str
    domain: str
    modality: str = "text"
    rows: int = 0
    tokens_mean: float = 0.0
    model: str = ""
    parameters: int = 0
    method: str = ""
    device: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEntry:
    """What one run taught.

    Attributes:
        created: unix seconds.
        best: the winner's parameters.
        metric: its name; base and tuned are its values before and after.
        trials: each {"parameters", "metric", "status"}.
        device_seconds: that the whole run took.
    """

    run_id: str
    created: float
    fingerprint: Fingerprint
    best: dict[str, Any] = field(default_factory=dict)
    metric: str = ""
    base: float | None = None
    tuned: float | None = None
    trials: tuple[dict[str, Any], ...] = ()
    device_seconds: float = 0.0


def record(entry: RunEntry) -> None:
    """Keeps an entry; the same run id again replaces it.

    Raises:
        InputError: when the database cannot be written.
    """
    from sqlalchemy import delete, insert

    row = _row(entry)
    with _connection() as (connection, runs):
        connection.execute(delete(runs).where(runs.c.run_id == entry.run_id))
        connection.execute(insert(runs).values(**row))


def all_entries() -> list[RunEntry]:
    """Every entry, newest first.

    Raises:
        InputError: when the database cannot be read.
    """
    from sqlalchemy import select

    with _connection() as (connection, runs):
        rows = connection.execute(select(runs).order_by(runs.c.created.desc(), runs.c.run_id)).all()
    return [_entry(row) for row in rows]


def similar(fingerprint: Fingerprint, limit: int = 5) -> list[tuple[RunEntry, float]]:
    """Entries most like a task, with their likeness from 0 to 1; ties go to the newer one.

    Args:
        fingerprint: of the task; facts that are not known yet (empty, 0) are left out of the comparison.
        limit: entries at most.

    Raises:
        InputError: when the database cannot be read.
    """
    found = [(entry, similarity(fingerprint, entry.fingerprint)) for entry in all_entries()]
    return sorted((pair for pair in found if pair[1] > 0), key=lambda pair: -pair[1])[:limit]


def similarity(one: Fingerprint, other: Fingerprint) -> float:
    """Weighted share of what two tasks have in common; 0 when their modality differs, since no setting carries over."""
    if one.modality != other.modality:
        return 0.0
    total = common = 0.0
    for name, weight in WEIGHTS.items():
        left, right = getattr(one, name), getattr(other, name)
        if not left or not right:
            continue
        total += weight
        if name in SCALE:
            common += weight * max(0.0, 1.0 - abs(math.log(left) - math.log(right)) / SCALE[name])
        elif left == right:
            common += weight
        elif name == "language" and "mixed" in (left, right):
            common += weight / 2
    return common / total if total else 0.0


def forget(run_id: str) -> bool:
    """Removes an entry.

    Returns:
        Whether there was one.

    Raises:
        InputError: when the database cannot be written.
    """
    from sqlalchemy import delete

    with _connection() as (connection, runs):
        return bool(connection.execute(delete(runs).where(runs.c.run_id == run_id)).rowcount)


def database_url() -> str:
    """Where entries are kept."""
    return os.environ.get("AUTOSWIFT_KNOWLEDGE_URL") or f"sqlite:///{home() / 'knowledge.db'}"


@contextmanager
def _connection() -> Iterator[tuple[Connection, Table]]:
    """A transaction, and the table (made when absent)."""
    from sqlalchemy.exc import SQLAlchemyError

    url = database_url()
    try:
        if url.startswith("sqlite"):
            home().mkdir(parents=True, exist_ok=True)
        engine = _engine(url)
        metadata, runs = _schema()
        with engine.begin() as connection:
            metadata.create_all(connection)
            yield connection, runs
    except (SQLAlchemyError, OSError, ValueError, KeyError, ImportError) as exc:
        reason = str(getattr(exc, "orig", None) or exc).splitlines()[0]
        busy = "locked" in reason or "busy" in reason
        raise InputError(
            *explain("knowledge.busy" if busy else "knowledge.broken", evidence=reason, path=home() / "knowledge.db")
        ) from exc


@cache
def _engine(url: str) -> Engine:
    from sqlalchemy import create_engine, event
    from sqlalchemy.pool import NullPool

    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)
    # No pool: a connection kept open would hold the file after a test or a `mv`.
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": LOCK_SECONDS})

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")  # readers go on while a run writes
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    return engine


@cache
def _schema() -> tuple[MetaData, Table]:
    from sqlalchemy import JSON, BigInteger, Column, Float, Integer, MetaData, String, Table

    metadata = MetaData()
    words = ("goal", "language", "domain", "modality", "model", "method", "device")
    runs = Table(
        "runs",
        metadata,
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
    return metadata, runs


VERSION = 1


def _row(entry: RunEntry) -> dict[str, Any]:
    return {
        "run_id": entry.run_id,
        "version": VERSION,
        "created": entry.created,
        **asdict(entry.fingerprint),
        "best": plain(entry.best),
        "metric": entry.metric,
        "base": plain(entry.base),
        "tuned": plain(entry.tuned),
        "trials": plain(list(entry.trials)),
        "device_seconds": entry.device_seconds,
    }


def _entry(row: Row[Any]) -> RunEntry:
    values = row._mapping
    return RunEntry(
        run_id=values["run_id"],
        created=values["created"],
        fingerprint=Fingerprint(**{f.name: values[f.name] for f in fields(Fingerprint)}),
        best=dict(values["best"]),
        metric=values["metric"],
        base=values["base"],
        tuned=values["tuned"],
        trials=tuple(dict(one) for one in values["trials"]),
        device_seconds=values["device_seconds"],
    )
