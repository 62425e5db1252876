"""Events as they happen, for any number of listeners: one task looks at the outbox, all listeners hear of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from atelier_contracts.events import ALIAS_EVENT, AliasMoved
from starlette.concurrency import run_in_threadpool

from atelier_registry.errors import UnavailableError
from atelier_registry.storage.ledger import Ledger

log = logging.getLogger(__name__)

LOOK_S = 0.2
"""How late an event of another process is heard of; those of this one are told at once."""

HEARTBEAT_S = 15.0

REVOKED_S = 1.0
"""How long a stream may go on after its token was revoked."""

PAGE = 200


class EventStream:
    """The outbox, followed. It belongs to one event loop; only `nudge` and `end` may be called from other threads."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._newest = 0
        self._changed = asyncio.Condition()
        self._look = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._ending = False

    async def start(self) -> None:
        """Begins to look at the outbox."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Ends every stream."""
        self.end()
        if self._task:
            await self._task

    def nudge(self) -> None:
        """There may be a new event. From any thread."""
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._look.set)

    def end(self) -> None:
        """Lets every stream end soon. From any thread or a signal handler."""
        self._ending = True
        self.nudge()

    async def stream(self, after: int | None, follow: bool, allowed: Callable[[], bool]) -> AsyncIterator[str]:
        """Server-sent events with an id above `after`, or from now on.

        Args:
            after: cursor; 0 tells everything.
            follow: go on after the newest event, until the listener hangs up or the service ends.
            allowed: whether the listener's token is still good.
        """
        cursor = await run_in_threadpool(self._ledger.last_event) if after is None else after
        yield f": after {cursor}\n\n"
        beat = time.monotonic()
        while not self._ending and allowed():
            try:
                found = await run_in_threadpool(self._ledger.events, cursor, PAGE)
            except UnavailableError:
                return  # the listener comes again with its cursor
            for row in found:
                cursor = row["id"]
                yield told(row)
            if len(found) == PAGE:
                continue
            if not follow:
                return
            if not await self._newer(cursor) and time.monotonic() - beat >= HEARTBEAT_S:
                yield ": still here\n\n"
                beat = time.monotonic()

    async def _newer(self, cursor: int) -> bool:
        async with self._changed:
            try:
                async with asyncio.timeout(REVOKED_S):
                    await self._changed.wait_for(lambda: self._newest > cursor or self._ending)
            except TimeoutError:
                return False
        return True

    async def _follow(self) -> None:
        known = True
        while not self._ending:
            self._look.clear()
            try:
                newest = await run_in_threadpool(self._ledger.last_event)
                known = True
            except UnavailableError as error:
                newest = self._newest
                if known:
                    log.warning("events wait: %s", error)
                known = False
            if newest > self._newest:
                async with self._changed:
                    self._newest = newest
                    self._changed.notify_all()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._look.wait()
            except TimeoutError:
                pass
        async with self._changed:
            self._changed.notify_all()


def told(row: dict[str, Any]) -> str:
    """One event as text. JSON has no bare line ends, so one `data:` line holds it."""
    event = AliasMoved.model_validate(row)
    return f"id: {event.id}\nevent: {ALIAS_EVENT}\ndata: {event.model_dump_json()}\n\n"
