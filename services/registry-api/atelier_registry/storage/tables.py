"""The tables of this service. `migrations/` creates and changes them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, MetaData, String, Table, Text

SCHEMA = "atelier_registry"
"""Schema of the tables on PostgreSQL; MLflow's own tables and its version table stay in `public`."""

metadata = MetaData()

entries = Table(
    "entries",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),  # 1, 2, 3, … without gaps
    Column("decision", BigInteger, nullable=False),  # id of the decision's first entry
    Column("kind", String(16), nullable=False),
    Column("at", String(27), nullable=False),  # UTC with microseconds and Z, so that text order is time order
    Column("actor", String(255), nullable=False),  # id of the token, never the token
    Column("action", String(16), nullable=False),
    Column("model", String(256), nullable=False),
    Column("alias", String(256), nullable=True),
    Column("from_version", Integer, nullable=True),
    Column("to_version", Integer, nullable=True),
    Column("reason", Text, nullable=False),
    Column("forced", Boolean, nullable=False),
    Column("key", String(64), nullable=True),  # sha256 of the idempotency key
    Column("details", Text, nullable=False),  # JSON: verdicts with the numbers they are based on
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("entries_of_a_decision", "decision"),
    Index("entries_of_an_alias", "model", "alias", "id"),
    Index("entries_of_a_key", "actor", "key"),
)
"""Append-only: triggers refuse UPDATE and DELETE, and each row's hash covers the row before."""

NO_ALIAS = ""
"""In the column `alias` of an event about a model's style."""

events = Table(
    "events",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("at", String(27), nullable=False),
    Column("model", String(256), nullable=False),
    Column("alias", String(256), nullable=False),
    Column("from_version", Integer, nullable=True),
    Column("to_version", Integer, nullable=True),
    Column("decision", BigInteger, nullable=False),
)
"""The outbox: written in the transaction that completes a decision, so that no event is lost or sent too early."""

webhook_offsets = Table(
    "webhook_offsets",
    metadata,
    Column("subscriber", String(64), primary_key=True),
    Column("event_id", BigInteger, nullable=False),
    Column("failed_attempts", Integer, nullable=False),
    Column("failing_since", String(27), nullable=True),
    Column("next_attempt_at", String(27), nullable=True),
    Column("problem", Text, nullable=True),
    Column("last_delivered_at", String(27), nullable=True),
)
"""Each subscriber's position in the events; times are formatted as in `entries`."""
