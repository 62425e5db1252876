"""Events of registry-api: in the stream of `GET /events`, whose event id is the cursor, and in webhooks."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from atelier_contracts.identifiers import Digest
from atelier_contracts.styles import StyleEdits

ALIAS_EVENT, STYLE_EVENT = "alias.moved", "style.edited"
"""Names of events in the stream, and types of webhooks. Clients ignore names that they do not know."""


class RegistryEvent(BaseModel):
    """What a decision changed in MLflow. It tells clients when to read MLflow, which holds the values."""

    id: int
    at: datetime
    model: str
    decision: int
    chain_entry: int | None = None
    chain_hash: Digest | None = None
    """Number and hash of the decision's newest entry in the chain."""


class AliasMoved(RegistryEvent):
    """An alias was pointed at another version."""

    alias: str
    from_version: int | None
    to_version: int | None
    adapter_digest: Digest | None = None
    """Of the new version; None where it is no adapter, or the alias was deleted."""


class StyleEdited(RegistryEvent):
    """The style of a model was edited."""

    edits: StyleEdits
    """All edits of the model from now on."""
