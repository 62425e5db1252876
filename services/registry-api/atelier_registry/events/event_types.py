"""Events as rows of the outbox become those of the contracts."""

from __future__ import annotations

import json
from typing import Any

from atelier_contracts.events import ALIAS_EVENT, STYLE_EVENT, AliasMoved, StyleEdited


def read_event(row: dict[str, Any]) -> tuple[str, AliasMoved | StyleEdited]:
    """The event's name, and the event."""
    if "edits" in row:
        return STYLE_EVENT, StyleEdited.model_validate_json(json.dumps(row))
    return ALIAS_EVENT, AliasMoved.model_validate(row)
