"""Entries of the ledger: what they hold, how one is appended, and how a decision is read from its entries."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from atelier_contracts.promotion import Action, Decision, StyleChange, Verdict
from sqlalchemy import Connection, Row, and_, exists, insert, select

from atelier_registry.storage import hash_chain
from atelier_registry.storage.tables import entries

log = logging.getLogger(__name__)

EntryKind = Literal["begun", "done", "failed", "refused", "proposed", "rejected", "outside", "recorded", "reverted"]

CLOCK_SKEW = timedelta(minutes=5)
"""How far ahead another process's clock may be before its timestamps are ignored."""

MOVE_KINDS = ("done", "outside")
"""Kinds of entries after which an alias points somewhere else."""

ADAPTER_DIGEST, STYLE = "adapter_digest", "style"
"""Keys in an entry's details."""

# outcome of a decision by the kind of its last entry; kinds that are not listed are outcomes themselves
_OUTCOMES: dict[str, str] = {"begun": "pending", "outside": "done", "recorded": "done", "reverted": "done"}


@dataclass(frozen=True)
class DecisionFacts:
    """What a decision is about. Its entries differ only in the actor and the reason."""

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


def append(connection: Connection, decision_id: int | None, kind: EntryKind, facts: DecisionFacts, now: datetime) -> int:
    """Appends an entry to the chain, in a transaction that excludes other writers, and returns its number.

    Without `decision_id` the entry begins a new decision, whose id is the entry's number.
    """
    newest = select(entries.c.id, entries.c.hash, entries.c.at).order_by(entries.c.id.desc()).limit(1)
    last = connection.execute(newest).first()
    number = last.id + 1 if last else 1
    row = asdict(facts) | {
        "id": number,
        "decision": decision_id or number,
        "kind": kind,
        "at": _timestamp(now, last.at if last else ""),
        "details": hash_chain.canonical(facts.details),
        "previous_hash": last.hash if last else hash_chain.GENESIS,
    }
    connection.execute(insert(entries).values(**row, hash=hash_chain.digest(row)))
    return number


def _timestamp(now: datetime, previous: str) -> str:
    """Not earlier than the previous entry's, so that small differences between clocks do not reorder entries.

    A previous timestamp that is far ahead is ignored; otherwise every later entry would repeat it.
    """
    timestamp = hash_chain.timestamp(now)
    if timestamp >= previous:
        return timestamp
    if previous > hash_chain.timestamp(now + CLOCK_SKEW):
        log.warning("newest entry is dated in the future", extra={"fields": {"entry_at": previous, "now": timestamp}})
        return timestamp
    return previous


def style_details(change: StyleChange) -> dict[str, Any]:
    """What an entry records of an edited style: the edited fields alone."""
    return {"before": change.before.values(), "after": change.after.values()}


def is_first() -> Any:
    """Condition: the entry is its decision's first."""
    return entries.c.id == entries.c.decision


def has_outcome(outcome: str) -> Any:
    """Condition: the last entry of the decision is of a kind that stands for the outcome."""
    kinds = [kind for kind, result in _OUTCOMES.items() if result == outcome]
    kinds += [outcome] if outcome not in _OUTCOMES.values() or outcome == "done" else []
    last, later = entries.alias(), entries.alias()
    none_later = ~exists().where(and_(later.c.decision == last.c.decision, later.c.id > last.c.id))
    return exists().where(and_(last.c.decision == entries.c.id, last.c.kind.in_(kinds), none_later))


def read_decision(rows: Sequence[Row[Any]]) -> Decision:
    """A decision from all of its entries, in the order of their numbers."""
    first, last = rows[0], rows[-1]
    evaluation = json.loads(next(row.details for row in reversed(rows) if "verdicts" in row.details or row is first))
    styles = (json.loads(row.details)[STYLE] for row in rows if row.alias is None and f'"{STYLE}":' in row.details)
    digests = (json.loads(row.details).get(ADAPTER_DIGEST) for row in reversed(rows) if ADAPTER_DIGEST in row.details)
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
        done_at=last.at if last.kind in (*MOVE_KINDS, "recorded", "reverted") else None,
        forced=first.forced,
        approved_by=next((row.actor for row in rows[1:] if row.kind == "begun"), None),
        verdicts=[Verdict.model_validate(verdict) for verdict in evaluation.get("verdicts", [])],
        style=StyleChange.model_validate_json(hash_chain.canonical(style)) if (style := next(styles, None)) else None,
        adapter_digest=next(digests, None),
        chain_entry=last.id,
        chain_hash=last.hash,
    )
