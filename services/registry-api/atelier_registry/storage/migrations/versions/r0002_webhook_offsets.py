"""Each subscriber's position in the events, in a table that revision 0003 renames."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "places",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("event", sa.BigInteger, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("refused_since", sa.String(27), nullable=True),
        sa.Column("next_try", sa.String(27), nullable=True),
        sa.Column("problem", sa.Text, nullable=True),
        sa.Column("taken_at", sa.String(27), nullable=True),
    )


def downgrade() -> None:
    raise NotImplementedError("the previous release does not know this table; restore a backup of the database instead")
