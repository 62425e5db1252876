"""The tables of this service, and how its database is opened. `migrations/` makes them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Engine,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    make_url,
)

SCHEMA = "atelier_registry"
"""Where the tables are on PostgreSQL: MLflow's own, and its version table, stay in `public`."""

metadata = MetaData()

entries = Table(
    "entries",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),  # 1, 2, 3, … without gaps
    Column("decision", BigInteger, nullable=False),  # id of the entry that the decision began with
    Column("kind", String(16), nullable=False),
    Column("at", String(27), nullable=False),  # UTC with microseconds and Z, so that text order is time order
    Column("actor", String(255), nullable=False),  # id of the token, never the token
    Column("action", String(16), nullable=False),
    Column("model", String(256), nullable=False),
    Column("alias", String(256), nullable=True),
    Column("from_version", Integer, nullable=True),
    Column("to_version", Integer, nullable=True),
    Column("reason", Text, nullable=False),
    Column("forced", Boolean, nullable=False),
    Column("key", String(64), nullable=True),  # sha256 of the idempotency key
    Column("details", Text, nullable=False),  # JSON: verdicts with the numbers that they saw
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("entries_of_a_decision", "decision"),
    Index("entries_of_an_alias", "model", "alias", "id"),
    Index("entries_of_a_key", "actor", "key"),
)
"""Append-only: triggers refuse UPDATE and DELETE, and each row's hash covers the row before."""

events = Table(
    "events",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("at", String(27), nullable=False),
    Column("model", String(256), nullable=False),
    Column("alias", String(256), nullable=False),
    Column("from_version", Integer, nullable=True),
    Column("to_version", Integer, nullable=True),
    Column("decision", BigInteger, nullable=False),
)
"""The outbox: written in the transaction that ends a decision, so that an event is never lost nor told too early."""


places = Table(
    "places",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("event", BigInteger, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("refused_since", String(27), nullable=True),
    Column("next_try", String(27), nullable=True),
    Column("problem", Text, nullable=True),
    Column("taken_at", String(27), nullable=True),
)
"""How far each subscriber is in the events; times as in the entries."""


def open_database(url: str) -> Engine:
    """An engine whose `begin()` reads, and whose option `immediate` makes SQLite take its write lock at once.

    On SQLite readers do not wait for a writer, and what was answered is on the disk. On PostgreSQL the tables are in `SCHEMA`.
    """
    if make_url(url).get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": 30})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    return create_engine(
        make_url(url).set(drivername="postgresql+psycopg2"),  # the one that is installed, whatever SQLAlchemy's default
        pool_pre_ping=True,
        pool_timeout=10,
        connect_args={"connect_timeout": 5, "options": f"-csearch_path={SCHEMA} -cstatement_timeout=15000"},
    )


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver would begin late and without the write lock
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _begin_sqlite(connection: Any) -> None:
    immediate = connection.get_execution_options().get("immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
