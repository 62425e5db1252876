"""Opens the database, and runs transactions on it. SQLAlchemy's exceptions end here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError

from atelier_registry.errors import DatabaseUnavailableError
from atelier_registry.storage.tables import SCHEMA


def open_database(url: str) -> Engine:
    """Opens a SQLite file or a PostgreSQL database; nothing connects before the first transaction.

    SQLite runs in WAL mode, so readers do not wait for a writer, with full fsync. On PostgreSQL the tables are in `SCHEMA`.
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


@contextmanager
def read_transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads.

    Raises:
        DatabaseUnavailableError: the database does not answer.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except SQLAlchemyError as error:
        raise DatabaseUnavailableError from error


@contextmanager
def write_transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes; on SQLite it takes the write lock at once.

    Raises:
        DatabaseUnavailableError: the database does not answer.
    """
    with read_transaction(engine.execution_options(immediate=True)) as connection:
        yield connection


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver would begin late and without the write lock
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _begin_sqlite(connection: Any) -> None:
    immediate = connection.get_execution_options().get("immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
