"""Log lines of start-up and supervision: one JSON object a line on standard error, beside nginx's access log."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime


def say(event: str, **details: object) -> None:
    """Writes one line.

    Args:
        event: what happened, in words.
        details: further fields; never a secret.
    """
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "source": "tracking", "event": event, **details}
    sys.stderr.write(json.dumps(line, ensure_ascii=False) + "\n")
    sys.stderr.flush()
