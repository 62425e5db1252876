"""Server-sent events for any number of clients: one task polls the outbox and wakes all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi.sse import ServerSentEvent
from starlette.concurrency import run_in_threadpool

from atelier_registry.errors import UnavailableError
from atelier_registry.events.event_types import read_event
from atelier_registry.storage.outbox import Outbox

log = logging.getLogger(__name__)

_PAGE_SIZE = 200


class EventStream:
    """Follows the outbox. It belongs to one event loop; only `notify` and `close` may be called from other threads.

    Args:
        outbox: the events.
        poll_s: how late an event of another process is noticed; this process's own are sent at once.
        revocation_s: how long a stream may continue after its token was revoked.
    """

    def __init__(self, outbox: Outbox, *, poll_s: float = 0.2, revocation_s: float = 1.0) -> None:
        self._outbox = outbox
        self._poll_s, self._revocation_s = poll_s, revocation_s
        self._newest = 0
        self._changed = asyncio.Condition()
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """Ends every stream, and waits for the polling task."""
        self.close()
        if self._task:
            await self._task

    def notify(self) -> None:
        """There may be a new event."""
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    def close(self) -> None:
        """Lets every stream end soon. May be called from a signal handler."""
        self._closing = True
        self.notify()

    async def stream(
        self, after: int | None, follow: bool, is_authorized: Callable[[], bool]
    ) -> AsyncIterator[ServerSentEvent]:
        """Server-sent events with an id above `after`.

        Args:
            after: cursor; 0: from the first event; None: from now on.
            follow: continue after the newest event, until the client disconnects or the service stops.
            is_authorized: whether the client's token is still valid.
        """
        cursor = await run_in_threadpool(self._outbox.last_id) if after is None else after
        yield ServerSentEvent(comment=f"after {cursor}")
        while not self._closing and is_authorized():
            try:
                rows = await run_in_threadpool(self._outbox.events_after, cursor, _PAGE_SIZE)
            except UnavailableError:
                return  # the client reconnects with its cursor
            for row in rows:
                cursor = row["id"]
                yield _event(row)
            if len(rows) == _PAGE_SIZE:
                continue
            if not follow:
                return
            await self._wait_for_newer(cursor)

    async def _wait_for_newer(self, cursor: int) -> None:
        """Waits for a newer event, for `revocation_s` at most."""
        async with self._changed:
            try:
                async with asyncio.timeout(self._revocation_s):
                    await self._changed.wait_for(lambda: self._newest > cursor or self._closing)
            except TimeoutError:
                pass

    async def _poll(self) -> None:
        available = True
        while not self._closing:
            self._wake.clear()
            try:
                newest = await run_in_threadpool(self._outbox.last_id)
                available = True
            except UnavailableError as error:
                newest = self._newest
                if available:
                    log.warning("events delayed", extra={"fields": {"reason": str(error)}})
                available = False
            if newest > self._newest:
                async with self._changed:
                    self._newest = newest
                    self._changed.notify_all()
            try:
                async with asyncio.timeout(self._poll_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
        async with self._changed:
            self._changed.notify_all()


def _event(row: dict[str, Any]) -> ServerSentEvent:
    name, event = read_event(row)
    return ServerSentEvent(id=str(event.id), event=name, raw_data=event.model_dump_json())
