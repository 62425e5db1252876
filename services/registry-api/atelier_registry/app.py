"""The FastAPI application, from parts that `bootstrap` builds."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from atelier_contracts.promotion import RefusedProblem
from atelier_contracts.tokens import TokenFile
from atelier_service import static_files
from atelier_service.access_log import AccessLog
from atelier_service.auth import MISSING_TOKEN, UNKNOWN_TOKEN, Authentication
from atelier_service.etags import ETags
from atelier_service.problems import PATH, add_schemas
from atelier_service.request_body import BodyLimit
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from atelier_registry.api.catalogue import catalogue_router
from atelier_registry.api.events import event_router
from atelier_registry.api.health import Readiness, health_router
from atelier_registry.api.images import image_router
from atelier_registry.api.promotions import decision_router, history_router
from atelier_registry.api.styles import style_router
from atelier_registry.api.subscribers import subscriber_router
from atelier_registry.decisions.alias_reconciler import AliasReconciler
from atelier_registry.decisions.approvals import Approvals
from atelier_registry.decisions.chain_anchor import ChainAnchor
from atelier_registry.decisions.promotions import Promotions
from atelier_registry.decisions.retirement import Retirement
from atelier_registry.decisions.revert_monitor import RevertMonitor
from atelier_registry.decisions.styles.style_editor import StyleEditor
from atelier_registry.errors import UnavailableError
from atelier_registry.events.event_stream import EventStream
from atelier_registry.events.webhooks.dispatcher import WebhookDispatcher
from atelier_registry.metrics import Metrics
from atelier_registry.models.cached_registry import CachedRegistry
from atelier_registry.models.infer_client import InferClient
from atelier_registry.models.integrity_monitor import IntegrityMonitor
from atelier_registry.problems import TABLE
from atelier_registry.storage.ledger import Ledger

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024
"""Of any request: fits eight images with prompts of 2000 characters."""

PAGE_FOLDER = Path(__file__).parent / "api/static"
PUBLIC_PATHS = ("/healthz", "/readyz")
"""Served without a token, and without details, beside the page and the list of problem types."""

STOP_TIMEOUT_S = 3.0
"""How long the shutdown waits for a webhook and for the anchor; what is cut short is repeated at the next start."""


@dataclass(frozen=True)
class Parts:
    """What the application consists of.

    Attributes:
        preview_client: generates images that are only displayed.
    """

    tokens: TokenFile
    registry: CachedRegistry
    ledger: Ledger
    metrics: Metrics
    readiness: Readiness
    preview_client: InferClient
    promotions: Promotions
    approvals: Approvals
    retirement: Retirement
    style_editor: StyleEditor
    event_stream: EventStream
    webhooks: WebhookDispatcher
    reconciler: AliasReconciler
    integrity: IntegrityMonitor
    reverts: RevertMonitor
    anchor: ChainAnchor


def create_app(parts: Parts) -> FastAPI:
    """The application, ready for an ASGI server. Its lifespan starts and stops the background threads."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            await run_in_threadpool(parts.reconciler.recover)
        except UnavailableError as error:
            log.warning("recovery delayed", extra={"fields": {"reason": str(error)}})
        await parts.event_stream.start()
        threads = (parts.reconciler, parts.webhooks, parts.integrity, parts.anchor, parts.reverts)
        for thread in threads:
            thread.start()
        yield
        for task in (parts.reconciler, parts.integrity, parts.reverts):
            task.stop()
        await parts.event_stream.stop()
        await run_in_threadpool(parts.webhooks.stop, STOP_TIMEOUT_S)
        await run_in_threadpool(parts.anchor.stop, STOP_TIMEOUT_S)

    app = FastAPI(
        title="Atelier registry-api",
        summary="Lists, compares, promotes, rolls back and retires versions of models, edits styles, and records decisions.",
        version="1",
        docs_url=None,  # its page loads scripts from elsewhere, and cannot send a token
        redoc_url=None,
        lifespan=lifespan,
    )
    app.include_router(catalogue_router(parts.registry, parts.integrity))
    app.include_router(image_router(parts.registry, parts.preview_client))
    app.include_router(decision_router(parts.promotions, parts.approvals, parts.retirement, parts.ledger))
    app.include_router(history_router(parts.registry, parts.ledger, parts.integrity))
    app.include_router(style_router(parts.registry, parts.style_editor, parts.ledger))
    app.include_router(event_router(parts.event_stream))
    app.include_router(subscriber_router(parts.webhooks))
    app.include_router(health_router(parts.readiness, parts.metrics))
    static_files.mount_page(app, PAGE_FOLDER)
    TABLE.install(app, [MISSING_TOKEN, UNKNOWN_TOKEN])
    add_schemas(app, RefusedProblem)
    app.add_middleware(ETags)
    app.add_middleware(BodyLimit, limit_bytes=lambda path: MAX_BODY_BYTES)
    app.add_middleware(Authentication, tokens=parts.tokens, is_public=is_public)
    app.add_middleware(AccessLog, measure=parts.metrics.observe_request)  # the last one added is the outermost
    return app


def is_public(path: str) -> bool:
    """Whether a path is served without a token."""
    return path in PUBLIC_PATHS or static_files.is_public(path) or path.startswith(PATH)
