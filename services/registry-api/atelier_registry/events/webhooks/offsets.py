"""Each subscriber's position in the events, stored in the database so that nothing is lost over a restart."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from atelier_registry.errors import DatabaseUnavailableError
from atelier_registry.storage import hash_chain
from atelier_registry.storage.database import read_transaction, write_transaction
from atelier_registry.storage.tables import events, webhook_offsets


@dataclass(frozen=True)
class WebhookOffset:
    """A subscriber's position.

    Attributes:
        event_id: of the last event that was delivered, filtered out or given up.
        failed_attempts: to deliver the next event.
        failing_since: time of the first of them.
        next_attempt_at: not before this time.
        problem: of the last attempt.
        last_delivered_at: when an event was last delivered.
    """

    subscriber: str
    event_id: int
    failed_attempts: int = 0
    failing_since: datetime | None = None
    next_attempt_at: datetime | None = None
    problem: str | None = None
    last_delivered_at: datetime | None = None


class WebhookOffsets:
    """Reads and writes positions. Every method raises `DatabaseUnavailableError` where the database does not answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, subscriber: str) -> None:
        """Starts after the newest event, unless the subscriber has a position."""
        if self.find(subscriber) is not None:
            return
        try:
            with write_transaction(self._engine) as connection:
                newest = connection.execute(select(func.max(events.c.id))).scalar() or 0
                row = {"subscriber": subscriber, "event_id": newest, "failed_attempts": 0}
                connection.execute(insert(webhook_offsets).values(**row))
        except DatabaseUnavailableError as error:
            if not isinstance(error.__cause__, IntegrityError):  # another process was first
                raise

    def find(self, subscriber: str) -> WebhookOffset | None:
        """None before `add`."""
        with read_transaction(self._engine) as connection:
            query = select(webhook_offsets).where(webhook_offsets.c.subscriber == subscriber)
            row = connection.execute(query).first()
        if row is None:
            return None
        times = {name: _parse_time(getattr(row, name)) for name in ("failing_since", "next_attempt_at", "last_delivered_at")}
        return WebhookOffset(
            subscriber=row.subscriber,
            event_id=row.event_id,
            failed_attempts=row.failed_attempts,
            problem=row.problem,
            **times,
        )

    def advance(self, subscriber: str, event_id: int, *, delivered: bool) -> None:
        """Moves past an event: delivered, filtered out or given up."""
        times = {"last_delivered_at": hash_chain.timestamp(datetime.now(UTC))} if delivered else {}
        self._update(
            subscriber, event_id=event_id, failed_attempts=0, failing_since=None, next_attempt_at=None, problem=None, **times
        )

    def record_failure(self, offset: WebhookOffset, problem: str, retry_in_s: float) -> None:
        """The next event could not be delivered, and is tried again after `retry_in_s`."""
        now = datetime.now(UTC)
        self._update(
            offset.subscriber,
            failed_attempts=offset.failed_attempts + 1,
            failing_since=hash_chain.timestamp(offset.failing_since or now),
            next_attempt_at=hash_chain.timestamp(now + timedelta(seconds=retry_in_s)),
            problem=problem,
        )

    def _update(self, subscriber: str, **values: object) -> None:
        with write_transaction(self._engine) as connection:
            query = update(webhook_offsets).where(webhook_offsets.c.subscriber == subscriber)
            connection.execute(query.values(**values))


def _parse_time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
