"""Health, readiness and metrics. Load balancers ask without a token, so the answers are cheap and carry no details."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from atelier_contracts.tokens import Role
from atelier_service.auth import require_role
from fastapi import APIRouter, Depends, Response
from starlette.concurrency import run_in_threadpool

from atelier_registry.api.schemas import Status
from atelier_registry.errors import UnavailableError
from atelier_registry.metrics import Metrics
from atelier_registry.problems import documented

log = logging.getLogger(__name__)


class Readiness:
    """Checks each dependency, one request at a time, and caches the result for a moment.

    Args:
        checks: name of a dependency, for the log, to a function that raises `UnavailableError` where it does not answer.
        ttl_s: how long a result is cached.
    """

    def __init__(self, checks: Mapping[str, Callable[[], None]], ttl_s: float) -> None:
        self._checks, self._ttl_s = checks, ttl_s
        self._lock = asyncio.Lock()
        self._checked_at = float("-inf")
        self._unavailable: frozenset[str] = frozenset()

    async def is_ready(self) -> bool:
        """Whether every dependency answers. Changes are logged."""
        async with self._lock:
            if time.monotonic() - self._checked_at >= self._ttl_s:
                unavailable = await run_in_threadpool(self._check)
                for name in sorted(unavailable - self._unavailable):
                    log.warning("dependency unavailable", extra={"fields": {"dependency": name}})
                for name in sorted(self._unavailable - unavailable):
                    log.info("dependency available again", extra={"fields": {"dependency": name}})
                self._unavailable, self._checked_at = unavailable, time.monotonic()
            return not self._unavailable

    def _check(self) -> frozenset[str]:
        unavailable = set()
        for name, check in self._checks.items():
            try:
                check()
            except UnavailableError:
                unavailable.add(name)
        return frozenset(unavailable)


def health_router(readiness: Readiness, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz")
    async def healthz() -> Status:
        """The process answers."""
        return Status(status="ok")

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", responses={503: {"model": Status}})
    async def readyz(response: Response) -> Status:
        """MLflow and the database answer. The log names the one that does not."""
        ready = await readiness.is_ready()
        response.status_code = 200 if ready else 503
        return Status(status="ready" if ready else "unavailable")

    @router.get(
        "/metrics",
        dependencies=[Depends(require_role(Role.reader))],
        response_class=Response,
        responses=documented() | {200: {"content": {"text/plain": {}}, "description": "text"}},
    )
    def get_metrics() -> Response:
        """Prometheus' text format: requests by route, decisions, versions with changed files, state of the chain."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
