"""uvicorn's HTTP/1.1 connection, which ends when the head of a request does not arrive in time."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def timed_connection(header_timeout_s: float) -> type[asyncio.Protocol]:
    """A protocol class for `uvicorn.Config(http=...)`.

    Args:
        header_timeout_s: from the connection, or the first byte of a further request, to the end of the request's headers.
    """

    class TimedConnection(H11Protocol):
        _header_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait_for_head(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:  # a request is answered, or its body awaited
                self._stop_waiting()
            elif self._header_timer is None:
                self._header_timer = self.loop.call_later(header_timeout_s, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None

    return TimedConnection
