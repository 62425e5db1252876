"""The outbox: events about moved aliases and edited styles, in the order in which they are sent."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, select

from atelier_registry.storage import hash_chain
from atelier_registry.storage.database import read_transaction
from atelier_registry.storage.entries import ADAPTER_DIGEST, MOVE_KINDS, STYLE, DecisionFacts
from atelier_registry.storage.tables import NO_ALIAS, entries, events


class Outbox:
    """Reads events. Every method raises `DatabaseUnavailableError` where the database does not answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def events_after(self, event_id: int, limit: int) -> list[dict[str, Any]]:
        """Events with a greater id, oldest first, as fields of `AliasMoved`, or of `StyleEdited` where they have `edits`."""
        with read_transaction(self._engine) as connection:
            query = select(events).where(events.c.id > event_id).order_by(events.c.id).limit(limit)
            rows = [dict(row._mapping) for row in connection.execute(query)]
            if not rows:
                return []
            moves = select(entries.c.decision, entries.c.id, entries.c.hash, entries.c.details).where(
                entries.c.decision.in_({row["decision"] for row in rows}), entries.c.kind.in_(MOVE_KINDS)
            )
            entry_of = {entry.decision: entry for entry in connection.execute(moves.order_by(entries.c.id))}
        for row in rows:
            entry = entry_of.get(row["decision"])
            details = json.loads(entry.details) if entry else {}
            if row["alias"] == NO_ALIAS:
                row["edits"] = details[STYLE]["after"]
            row["adapter_digest"] = details.get(ADAPTER_DIGEST)
            row["chain_entry"], row["chain_hash"] = (entry.id, entry.hash) if entry else (None, None)
        return rows

    def last_id(self) -> int:
        """Id of the newest event; 0 before the first."""
        with read_transaction(self._engine) as connection:
            return connection.execute(select(func.max(events.c.id))).scalar() or 0


def emit(connection: Connection, decision_id: int, facts: DecisionFacts) -> None:
    """Adds an event in the transaction that completes the decision."""
    event_id = (connection.execute(select(func.max(events.c.id))).scalar() or 0) + 1
    move = {name: getattr(facts, name) for name in ("model", "from_version", "to_version")} | {"alias": facts.alias or NO_ALIAS}
    row = {"id": event_id, "at": hash_chain.timestamp(datetime.now(UTC)), "decision": decision_id} | move
    connection.execute(insert(events).values(**row))
