"""Liveness, readiness and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer

from atelier_infer.aliases.alias_tracker import AliasTracker
from atelier_infer.api.schemas import Status
from atelier_infer.engine.engine import Engine
from atelier_infer.metrics import Metrics
from atelier_infer.problems import DOCUMENTED


def make_health_router(*, engine: Engine, tracker: AliasTracker, metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", responses={503: {"model": Status}})
    async def healthz() -> Response:
        """Whether the process responds and the engine's thread is not stuck; otherwise restart it. No token required."""
        if not engine.alive:
            return JSONResponse(Status(status="stuck").model_dump(), 503)
        return JSONResponse(Status(status="alive").model_dump())

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", responses={503: {"model": Status}})
    async def readyz() -> Response:
        """Whether requests are answered, if only with "no champion yet". No token required."""
        if engine.draining or not tracker.ready:
            status = Status(status="draining" if engine.draining else "starting")
            return JSONResponse(status.model_dump(), 503)
        return JSONResponse(Status(status="stale" if tracker.stale else "ready").model_dump())

    @router.get(
        "/metrics",
        dependencies=[Depends(HTTPBearer(auto_error=False))],
        response_class=Response,
        responses={401: DOCUMENTED[401]},
    )
    async def exposition() -> Response:
        """Prometheus' text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
