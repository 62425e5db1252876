"""`logs`: the log of a service, oldest line first."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from atelier_infra.aws.client import Aws, translate_errors
from atelier_infra.environment.stack import Service
from atelier_infra.errors import InputError

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration_s(text: str) -> int:
    """Seconds of a duration such as 90s or 15m.

    Raises:
        InputError: the text is not a duration.
    """
    match = re.fullmatch(r"(\d{1,5})([smhd])", text)
    if not match:
        raise InputError(f"--since must be a number followed by s, m, h or d, for example 15m; received {text!r}")
    return int(match[1]) * UNITS_S[match[2]]


def log_lines(
    service: Service, aws: Aws, since: str, *, follow: bool, sleep: Callable[[float], None] = time.sleep
) -> Iterator[str]:
    """Yields lines with their UTC time.

    Args:
        service: the service.
        aws: clients of its account.
        since: how far back, for example 15m.
        follow: never stop, and poll for new lines.
        sleep: waits between two polls; an argument for tests.
    """
    client, printed = aws.client("logs"), set[str]()
    start_ms = int((time.time() - parse_duration_s(since)) * 1000)
    while True:
        with translate_errors(aws.region):
            pages = client.get_paginator("filter_log_events").paginate(logGroupName=service.log_group, startTime=start_ms)
            events = [event for page in pages for event in page["events"] if event["eventId"] not in printed]
        for event in sorted(events, key=lambda event: event["timestamp"]):
            time_utc = datetime.fromtimestamp(event["timestamp"] / 1000, UTC)
            yield f"{time_utc:%Y-%m-%d %H:%M:%S}  {event['message'].rstrip()}"
        if not follow:
            return
        # CloudWatch may deliver lines late and out of order: read two minutes back, and skip what was printed
        start_ms = max(start_ms, int((time.time() - 120) * 1000))
        printed |= {event["eventId"] for event in events}
        sleep(3.0)
