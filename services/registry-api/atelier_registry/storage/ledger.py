"""Every decision, in a chain that tells when somebody changed it.

A decision is one entry, or begins with one: `begun` is written before the alias moves, then `done` or `failed`. `proposed`
waits for `begun` (by the approver) or `rejected`. `refused`, `outside`, `recorded` and `reverted` stand alone. An entry's hash
covers the hash before it. SQLAlchemy's exceptions end here.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from atelier_contracts.promotion import Action, Decision, Verdict
from sqlalchemy import Connection, Engine, Row, Select, and_, exists, func, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from atelier_registry.errors import AliasBusyError, DatabaseUnavailableError
from atelier_registry.storage import hash_chain
from atelier_registry.storage.tables import entries, events

log = logging.getLogger(__name__)

Kind = Literal["begun", "done", "failed", "refused", "proposed", "rejected", "outside", "recorded", "reverted"]
CLOCK_SKEW = timedelta(minutes=5)
"""How far ahead another process's clock may be before its times are no longer followed."""

MOVED = ("done", "outside")
"""Kinds of entries after which an alias points somewhere else."""

# of the last entry; others are called as the kind
_OUTCOMES: dict[str, str] = {"begun": "pending", "outside": "done", "recorded": "done", "reverted": "done"}
_DIGEST = "adapter_digest"
_CHAIN_LOCK = 0x61746C_0002  # of PostgreSQL's advisory locks: entries are appended one at a time


@dataclass(frozen=True)
class Facts:
    """What a decision is about; the same in all of its entries but for who wrote them and why."""

    actor: str
    action: Action
    model: str
    alias: str | None
    from_version: int | None
    to_version: int | None
    reason: str
    forced: bool = False
    key: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Move:
    """An alias went somewhere."""

    decision: int
    at: str
    action: str
    model: str
    alias: str
    from_version: int | None
    to_version: int | None


