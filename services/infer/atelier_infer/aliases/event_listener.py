"""Hearing of moved aliases from registry-api's event stream, so that a promotion draws at once; polling stays beneath it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator

import requests
from atelier_contracts.events import ALIAS_EVENT, AliasMoved
from pydantic import ValidationError

log = logging.getLogger(__name__)

CONNECT_S = 5.0
SILENCE_S = 45.0
"""Three heartbeats of registry-api: a stream that is silent for so long is dead."""

FIRST_RETRY_S, SLOWEST_RETRY_S = 0.25, 15.0


class EventListener:
    """A thread that reads `GET /events` and calls `moved` when an alias of the model moved, and once per connection.

    An event only says when to look: where an alias points is asked of MLflow. So a lost, repeated or wrong event does no harm,
    and without a stream the aliases are followed by polling alone.

    Args:
        url: address of registry-api.
        token: what it lets in.
        model: whose aliases matter.
        moved: returns at once.
    """

    def __init__(self, *, url: str, token: str, model: str, moved: Callable[[], None]) -> None:
        self._url, self._token, self._model, self._moved = f"{url}/events", token, model, moved
        self._cursor: int | None = None
        self._retry_s, self._told = FIRST_RETRY_S, False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="events", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Calls nothing from now on.

        The thread ends with the stream's next line, or with the process: closing the stream would wait for that line, too.
        """
        self._stopping.set()

    def _follow(self) -> None:
        while not self._stopping.is_set():
            reason = "the stream ended"
            try:
                self._read_stream()
            except (requests.RequestException, OSError, ValueError, AttributeError) as error:
                reason = f"{type(error).__name__}: {error}"[:300]
            if self._stopping.is_set():
                return
            if not self._told:
                self._told = True
                log.warning("no events from registry-api; aliases are polled", extra={"fields": {"reason": reason}})
            self._stopping.wait(self._retry_s)
            self._retry_s = min(SLOWEST_RETRY_S, self._retry_s * 2)

    def _read_stream(self) -> None:
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "text/event-stream"}
        after = {} if self._cursor is None else {"after": str(self._cursor)}
        with requests.get(
            self._url, params=after, headers=headers, stream=True, timeout=(CONNECT_S, SILENCE_S), allow_redirects=False
        ) as response:
            response.raise_for_status()
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise ValueError(f"expected text/event-stream; received {response.headers.get('content-type')}")
            log.info("following events of registry-api", extra={"fields": {"after": self._cursor}})
            self._told, self._retry_s = False, FIRST_RETRY_S
            self._moved()  # whatever happened while nobody listened
            # a chunk of 1 byte would otherwise wait for 512 of them
            for name, data in parse_events(response.iter_lines(chunk_size=1, decode_unicode=False)):
                if self._stopping.is_set():
                    return
                self._heard(name, data)

    def _heard(self, name: str, data: str) -> None:
        if name != ALIAS_EVENT:
            return
        try:
            event = AliasMoved.model_validate_json(data)
        except ValidationError:
            log.warning("an event was not understood; looking at the aliases all the same")
            self._moved()
            return
        self._cursor = event.id
        if event.model == self._model:
            self._moved()


def parse_events(lines: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Names and data of server-sent events; comments and unknown fields are passed over.

    Source: HTML Living Standard, section 9.2.6 "Interpreting an event stream".
    """
    name, data = "message", list[str]()
    for raw in lines:
        line = raw.decode("utf-8", "replace")
        if not line:
            if data:
                yield name, "\n".join(data)
            name, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
