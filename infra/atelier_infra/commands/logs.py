"""`logs`: a service's log, oldest line first."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from atelier_infra.aws.client import Aws, translated
from atelier_infra.environment.stack import Service
from atelier_infra.errors import AnswerError

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(since: str) -> int:
    """Reads a length of time such as 90s or 15m.

    Raises:
        AnswerError: it is none.
    """
    found = re.fullmatch(r"(\d{1,5})([smhd])", since)
    if not found:
        raise AnswerError(f"--since must be a number with s, m, h or d, such as 15m; received {since!r}")
    return int(found[1]) * UNITS_S[found[2]]


def lines(
    service: Service, aws: Aws, since: str, *, follow: bool, pause: Callable[[float], None] = time.sleep
) -> Iterator[str]:
    """Yields the lines.

    Args:
        service: whose.
        aws: connection.
        since: how far back.
        follow: go on for ever.
        pause: between two looks.
    """
    client, seen = aws.client("logs"), set[str]()
    begin_ms = int((time.time() - seconds(since)) * 1000)
    while True:
        with translated(aws.region):
            pages = client.get_paginator("filter_log_events").paginate(logGroupName=service.log_group, startTime=begin_ms)
            events = [event for page in pages for event in page["events"] if event["eventId"] not in seen]
        for event in sorted(events, key=lambda each: each["timestamp"]):
            at = datetime.fromtimestamp(event["timestamp"] / 1000, UTC)
            yield f"{at:%Y-%m-%d %H:%M:%S}  {event['message'].rstrip()}"
        if not follow:
            return
        # lines of one second may arrive out of order: look two minutes back, and skip what was shown
        begin_ms = max(begin_ms, int((time.time() - 120) * 1000))
        seen |= {event["eventId"] for event in events}
        pause(3.0)