class Ledger:
    """The chain and the outbox. Every method raises `DatabaseUnavailableError` where the database does not answer."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._engine, self._clock = engine, clock
        self._aliases: dict[tuple[str, str], Move] = {}
        self._aliases_read = 0
        self._aliases_lock = threading.Lock()
        self._writer = engine.execution_options(immediate=True)
        self._watchers: list[Callable[[Decision], None]] = []

    def ping(self) -> None:
        """Returns when the chain can be read."""
        with self._reading() as connection:
            connection.execute(select(entries.c.id).limit(1)).first()

    def watch(self, told: Callable[[Decision], None]) -> None:
        """Calls `told` with a decision after each of its entries was written."""
        self._watchers.append(told)

    # Writing.

    def open(self, kind: Kind, facts: Facts) -> Decision:
        """Begins a decision with its first entry; `outside` also leaves an event, in the same transaction.

        Raises:
            AliasBusyError: another decision on the alias is under way; the lock around this one was lost.
        """
        with self._appending() as connection:
            if kind == "begun":
                self._check_free(connection, facts)
            number = _append(connection, None, kind, facts, self._clock())
            if kind == "outside":
                _emit(connection, number, facts)
        return self._logged(number)

    def close(self, decision: Decision, kind: Kind, actor: str, reason: str, details: dict[str, Any] | None = None) -> Decision:
        """Adds an entry to a decision; `done` also leaves an event, in the same transaction."""
        digest = {_DIGEST: decision.adapter_digest} if kind == "done" and decision.adapter_digest else {}
        facts = Facts(
            actor, decision.action, decision.model, decision.alias, decision.from_version, decision.to_version, reason,
            decision.forced, None, digest | (details or {}),
        )  # fmt: skip
        with self._appending() as connection:
            if kind == "begun":
                self._check_free(connection, facts)
            _append(connection, decision.id, kind, facts, self._clock())
            if kind == "done" and decision.alias is not None:
                _emit(connection, decision.id, facts)
        return self._logged(decision.id)

    # Reading.

    def decision(self, number: int) -> Decision:
        """A decision that exists."""
        found = self.find(number)
        assert found is not None
        return found

    def find(self, number: int) -> Decision | None:
        """A decision by its id."""
        return next(iter(self._decisions(select(entries).where(entries.c.id == number, _first()))), None)

    def page(
        self, model: str, alias: str | None = None, *, outcome: str | None = None, limit: int, before_id: int | None = None
    ) -> list[Decision]:
        """Decisions, newest first: of one alias, of one outcome, with an id below `before_id`, where these are given."""
        query = select(entries).where(entries.c.model == model, _first()).order_by(entries.c.id.desc()).limit(limit)
        if alias is not None:
            query = query.where(entries.c.alias == alias)
        if before_id is not None:
            query = query.where(entries.c.id < before_id)
        if outcome is not None:
            query = query.where(_ended_as(outcome))
        return self._decisions(query)

    def pending(self, model: str | None = None, alias: str | None = None) -> list[Decision]:
        """Decisions that were begun and have no end, oldest first."""
        query = select(entries).where(_first(), _ended_as("pending")).order_by(entries.c.id)
        if model is not None:
            query = query.where(entries.c.model == model, entries.c.alias == alias if alias else entries.c.alias.is_(None))
        return self._decisions(query)

    def by_key(self, actor: str, key: str) -> Decision | None:
        """The latest decision that this actor asked for with this key."""
        query = select(entries).where(entries.c.actor == actor, entries.c.key == key, _first())
        return next(iter(self._decisions(query.order_by(entries.c.id.desc()).limit(1))), None)

    def fingerprint(self, number: int) -> str | None:
        """What was kept of the request that a decision was asked for with."""
        with self._reading() as connection:
            found = connection.execute(select(entries.c.details).where(entries.c.id == number)).scalar()
        return json.loads(found).get("request") if found else None

    def moves(self, model: str, alias: str) -> list[Move]:
        """Where an alias went, oldest first."""
        return self._moves(_moved().where(entries.c.model == model, entries.c.alias == alias).order_by(entries.c.id))

    def last_move(self, model: str, alias: str, at: datetime | None = None) -> Move | None:
        """The latest move of an alias, or the latest one that was not after `at`."""
        query = _moved().where(entries.c.model == model, entries.c.alias == alias).order_by(entries.c.id.desc()).limit(1)
        return next(iter(self._moves(query if at is None else query.where(entries.c.at <= hash_chain.timestamp(at)))), None)

    def aliases(self) -> dict[tuple[str, str], Move]:
        """Where every alias went last. Entries are never changed, so each is read once, however often this is asked."""
        with self._aliases_lock:
            newest, _ = self.head()
            if newest < self._aliases_read:  # another database: one that was restored
                self._aliases, self._aliases_read = {}, 0
            new = entries.c.id > self._aliases_read, entries.c.id <= newest, entries.c.alias.is_not(None)
            self._aliases |= {
                (move.model, move.alias): move for move in self._moves(_moved().where(*new).order_by(entries.c.id))
            }
            self._aliases_read = newest
            return dict(self._aliases)

    def adapter_digest(self, model: str, version: int, since: datetime) -> str | None:
        """The digest that was decided on the last time that an alias was let point at a version.

        Args:
            model: a registered model.
            version: of it.
            since: when the version was made: a deleted model's version numbers are given out again.
        """
        kinds = entries.c.kind.in_(("begun", *MOVED, "recorded"))
        about = (entries.c.model == model, entries.c.to_version == version, entries.c.at >= hash_chain.timestamp(since))
        query = select(entries.c.details).where(*about, kinds, entries.c.details.contains(f'"{_DIGEST}"'))
        with self._reading() as connection:
            found = connection.execute(query.order_by(entries.c.id.desc()).limit(1)).scalar()
        return json.loads(found).get(_DIGEST) if found else None

    def last_revert(self, model: str, alias: str) -> Decision | None:
        """The latest entry that says that infer stopped drawing with an alias's version."""
        query = select(entries).where(entries.c.model == model, entries.c.alias == alias, entries.c.kind == "reverted")
        return next(iter(self._decisions(query.order_by(entries.c.id.desc()).limit(1))), None)

    def head(self) -> tuple[int, str]:
        """Number and hash of the newest entry; 0 and `chain.GENESIS` before the first."""
        with self._reading() as connection:
            query = select(entries.c.id, entries.c.hash).order_by(entries.c.id.desc()).limit(1)
            found = connection.execute(query).first()
        return (found.id, found.hash) if found else (0, hash_chain.GENESIS)

    def rows_from(self, first: int, limit: int) -> list[dict[str, Any]]:
        """Entries as they are stored, from a number on, in the order of ids."""
        query = select(entries).where(entries.c.id >= first).order_by(entries.c.id).limit(limit)
        with self._reading() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def events(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Events with an id above `after`, oldest first, each with its decision's digest and place in the chain."""
        with self._reading() as connection:
            rows = connection.execute(select(events).where(events.c.id > after).order_by(events.c.id).limit(limit))
            found = [dict(row._mapping) for row in rows]
            shown = select(entries.c.decision, entries.c.id, entries.c.hash, entries.c.details)
            ends = shown.where(entries.c.decision.in_({row["decision"] for row in found}), entries.c.kind.in_(MOVED))
            places = {row.decision: row for row in connection.execute(ends.order_by(entries.c.id))} if found else {}
        for row in found:
            end = places.get(row["decision"])
            row["adapter_digest"] = json.loads(end.details).get(_DIGEST) if end else None
            row["chain_entry"], row["chain_hash"] = (end.id, end.hash) if end else (None, None)
        return found

    def last_event(self) -> int:
        """Id of the newest event, 0 before the first."""
        with self._reading() as connection:
            return connection.execute(select(func.max(events.c.id))).scalar() or 0

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every entry as it is stored, in the order of ids."""
        with self._reading() as connection:
            for row in connection.execution_options(yield_per=500).execute(select(entries).order_by(entries.c.id)):
                yield dict(row._mapping)

    # Parts of the above.

    def _logged(self, number: int) -> Decision:
        """A decision after its newest entry was written. The log is one of the places where the entry's hash is kept."""
        decision = self.decision(number)
        shown = {"id", "actor", "action", "model", "alias", "from_version", "to_version", "outcome", "forced"}
        log.info("decision", extra={"fields": decision.model_dump(include=shown | {_DIGEST, "chain_entry", "chain_hash"})})
        for told in self._watchers:
            told(decision)
        return decision

    @staticmethod
    def _check_free(connection: Connection, facts: Facts) -> None:
        busy = select(entries.c.id).where(
            entries.c.model == facts.model, entries.c.alias == facts.alias, _first(), _ended_as("pending")
        )
        if facts.alias is not None and connection.execute(busy).first() is not None:
            raise AliasBusyError(facts.model, facts.alias, 0)

    def _moves(self, query: Select[Any]) -> list[Move]:
        with self._reading() as connection:
            return [Move(**row._mapping) for row in connection.execute(query)]

    def _decisions(self, query: Select[Any]) -> list[Decision]:
        with self._reading() as connection:
            firsts = connection.execute(query).all()
            rest = select(entries).where(entries.c.decision.in_([row.id for row in firsts])).order_by(entries.c.id)
            parts: dict[int, list[Row[Any]]] = {}
            for row in connection.execute(rest) if firsts else ():
                parts.setdefault(row.decision, []).append(row)
        return [_decision(parts[row.id]) for row in firsts]

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise DatabaseUnavailableError from error

    @contextmanager
    def _appending(self) -> Iterator[Connection]:
        try:
            with self._writer.begin() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CHAIN_LOCK})
                yield connection
        except SQLAlchemyError as error:
            raise DatabaseUnavailableError from error


