"""Events of registry-api about aliases: in the stream of `GET /events`, whose event id is the cursor, and in webhooks."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from atelier_contracts.identifiers import Digest

ALIAS_EVENT = "alias.moved"
"""Name of the event in the stream, and type of the webhook. Clients ignore names that they do not know."""


class AliasMoved(BaseModel):
    """An alias was pointed at another version. It tells clients when to read the alias; MLflow holds its target."""

    id: int
    at: datetime
    model: str
    alias: str
    from_version: int | None
    to_version: int | None
    decision: int
    adapter_digest: Digest | None = None
    """Of the new version; None where it is no adapter, or the alias was deleted."""
    chain_entry: int | None = None
    chain_hash: Digest | None = None
    """Number and hash of the decision's newest entry in the chain."""
