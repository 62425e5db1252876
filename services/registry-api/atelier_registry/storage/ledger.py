"""The ledger: every decision, as entries in a hash chain that shows when one was changed.

A decision that moves an alias or edits a style has two entries: `begun` is written before MLflow changes, `done` or `failed`
after. `proposed` is followed by `begun` (written by the approver) or `rejected`. The others stand alone: `refused`, `outside`,
`recorded` and `reverted`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from atelier_contracts.promotion import Decision
from sqlalchemy import Connection, Engine, Row, Select, select, text

from atelier_registry.errors import AliasBusyError
from atelier_registry.storage import outbox
from atelier_registry.storage.alias_moves import AliasMoves
from atelier_registry.storage.chain_reader import ChainReader
from atelier_registry.storage.database import read_transaction, write_transaction
from atelier_registry.storage.entries import (
    ADAPTER_DIGEST,
    STYLE,
    DecisionFacts,
    EntryKind,
    append,
    has_outcome,
    is_first,
    read_decision,
    style_details,
)
from atelier_registry.storage.style_changes import StyleChanges
from atelier_registry.storage.tables import entries

log = logging.getLogger(__name__)

_CHAIN_LOCK = 0x61746C_0002  # key of a PostgreSQL advisory lock: entries are appended one at a time
_LOGGED = {"id", "actor", "action", "model", "alias", "from_version", "to_version", "outcome", "forced"}


class Ledger:
    """Writes and reads decisions. Every method raises `DatabaseUnavailableError` where the database does not answer.

    Attributes:
        alias_moves: where aliases pointed.
        style_changes: how styles were edited.
        chain: the entries as they are stored.
        outbox: the events.
    """

    def __init__(self, engine: Engine, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._engine, self._clock = engine, clock
        self._listeners: list[Callable[[Decision], None]] = []
        self.alias_moves, self.style_changes = AliasMoves(engine), StyleChanges(engine)
        self.chain, self.outbox = ChainReader(engine), outbox.Outbox(engine)

    def ping(self) -> None:
        with read_transaction(self._engine) as connection:
            connection.execute(select(entries.c.id).limit(1)).first()

    def add_listener(self, listener: Callable[[Decision], None]) -> None:
        """Registers a function that is called with a decision each time one of its entries was written; it must not block."""
        self._listeners.append(listener)

    def open(self, kind: EntryKind, facts: DecisionFacts) -> Decision:
        """Writes the first entry of a decision; `outside` also adds an event, in the same transaction.

        Raises:
            AliasBusyError: another decision on the alias is pending, so the lock around this one was lost.
        """
        with self._append_transaction() as connection:
            if kind == "begun":
                _check_none_pending(connection, facts)
            decision_id = append(connection, None, kind, facts, self._clock())
            if kind == "outside":
                outbox.emit(connection, decision_id, facts)
        return self._publish(decision_id)

    def close(
        self, decision: Decision, kind: EntryKind, actor: str, reason: str, *, details: dict[str, Any] | None = None
    ) -> Decision:
        """Appends an entry to a decision; `done` also adds an event, in the same transaction."""
        kept: dict[str, Any] = {}
        if kind == "done" and decision.adapter_digest:
            kept[ADAPTER_DIGEST] = decision.adapter_digest
        if kind == "done" and decision.style:
            kept[STYLE] = style_details(decision.style)
        facts = DecisionFacts(
            actor=actor,
            action=decision.action,
            model=decision.model,
            alias=decision.alias,
            from_version=decision.from_version,
            to_version=decision.to_version,
            reason=reason,
            forced=decision.forced,
            details=kept | (details or {}),
        )
        with self._append_transaction() as connection:
            if kind == "begun":
                _check_none_pending(connection, facts)
            append(connection, decision.id, kind, facts, self._clock())
            if kind == "done" and (decision.alias is not None or decision.style is not None):
                outbox.emit(connection, decision.id, facts)
        return self._publish(decision.id)

    def find(self, decision_id: int) -> Decision | None:
        return next(iter(self._decisions(select(entries).where(entries.c.id == decision_id, is_first()))), None)

    def decision(self, decision_id: int) -> Decision:
        """A decision that is known to exist."""
        decision = self.find(decision_id)
        assert decision is not None
        return decision

    def page(
        self, model: str, alias: str | None = None, *, outcome: str | None = None, limit: int, before_id: int | None = None
    ) -> list[Decision]:
        """Decisions on a model, newest first, filtered by the arguments that are given."""
        query = select(entries).where(entries.c.model == model, is_first()).order_by(entries.c.id.desc()).limit(limit)
        if alias is not None:
            query = query.where(entries.c.alias == alias)
        if before_id is not None:
            query = query.where(entries.c.id < before_id)
        if outcome is not None:
            query = query.where(has_outcome(outcome))
        return self._decisions(query)

    def pending(self, model: str | None = None, alias: str | None = None) -> list[Decision]:
        """Decisions that were begun and not completed, oldest first.

        Args:
            model: None: of every model.
            alias: None, with a model: those that concern no alias.
        """
        query = select(entries).where(is_first(), has_outcome("pending")).order_by(entries.c.id)
        if model is not None:
            query = query.where(entries.c.model == model, entries.c.alias == alias if alias else entries.c.alias.is_(None))
        return self._decisions(query)

    def by_key(self, actor: str, key: str) -> Decision | None:
        """The actor's latest decision with this idempotency key (its sha256)."""
        query = select(entries).where(entries.c.actor == actor, entries.c.key == key, is_first())
        return next(iter(self._decisions(query.order_by(entries.c.id.desc()).limit(1))), None)

    def request_fingerprint(self, decision_id: int) -> str | None:
        """Fingerprint of the request that led to a decision."""
        with read_transaction(self._engine) as connection:
            details = connection.execute(select(entries.c.details).where(entries.c.id == decision_id)).scalar()
        return json.loads(details).get("request") if details else None

    def last_revert(self, model: str, alias: str) -> Decision | None:
        """The latest decision that recorded a revert by infer."""
        query = select(entries).where(entries.c.model == model, entries.c.alias == alias, entries.c.kind == "reverted")
        return next(iter(self._decisions(query.order_by(entries.c.id.desc()).limit(1))), None)

    def _publish(self, decision_id: int) -> Decision:
        """Logs a decision whose newest entry was just written, and calls the listeners. The log line also keeps the hash."""
        decision = self.decision(decision_id)
        fields = decision.model_dump(include=_LOGGED | {ADAPTER_DIGEST, "chain_entry", "chain_hash"})
        log.info("decision", extra={"fields": fields})
        for listener in self._listeners:
            listener(decision)
        return decision

    def _decisions(self, query: Select[Any]) -> list[Decision]:
        with read_transaction(self._engine) as connection:
            firsts = connection.execute(query).all()
            if not firsts:
                return []
            all_entries = select(entries).where(entries.c.decision.in_([row.id for row in firsts])).order_by(entries.c.id)
            rows: dict[int, list[Row[Any]]] = {}
            for row in connection.execute(all_entries):
                rows.setdefault(row.decision, []).append(row)
        return [read_decision(rows[row.id]) for row in firsts]

    @contextmanager
    def _append_transaction(self) -> Iterator[Connection]:
        with write_transaction(self._engine) as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CHAIN_LOCK})
            yield connection


def _check_none_pending(connection: Connection, facts: DecisionFacts) -> None:
    pending = select(entries.c.id).where(
        entries.c.model == facts.model, entries.c.alias == facts.alias, is_first(), has_outcome("pending")
    )
    if facts.alias is not None and connection.execute(pending).first() is not None:
        raise AliasBusyError(facts.model, facts.alias, 0)
