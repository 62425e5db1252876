"""Where aliases point and pointed, as the ledger recorded it."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Select, func, select

from atelier_registry.storage import hash_chain
from atelier_registry.storage.database import read_transaction
from atelier_registry.storage.entries import ADAPTER_DIGEST, MOVE_KINDS
from atelier_registry.storage.tables import entries


@dataclass(frozen=True)
class AliasMove:
    """An alias was pointed at another version; `to_version` is None where it was deleted."""

    decision: int
    at: str
    action: str
    model: str
    alias: str
    from_version: int | None
    to_version: int | None


class AliasMoves:
    """Reads the entries after which an alias pointed somewhere else. Safe to use from several threads.

    Every method raises `DatabaseUnavailableError` where the database does not answer.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._latest: dict[tuple[str, str], AliasMove] = {}
        self._latest_entry = 0

    def history(self, model: str, alias: str) -> list[AliasMove]:
        """Every move of an alias, oldest first."""
        return self._read(_moves().where(entries.c.model == model, entries.c.alias == alias).order_by(entries.c.id))

    def last(self, model: str, alias: str, at: datetime | None = None) -> AliasMove | None:
        """The latest move of an alias, or the latest one not after `at`."""
        query = _moves().where(entries.c.model == model, entries.c.alias == alias).order_by(entries.c.id.desc()).limit(1)
        return next(iter(self._read(query if at is None else query.where(entries.c.at <= hash_chain.timestamp(at)))), None)

    def latest_by_alias(self) -> dict[tuple[str, str], AliasMove]:
        """The latest move of every (model, alias). Entries never change, so each one is read only once per process."""
        with self._lock:
            with read_transaction(self._engine) as connection:
                newest = connection.execute(select(func.max(entries.c.id))).scalar() or 0
            if newest < self._latest_entry:  # the database was replaced by a backup
                self._latest, self._latest_entry = {}, 0
            unread = entries.c.id > self._latest_entry, entries.c.id <= newest, entries.c.alias.is_not(None)
            moves = self._read(_moves().where(*unread).order_by(entries.c.id))
            self._latest |= {(move.model, move.alias): move for move in moves}
            self._latest_entry = newest
            return dict(self._latest)

    def decided_digest(self, model: str, version: int, since: datetime) -> str | None:
        """The adapter digest recorded when an alias was last allowed to point at a version; None without one.

        Entries from before `since`, the time of the version's registration, concern a deleted model whose version number
        MLflow used again.
        """
        conditions = (
            entries.c.model == model,
            entries.c.to_version == version,
            entries.c.at >= hash_chain.timestamp(since),
            entries.c.kind.in_(("begun", *MOVE_KINDS, "recorded")),
            entries.c.details.contains(f'"{ADAPTER_DIGEST}"'),
        )
        query = select(entries.c.details).where(*conditions).order_by(entries.c.id.desc()).limit(1)
        with read_transaction(self._engine) as connection:
            details = connection.execute(query).scalar()
        return json.loads(details).get(ADAPTER_DIGEST) if details else None

    def _read(self, query: Select[Any]) -> list[AliasMove]:
        with read_transaction(self._engine) as connection:
            return [AliasMove(**row._mapping) for row in connection.execute(query)]


def _moves() -> Select[Any]:
    columns = (entries.c[name] for name in ("decision", "at", "action", "model", "alias", "from_version", "to_version"))
    return select(*columns).where(entries.c.kind.in_(MOVE_KINDS))
