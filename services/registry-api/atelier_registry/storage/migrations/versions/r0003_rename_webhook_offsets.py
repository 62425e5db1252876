"""Renames the table of webhook offsets and its columns."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

COLUMNS = {
    "name": "subscriber",
    "event": "event_id",
    "tries": "failed_attempts",
    "refused_since": "failing_since",
    "next_try": "next_attempt_at",
    "taken_at": "last_delivered_at",
}


def upgrade() -> None:
    op.rename_table("places", "webhook_offsets")
    for old, new in COLUMNS.items():  # Alembic would copy the whole table on SQLite, which can rename columns itself
        op.execute(f"ALTER TABLE webhook_offsets RENAME COLUMN {old} TO {new}")


def downgrade() -> None:
    raise NotImplementedError("the previous release does not know the new names; restore a backup of the database instead")
