"""Whether this service can do its work: asked by load balancers, without a login, so it costs little and tells little."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from starlette.concurrency import run_in_threadpool

from atelier_registry.errors import UnavailableError

log = logging.getLogger(__name__)


class Readiness:
    """Asks each part in turn, one asker at a time, and keeps the answer for a moment.

    Args:
        parts: name for the log to a question that raises `UnavailableError` where the part does not answer.
        keep_s: how long an answer is given again without asking.
    """

    def __init__(self, parts: Mapping[str, Callable[[], None]], keep_s: float = 2.0) -> None:
        self._parts, self._keep_s = parts, keep_s
        self._turn = asyncio.Lock()
        self._asked_at = float("-inf")
        self._missing: frozenset[str] = frozenset()

    async def ready(self) -> bool:
        """Whether every part answers. What changed since the last time is logged by its name."""
        async with self._turn:
            if time.monotonic() - self._asked_at >= self._keep_s:
                missing = await run_in_threadpool(self._ask)
                for name in sorted(missing - self._missing):
                    log.warning("not ready: %s does not answer", name)
                for name in sorted(self._missing - missing):
                    log.info("%s answers again", name)
                self._missing, self._asked_at = missing, time.monotonic()
            return not self._missing

    def _ask(self) -> frozenset[str]:
        missing = set()
        for name, ping in self._parts.items():
            try:
                ping()
            except UnavailableError:
                missing.add(name)
        return frozenset(missing)
