"""Reads the chain of entries as it is stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Engine, select

from atelier_registry.storage import hash_chain
from atelier_registry.storage.database import read_transaction
from atelier_registry.storage.tables import entries


class ChainReader:
    """Every method raises `DatabaseUnavailableError` where the database does not answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def head(self) -> tuple[int, str]:
        """Number and hash of the newest entry; 0 and `hash_chain.GENESIS` before the first."""
        query = select(entries.c.id, entries.c.hash).order_by(entries.c.id.desc()).limit(1)
        with read_transaction(self._engine) as connection:
            newest = connection.execute(query).first()
        return (newest.id, newest.hash) if newest else (0, hash_chain.GENESIS)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every entry, by number, read in batches."""
        with read_transaction(self._engine) as connection:
            for row in connection.execution_options(yield_per=500).execute(select(entries).order_by(entries.c.id)):
                yield dict(row._mapping)

    def rows_from(self, first: int, limit: int) -> list[dict[str, Any]]:
        """Entries from a number on."""
        query = select(entries).where(entries.c.id >= first).order_by(entries.c.id).limit(limit)
        with read_transaction(self._engine) as connection:
            return [dict(row._mapping) for row in connection.execute(query)]
