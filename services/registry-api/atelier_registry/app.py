"""The application, made of the parts that it is given."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from atelier_contracts.access import TokenFile
from fastapi import FastAPI, Response
from starlette.concurrency import run_in_threadpool

from atelier_registry import problems
from atelier_registry.access import BearerAccess
from atelier_registry.answers import Status
from atelier_registry.catalogue_routes import catalogue_router
from atelier_registry.decisions import DecisionLog
from atelier_registry.errors import UnavailableError
from atelier_registry.health import Readiness
from atelier_registry.logs import RequestLog
from atelier_registry.promotion_routes import promotion_router
from atelier_registry.promotions import Promotions
from atelier_registry.registry import ModelRegistry

log = logging.getLogger(__name__)


def create_app(*, registry: ModelRegistry, decisions: DecisionLog, tokens: TokenFile) -> FastAPI:
    """The whole service, ready for an ASGI server.

    Args:
        registry: where models, versions and aliases are.
        decisions: where decisions are kept.
        tokens: who may come in.
    """
    promotions = Promotions(registry, decisions)
    readiness = Readiness({"database": decisions.ping, "tracking": registry.ping})

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            await run_in_threadpool(promotions.reconcile)
        except UnavailableError as error:
            log.warning("pending decisions wait for the next decision on their alias: %s", error)
        yield

    app = FastAPI(
        title="Atelier registry-api",
        summary="Lists, inspects, promotes and rolls back versions of models, and keeps every decision.",
        version="1",
        docs_url=None,  # its page would load scripts from elsewhere, and could not send a token
        redoc_url=None,
        lifespan=lifespan,
    )
    app.include_router(catalogue_router(registry))
    app.include_router(promotion_router(promotions, registry, decisions))

    @app.get("/healthz", tags=["health"])
    async def healthz() -> Status:
        """The process answers."""
        return Status(status="ok")

    @app.get("/readyz", tags=["health"], responses={503: {"model": Status}})
    async def readyz(response: Response) -> Status:
        """MLflow and the database answer. Which one does not is told by the log."""
        ready = await readiness.ready()
        response.status_code = 200 if ready else 503
        return Status(status="ready" if ready else "unavailable")

    problems.install(app)
    app.add_middleware(BearerAccess, tokens=tokens)
    app.add_middleware(RequestLog)  # the last one added is the outermost
    return app