def _append(connection: Connection, decision: int | None, kind: Kind, facts: Facts, now: datetime) -> int:
    newest = select(entries.c.id, entries.c.hash, entries.c.at).order_by(entries.c.id.desc()).limit(1)
    last = connection.execute(newest).first()
    number = last.id + 1 if last else 1
    row = asdict(facts) | {
        "id": number,
        "decision": decision or number,
        "kind": kind,
        "at": _stamp(now, last.at if last else ""),
        "details": hash_chain.canonical(facts.details),
        "previous_hash": last.hash if last else hash_chain.GENESIS,
    }
    connection.execute(insert(entries).values(**row, hash=hash_chain.digest(row)))
    return number


def _stamp(now: datetime, before: str) -> str:
    """The time of an entry: not before its predecessor's, unless that came from a clock that was far ahead.

    Clocks of several processes differ by a little. An entry that is hours ahead would otherwise stamp all later ones alike.
    """
    stamp = hash_chain.timestamp(now)
    if stamp >= before or before > hash_chain.timestamp(now + CLOCK_SKEW):
        if stamp < before:
            log.warning("the newest entry was stamped %s by a clock that is ahead of this one, which says %s", before, stamp)
        return stamp
    return before


def _emit(connection: Connection, decision: int, facts: Facts) -> None:
    number = (connection.execute(select(func.max(events.c.id))).scalar() or 0) + 1
    moved = {name: getattr(facts, name) for name in ("model", "alias", "from_version", "to_version")}
    connection.execute(insert(events).values(id=number, at=hash_chain.timestamp(datetime.now(UTC)), decision=decision, **moved))


def _first() -> Any:
    return entries.c.id == entries.c.decision


def _moved() -> Select[Any]:
    shown = (entries.c[name] for name in ("decision", "at", "action", "model", "alias", "from_version", "to_version"))
    return select(*shown).where(entries.c.kind.in_(MOVED))


def _ended_as(outcome: str) -> Any:
    """Whether a decision's last entry is of a kind that is told as this outcome."""
    kinds = [kind for kind, told in _OUTCOMES.items() if told == outcome] or []
    kinds += [outcome] if outcome not in _OUTCOMES.values() or outcome == "done" else []
    last, later = entries.alias(), entries.alias()
    none_later = ~exists().where(and_(later.c.decision == last.c.decision, later.c.id > last.c.id))
    return exists().where(and_(last.c.decision == entries.c.id, last.c.kind.in_(kinds), none_later))


def _decision(rows: Sequence[Row[Any]]) -> Decision:
    first, last = rows[0], rows[-1]
    evaluation = json.loads(next(row.details for row in reversed(rows) if "verdicts" in row.details or row is first))
    approver = next((row.actor for row in rows[1:] if row.kind == "begun"), None)
    digests = (json.loads(row.details).get(_DIGEST) for row in reversed(rows) if _DIGEST in row.details)
    return Decision(
        id=first.id,
        at=first.at,
        actor=first.actor,
        action=first.action,
        model=first.model,
        alias=first.alias,
        from_version=first.from_version,
        to_version=first.to_version,
        reason=first.reason,
        outcome=_OUTCOMES.get(last.kind, last.kind),
        done_at=last.at if last.kind in MOVED or last.kind in ("recorded", "reverted") else None,
        forced=first.forced,
        approved_by=approver,
        verdicts=[Verdict.model_validate(verdict) for verdict in evaluation.get("verdicts", [])],
        adapter_digest=next(digests, None),
        chain_entry=last.id,
        chain_hash=last.hash,
    )
