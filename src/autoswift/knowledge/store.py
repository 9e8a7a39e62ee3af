"""What runs taught, kept by run id: SQLite in `$AUTOSWIFT_HOME`, or a team's database.

`$AUTOSWIFT_KNOWLEDGE_URL` names another database (for instance postgresql+psycopg://…) shared by several machines.
Callers of a run treat every error from here as a warning: a run never fails for what it cannot remember. A row carries
a digest over all that it says; one that is damaged is named and left out, and put into a table of its own when the
database is next written to. A file whose pages are damaged may have lost rows: that is named too.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from autoswift.errors import InputError
from autoswift.knowledge.entry import Fingerprint, RunEntry, TrialRow, Verdict, checked
from autoswift.knowledge.likeness import similarity
from autoswift.knowledge.schema import (
    aside_table,
    entry_of,
    first_entries,
    first_table,
    put_first_rows_aside,
    put_rows_aside,
    row_of,
    tables,
)
from autoswift.run.places import home
from autoswift.tables import explain

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = [
    "Fingerprint",
    "Memory",
    "RunEntry",
    "TrialRow",
    "all_entries",
    "database_url",
    "feedback",
    "forget",
    "forget_all",
    "get",
    "keep_all",
    "read",
    "record",
    "similar",
    "similarity",
]

LOCK_SECONDS = 5.0
"""How long a writer waits for another process; rows are written in milliseconds."""
NEWEST = 500
"""Entries that planning looks at: reading them takes under half a second, and older ones speak of older models."""
TEAM_LOCK = 7_305_221
"""Number of PostgreSQL's advisory lock that makes one writer at a time change the tables; any number of our own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is kept.

    Attributes:
        entries: newest first. damaged: names of the rows that were left out, and the file's where rows may be missing.
    """

    entries: tuple[RunEntry, ...] = ()
    damaged: tuple[str, ...] = ()


def read(goal: str = "", modality: str = "", limit: int = 0) -> Memory:
    """The entries, newest first; none where there is no database yet (nothing is made then).

    Args:
        goal, modality: only entries of these, where given.
        limit: the newest so many; 0 takes all.

    Raises:
        InputError: when the database cannot be read.
    """
    if _absent():
        return Memory()
    from sqlalchemy import inspect, or_, select  # a third of a second, which a plan without a memory does not pay

    wanted = {"goal": goal, "modality": modality}
    found: dict[str, RunEntry] = {}
    with _connection(write=False) as connection:
        old, damaged = first_entries(connection)
        damaged += _page_damage(connection)
        for one in old:
            if all(not word or getattr(one.fingerprint, name) == word for name, word in wanted.items()):
                found[one.run_id] = one
        _, entries = tables()
        if inspect(connection).has_table(entries.name):
            query = select(entries).order_by(entries.c.created.desc(), entries.c.run_id)
            for name, word in wanted.items():
                # By the body too: a row whose column is damaged would be missed without a word.
                says = entries.c.body.contains(f'"{name}":"{word}"', autoescape=True)
                query = query.where(or_(entries.c[name] == word, says)) if word else query
            for row in connection.execute(query.limit(limit) if limit else query):
                entry = entry_of(row._mapping)
                if entry is None:
                    damaged.append("".join(c for c in str(row.run_id)[:64] if c.isprintable()))
                else:
                    found[entry.run_id] = entry
    ordered = sorted(found.values(), key=lambda one: (-one.created, one.run_id))
    return Memory(entries=tuple(ordered[:limit] if limit else ordered), damaged=tuple(sorted(damaged)))


def _page_damage(connection: Connection) -> list[str]:
    """The file's name when its pages or its index are not what they should be: rows may be missing then.

    A digest finds a changed row, not one that a damaged page no longer shows. Ten megabytes take 30 ms.
    """
    from sqlalchemy import text

    if connection.dialect.name != "sqlite":
        return []
    found = connection.scalar(text("PRAGMA integrity_check(1)"))
    return [] if found == "ok" else [f"knowledge.db ({str(found).splitlines()[-1][:80]})"]


def all_entries() -> list[RunEntry]:
    """Every whole entry, newest first.

    Raises:
        InputError: when the database cannot be read.
    """
    return list(read().entries)


def get(run_id: str) -> RunEntry:
    """The entry of a run, by its id or a unique start of it.

    Raises:
        InputError: when there is none, or several.
    """
    found = [one for one in read().entries if one.run_id.startswith(run_id)]
    found = [one for one in found if one.run_id == run_id] or found
    if len(found) != 1 or not run_id:
        raise InputError(*explain("knowledge.several" if len(found) > 1 else "knowledge.absent", run=run_id))
    return found[0]


def similar(fingerprint: Fingerprint, limit: int = 5) -> list[tuple[RunEntry, float]]:
    """Entries most like a task, with their likeness from 0 to 1; ties by run id.

    Raises:
        InputError: when the database cannot be read.
    """
    memory = read(fingerprint.goal, fingerprint.modality)
    found = [(entry, similarity(fingerprint, entry.fingerprint)) for entry in memory.entries]
    ranked = sorted((pair for pair in found if pair[1] > 0), key=lambda pair: (-pair[1], pair[0].run_id))
    return ranked[:limit]


def record(entry: RunEntry) -> None:
    """Keeps an entry; the same run id again replaces it, so that a later evaluation is what counts.

    Raises:
        InputError: when something in it has no place here, or the database cannot be written.
    """
    keep_all([entry])


def keep_all(entries: Iterable[RunEntry]) -> None:
    """Keeps several entries, all or none.

    Raises:
        InputError: as `record`.
    """
    from sqlalchemy import delete, insert

    rows = [row_of(checked(entry)) for entry in entries]
    _, table = tables()
    with _connection(write=True) as connection:
        put_rows_aside(connection, time.time())
        for row in rows:
            connection.execute(delete(table).where(table.c.run_id == row["run_id"]))
            connection.execute(insert(table).values(**row))


def feedback(run_id: str, verdict: Verdict, updated: float) -> None:
    """Notes what became of a run's result later: `vetoed` by its user, or another evaluation's word.

    Args:
        updated: unix seconds.

    Raises:
        InputError: when nothing is kept of the run, or the database cannot be written.
    """
    record(replace(get(run_id), verdict=verdict, updated=updated))


def forget(run_id: str) -> bool:
    """Removes an entry and what the file still held of it.

    Returns:
        Whether there was one.

    Raises:
        InputError: when the database cannot be written.
    """
    return _forget(run_id) > 0


def forget_all() -> int:
    """Removes every entry; returns how many there were.

    Raises:
        InputError: when the database cannot be written.
    """
    return _forget(None)


def _forget(run_id: str | None) -> int:
    from sqlalchemy import delete

    if _absent():
        return 0
    _, table = tables()
    with _connection(write=True) as connection:
        gone = 0
        for one in (table, aside_table()):
            one.create(connection, checkfirst=True)
            query = delete(one) if run_id is None else delete(one).where(one.c.run_id == run_id)
            gone += int(connection.execute(query).rowcount)
    if gone:
        _truncate_log()
    return gone


def _truncate_log() -> None:
    """Moves the write-ahead log into the file and empties it, so that what was deleted stands nowhere."""
    from sqlalchemy.exc import SQLAlchemyError

    url = database_url()
    if not url.startswith("sqlite"):
        return
    with suppress(SQLAlchemyError):  # another process reads: its last connection does it
        raw = _engine(url).raw_connection()
        try:
            raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            raw.close()


def database_url() -> str:
    """Where entries are kept."""
    return os.environ.get("AUTOSWIFT_KNOWLEDGE_URL") or f"sqlite:///{home() / 'knowledge.db'}"


def _absent() -> bool:
    """Whether the default database was never made."""
    return not os.environ.get("AUTOSWIFT_KNOWLEDGE_URL") and not (home() / "knowledge.db").exists()


@contextmanager
def _connection(*, write: bool) -> Iterator[Connection]:
    """A transaction; a writer finds the tables in this version's shape.

    Raises:
        InputError: when the database cannot be used so.
    """
    from sqlalchemy.exc import SQLAlchemyError

    url = database_url()
    try:
        if write and not os.environ.get("AUTOSWIFT_KNOWLEDGE_URL"):
            home().mkdir(parents=True, exist_ok=True)
        with _engine(url).connect().execution_options(autoswift_write=write) as connection, connection.begin():
            if write:
                _upgrade(connection)
            yield connection
    except (SQLAlchemyError, sqlite3.Error, OSError, ValueError, KeyError, ImportError) as exc:
        reason = str(getattr(exc, "orig", None) or exc).splitlines()[0]
        busy = "locked" in reason or "busy" in reason
        raise InputError(
            *explain("knowledge.busy" if busy else "knowledge.broken", evidence=reason, path=home() / "knowledge.db")
        ) from exc


def _upgrade(connection: Connection) -> None:
    """Makes the tables; moves what the first version kept, once."""
    from sqlalchemy import insert, inspect, select, text

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": TEAM_LOCK})
    metadata, table = tables()
    metadata.create_all(connection)
    if not inspect(connection).has_table("runs"):
        return
    known = set(connection.scalars(select(table.c.run_id)))
    old, damaged = first_entries(connection)
    for entry in old:
        if entry.run_id not in known:
            connection.execute(insert(table).values(**row_of(entry)))
    put_first_rows_aside(connection, damaged, time.time())
    first_table().drop(connection)


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
        connection.isolation_level = None  # transactions begin where the next listener says
        cursor = connection.cursor()
        with suppress(sqlite3.OperationalError):  # a file that may only be read stays as it is
            cursor.execute("PRAGMA journal_mode=WAL")  # readers go on while a run writes
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA secure_delete=ON")  # what is forgotten is overwritten
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        # A writer takes the lock at once: two that had both read could not both go on to write.
        writes = connection.get_execution_options().get("autoswift_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
