"""How far each subscriber is in the events, kept in the database so that nothing is lost over a restart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, Engine, func, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from atelier_registry.errors import DatabaseUnavailableError
from atelier_registry.storage import hash_chain
from atelier_registry.storage.tables import events, places


@dataclass(frozen=True)
class WebhookOffset:
    """Where a subscriber is.

    Attributes:
        name: the subscriber's.
        event: id of the last event that it took, did not want, or that was left out.
        tries: how often the next one was refused.
        refused_since: when that began.
        next_try: not before this.
        problem: why it was refused the last time.
        taken_at: when it last took an event.
    """

    name: str
    event: int
    tries: int = 0
    refused_since: datetime | None = None
    next_try: datetime | None = None
    problem: str | None = None
    taken_at: datetime | None = None


class WebhookOffsets:
    """The table of them."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._writer = engine, engine.execution_options(immediate=True)

    def enter(self, name: str) -> None:
        """Begins after the newest event, unless the subscriber has a place already.

        Raises:
            DatabaseUnavailableError: from this and every other method, where the database does not answer.
        """
        if self.find(name) is not None:
            return
        try:
            with self._open(self._writer) as connection:
                newest = connection.execute(select(func.max(events.c.id))).scalar() or 0
                connection.execute(insert(places).values(name=name, event=newest, tries=0))
        except DatabaseUnavailableError as error:
            if not isinstance(error.__cause__, IntegrityError):  # another process was first
                raise

    def find(self, name: str) -> WebhookOffset | None:
        """Where a subscriber is; None before it was entered."""
        with self._open(self._engine) as connection:
            row = connection.execute(select(places).where(places.c.name == name)).first()
        if row is None:
            return None
        times = {key: _time(getattr(row, key)) for key in ("refused_since", "next_try", "taken_at")}
        return WebhookOffset(name=row.name, event=row.event, tries=row.tries, problem=row.problem, **times)

    def passed(self, name: str, event: int, *, taken: bool) -> None:
        """The event is behind it: taken, or unwanted, or left out."""
        done = {"taken_at": hash_chain.timestamp(datetime.now(UTC))} if taken else {}
        self._update(name, event=event, tries=0, refused_since=None, next_try=None, problem=None, **done)

    def refused(self, place: WebhookOffset, problem: str, wait_s: float) -> None:
        """The next event was refused; it is tried again after `wait_s`."""
        now = datetime.now(UTC)
        self._update(
            place.name,
            tries=place.tries + 1,
            refused_since=hash_chain.timestamp(place.refused_since or now),
            next_try=hash_chain.timestamp(now + timedelta(seconds=wait_s)),
            problem=problem,
        )

    def _update(self, name: str, **values: object) -> None:
        with self._open(self._writer) as connection:
            connection.execute(update(places).where(places.c.name == name).values(**values))

    @contextmanager
    def _open(self, engine: Engine) -> Iterator[Connection]:
        try:
            with engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise DatabaseUnavailableError from error


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
