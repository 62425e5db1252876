"""Edits of styles, as the ledger recorded them."""

from __future__ import annotations

import json
import threading
from typing import Any

from atelier_contracts.styles import RecordedEdits, StyleEdits
from sqlalchemy import Engine, Select, and_, func, or_, select

from atelier_registry.storage import hash_chain
from atelier_registry.storage.database import read_transaction
from atelier_registry.storage.entries import STYLE
from atelier_registry.storage.tables import entries


class StyleChanges:
    """Reads the entries after which a model's style was another one. Safe to use from several threads.

    Every method raises `DatabaseUnavailableError` where the database does not answer.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._latest: dict[str, RecordedEdits] = {}
        self._latest_entry = 0

    def last(self, model: str) -> RecordedEdits:
        """The edits of a model, with the decision that made them so; of decision 0 before the first."""
        query = _changes().where(entries.c.model == model).order_by(entries.c.id.desc()).limit(1)
        return self._read(query).get(model, RecordedEdits(decision=0))

    def latest_by_model(self) -> dict[str, RecordedEdits]:
        """The edits of every model that has or had some. Entries never change, so each one is read only once per process."""
        with self._lock:
            with read_transaction(self._engine) as connection:
                newest = connection.execute(select(func.max(entries.c.id))).scalar() or 0
            if newest < self._latest_entry:  # the database was replaced by a backup
                self._latest, self._latest_entry = {}, 0
            unread = entries.c.id > self._latest_entry, entries.c.id <= newest
            self._latest |= self._read(_changes().where(*unread).order_by(entries.c.id))
            self._latest_entry = newest
            return dict(self._latest)

    def _read(self, query: Select[Any]) -> dict[str, RecordedEdits]:
        with read_transaction(self._engine) as connection:
            rows = connection.execute(query).all()
        return {row.model: RecordedEdits(decision=row.decision, edits=_edits(row.details)) for row in rows}


def _changes() -> Select[Any]:
    edited = and_(entries.c.kind == "done", entries.c.action == "style")
    outside = and_(entries.c.kind == "outside", entries.c.alias.is_(None))
    return select(entries.c.model, entries.c.decision, entries.c.details).where(or_(edited, outside))


def _edits(details: str) -> StyleEdits:
    return StyleEdits.model_validate_json(hash_chain.canonical(json.loads(details)[STYLE]["after"]))
