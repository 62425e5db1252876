"""Event log: one JSON object per line on standard error; nginx writes the access log."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime


def log_event(event: str, **fields: object) -> None:
    """Writes one line.

    Args:
        event: name of the event, for example "database unavailable".
        fields: further fields; never secrets.
    """
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "source": "tracking", "event": event, **fields}
    sys.stderr.write(json.dumps(line, ensure_ascii=False) + "\n")
    sys.stderr.flush()
