"""Reads registry-api's event stream, so that a promotion takes effect at once; polling continues as a fallback."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator

import requests
from atelier_contracts.events import ALIAS_EVENT, STYLE_EVENT, RegistryEvent
from pydantic import ValidationError

log = logging.getLogger(__name__)

CONNECT_S = 5.0
SILENCE_S = 45.0
"""Three heartbeats of registry-api; a stream without data for longer is dead."""


class EventListener:
    """A thread that reads `GET /events` and calls `on_change` when the model's aliases or style changed, and at first.

    An event only says when to read the aliases; their targets come from MLflow. So a lost, repeated or wrong event does no
    harm, and without a stream the aliases are polled.

    Args:
        url: of registry-api.
        token: for registry-api.
        model: whose events matter.
        on_change: must return at once.
        first_retry_s: after a failure; doubled up to max_retry_s.
        max_retry_s: longest pause.
    """

    def __init__(
        self,
        *,
        url: str,
        token: str,
        model: str,
        on_change: Callable[[], None],
        first_retry_s: float = 0.25,
        max_retry_s: float = 15.0,
    ) -> None:
        self._url, self._token, self._model, self._on_change = f"{url}/events", token, model, on_change
        self._cursor: int | None = None
        self._first_retry_s, self._max_retry_s = first_retry_s, max_retry_s
        self._retry_s, self._logged = first_retry_s, False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the calls; the thread ends with the stream's next line, because closing the stream would wait for that too."""
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
            if not self._logged:
                self._logged = True
                log.warning("event stream unavailable; aliases are polled", extra={"fields": {"reason": reason}})
            self._stopping.wait(self._retry_s)
            self._retry_s = min(self._max_retry_s, self._retry_s * 2)

    def _read_stream(self) -> None:
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "text/event-stream"}
        after = {} if self._cursor is None else {"after": str(self._cursor)}
        with requests.get(
            self._url, params=after, headers=headers, stream=True, timeout=(CONNECT_S, SILENCE_S), allow_redirects=False
        ) as response:
            response.raise_for_status()
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise ValueError(f"must be text/event-stream; received {response.headers.get('content-type')}")
            log.info("event stream connected", extra={"fields": {"after": self._cursor}})
            self._logged, self._retry_s = False, self._first_retry_s
            self._on_change()  # for events that were missed
            # with a larger chunk_size requests would wait for the chunk to fill
            for name, data in parse_events(response.iter_lines(chunk_size=1, decode_unicode=False)):
                if self._stopping.is_set():
                    return
                self._handle(name, data)

    def _handle(self, name: str, data: str) -> None:
        if name not in (ALIAS_EVENT, STYLE_EVENT):
            return
        try:
            event = RegistryEvent.model_validate_json(data)
        except ValidationError:
            log.warning("invalid event; reading the registered model anyway")
            self._on_change()
            return
        self._cursor = event.id
        if event.model == self._model:
            self._on_change()


def parse_events(lines: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Names and data of server-sent events; comments and unknown fields are skipped.

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
