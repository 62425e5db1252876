"""The tables of this service, and how its database is opened."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, DateTime, Engine, Index, Integer, MetaData, String, Table, Text, create_engine, event

metadata = MetaData()

PENDING, DONE, FAILED = "pending", "done", "failed"
"""States of a decision: written down before the alias moves; the alias moved; the alias did not move."""

decisions = Table(
    "decisions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),  # UTC
    Column("actor", String(255), nullable=False),  # id of the token, never the token
    Column("action", String(16), nullable=False),
    Column("model", String(256), nullable=False),
    Column("alias", String(63), nullable=False),
    Column("from_version", Integer, nullable=True),
    Column("to_version", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Index("decisions_of_an_alias", "model", "alias", "id"),
    sqlite_autoincrement=True,  # an id is never given twice
)


def open_database(url: str) -> Engine:
    """An engine for a SQLite file: readers do not wait for a writer, and a decision is on the disk when it is answered."""
    engine = create_engine(url, connect_args={"timeout": 5})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    return engine


def create_tables(engine: Engine) -> None:
    """Creates what is missing; existing tables are left alone."""
    metadata.create_all(engine)
