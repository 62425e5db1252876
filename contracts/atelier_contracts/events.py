"""`GET /events` of registry-api: what happened to aliases, as server-sent events whose id is the cursor."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from atelier_contracts.identifiers import Digest

ALIAS_EVENT = "alias"
"""The `event:` field of an `AliasMoved`; a reader passes over names that it does not know."""


class AliasMoved(BaseModel):
    """An alias points somewhere else. It says when to look; where the alias points is MLflow's to tell."""

    id: int
    at: datetime
    model: str
    alias: str
    from_version: int | None
    to_version: int | None
    decision: int
    adapter_digest: Digest | None = None
    """Of the version that the alias points at now; None where it is no adapter, or the alias was deleted."""
    chain_entry: int | None = None
    chain_hash: Digest | None = None
    """Number and hash of the decision's newest entry in the chain of decisions when the event was told."""
