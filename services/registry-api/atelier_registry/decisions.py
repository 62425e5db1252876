"""Decisions on aliases, kept in the order in which they were made.

A decision is written as `pending`, then the alias is set, then it becomes `done`, or `failed` where the alias did not move.
Only `done` ones are ever shown. SQLAlchemy's exceptions end here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

from atelier_contracts.promotion import Decision
from sqlalchemy import Connection, Engine, Row, Select, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from atelier_registry.errors import DatabaseUnavailableError
from atelier_registry.tables import DONE, FAILED, PENDING, decisions

Action = Literal["promote", "rollback"]


class DecisionLog:
    """The table of decisions. Every method raises `DatabaseUnavailableError` where the database does not answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ping(self) -> None:
        """Returns when the table can be read."""
        with self._connection() as connection:
            connection.execute(select(decisions.c.id).limit(1)).first()

    def begin(
        self, *, actor: str, action: Action, model: str, alias: str, from_version: int | None, to_version: int, reason: str
    ) -> Decision:
        """Writes a decision down as pending."""
        facts: dict[str, Any] = {
            "at": datetime.now(UTC),
            "actor": actor,
            "action": action,
            "model": model,
            "alias": alias,
            "from_version": from_version,
            "to_version": to_version,
            "reason": reason,
        }
        with self._connection() as connection:
            key = connection.execute(insert(decisions).values(**facts, state=PENDING)).inserted_primary_key
        assert key is not None  # an insert of one row has one
        return Decision(id=key[0], **facts)

    def finish(self, id: int) -> None:
        """The alias moved."""
        self._become(id, DONE)

    def fail(self, id: int) -> None:
        """The alias did not move."""
        self._become(id, FAILED)

    def pending(self) -> list[Decision]:
        """Every decision whose outcome is not known, oldest first."""
        return self._read(_some(PENDING).order_by(decisions.c.id))

    def pending_on(self, model: str, alias: str) -> list[Decision]:
        """The same, of one alias."""
        return self._read(_some(PENDING, model, alias).order_by(decisions.c.id))

    def last(self, model: str, alias: str) -> Decision | None:
        """The latest decision on an alias that was carried out."""
        return next(iter(self.page(model, alias, limit=1)), None)

    def moves(self, model: str, alias: str) -> list[Decision]:
        """All decisions on an alias that were carried out, oldest first."""
        return self._read(_some(DONE, model, alias).order_by(decisions.c.id))

    def page(self, model: str, alias: str | None = None, *, limit: int, before_id: int | None = None) -> list[Decision]:
        """Decisions that were carried out, newest first, those with an id below `before_id` where it is given."""
        query = _some(DONE, model, alias).order_by(decisions.c.id.desc()).limit(limit)
        return self._read(query if before_id is None else query.where(decisions.c.id < before_id))

    def _become(self, id: int, state: str) -> None:
        with self._connection() as connection:
            connection.execute(update(decisions).where(decisions.c.id == id).values(state=state))

    def _read(self, query: Select[Any]) -> list[Decision]:
        with self._connection() as connection:
            return [_decision(row) for row in connection.execute(query)]

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise DatabaseUnavailableError from error


def _some(state: str, model: str | None = None, alias: str | None = None) -> Select[Any]:
    query = select(decisions).where(decisions.c.state == state)
    if model is not None:
        query = query.where(decisions.c.model == model)
    return query if alias is None else query.where(decisions.c.alias == alias)


def _decision(row: Row[Any]) -> Decision:
    facts = dict(row._mapping)
    del facts["state"]
    return Decision(**facts | {"at": facts["at"].replace(tzinfo=UTC)})  # SQLite forgets the zone of a time
