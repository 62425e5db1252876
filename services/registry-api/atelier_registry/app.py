"""The application, made of the parts that it is given."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from atelier_contracts.generate import Problem
from atelier_contracts.promotion import RefusedProblem
from atelier_contracts.request_body import RequestBodies
from atelier_contracts.tokens import TokenFile
from fastapi import FastAPI, Response
from starlette.concurrency import run_in_threadpool

from atelier_registry import problems
from atelier_registry.access_log import AccessLog
from atelier_registry.api import ui
from atelier_registry.api.auth import Authentication
from atelier_registry.api.catalogue import catalogue_router
from atelier_registry.api.etags import ETags
from atelier_registry.api.events import event_router
from atelier_registry.api.health import Readiness
from atelier_registry.api.images import image_router
from atelier_registry.api.promotions import promotion_router
from atelier_registry.api.schemas import Status
from atelier_registry.api.subscribers import subscriber_router
from atelier_registry.config.policy import Policy
from atelier_registry.decisions.alias_reconciler import AliasReconciler
from atelier_registry.decisions.alias_writer import AliasWriter
from atelier_registry.decisions.approvals import Approvals
from atelier_registry.decisions.chain_anchor import ChainAnchor
from atelier_registry.decisions.policy_evaluation import PolicyEvaluator
from atelier_registry.decisions.promotions import Promotions
from atelier_registry.decisions.retirement import Retirement
from atelier_registry.decisions.revert_monitor import RevertMonitor, ServedReader
from atelier_registry.errors import UnavailableError
from atelier_registry.events.event_stream import EventStream
from atelier_registry.events.webhooks.dispatcher import WebhookDispatcher
from atelier_registry.metrics import Metrics, metrics_router
from atelier_registry.models.artifact_digests import AdapterDigests
from atelier_registry.models.bounded_infer_client import BoundedInferClient
from atelier_registry.models.cached_registry import CachedRegistry
from atelier_registry.models.infer_client import InferClient
from atelier_registry.models.integrity_monitor import IntegrityMonitor
from atelier_registry.models.model_registry import ModelRegistry
from atelier_registry.storage.ledger import Ledger
from atelier_registry.storage.locks import AliasLocks

log = logging.getLogger(__name__)

DECISIONS_AT_INFER, LOOKS_AT_INFER = 8, 4
"""Requests that may wait for infer at a time; there are 40 threads, so what needs no infer gets one."""

MAX_BODY_BYTES = 64 * 1024
"""Of any request: eight images with prompts of 2000 characters, and room."""

PUSH_ENDS_S = 3.0
"""So long the end of the process waits for a subscriber's answer; without it the event is posted again at the next start."""


def create_app(
    *,
    registry: ModelRegistry,
    ledger: Ledger,
    locks: AliasLocks,
    event_stream: EventStream,
    push: WebhookDispatcher,
    tokens: TokenFile,
    policy: Policy,
    infer_client: InferClient,
    outside_poll_s: float,
    read_age_s: float,
    integrity_check_s: float,
    served: ServedReader | None = None,
    revert_poll_s: float = 30.0,
) -> FastAPI:
    """The whole service, ready for an ASGI server.

    Args:
        registry: where models, versions and aliases are.
        ledger: where decisions and events are kept.
        locks: one decision at a time on each alias.
        event_stream: tells events to listeners; its streams end when it is told to end.
        push: posts events to subscribers.
        tokens: who may come in.
        policy: the rules.
        infer_client: who loads versions without serving them.
        outside_poll_s: how often MLflow is looked at for aliases that others moved.
        read_age_s: how old MLflow's answer may be for a request that only looks.
        served: tells what infer draws with; None where there is no infer.
        revert_poll_s: how often it is asked.
        integrity_check_s: how often the files of versions that aliases point at are compared with their digests.
    """
    recent = CachedRegistry(registry, read_age_s)

    def changed() -> None:
        recent.forget()
        event_stream.nudge()
        push.nudge()
        anchor.nudge()

    digests = AdapterDigests(registry, ledger)
    alias_writer = AliasWriter(registry, ledger, digests, locks, changed)
    for_readers = AdapterDigests(registry, ledger, at_once=LOOKS_AT_INFER)
    deciding, looking = (
        BoundedInferClient(infer_client, DECISIONS_AT_INFER, "decisions"),
        BoundedInferClient(infer_client, LOOKS_AT_INFER, "readers"),
    )
    evaluator, preview = (
        PolicyEvaluator(registry, digests, policy, deciding),
        PolicyEvaluator(registry, for_readers, policy, looking),
    )
    metrics = Metrics()
    ledger.watch(metrics.decision)
    integrity = IntegrityMonitor(registry, ledger, digests, integrity_check_s)
    anchor = ChainAnchor(registry, ledger)
    reverts = RevertMonitor(served, ledger, revert_poll_s)
    metrics.gauge("changed_files", "Versions that aliases point at whose files were changed", lambda: integrity.count)
    metrics.gauge("chain_changed", "1 where the chain is not what was anchored", lambda: float(anchor.problem is not None))
    watch = AliasReconciler(registry, ledger, alias_writer, outside_poll_s)
    readiness = Readiness({"database": ledger.ping, "tracking": registry.ping})

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            await run_in_threadpool(watch.prepare)
        except UnavailableError as error:
            log.warning("what an earlier process left waits until MLflow answers: %s", error)
        await event_stream.start()
        watch.start()
        push.start()
        integrity.start()
        anchor.start()
        reverts.start()
        yield
        watch.stop()
        integrity.stop()
        reverts.stop()
        await event_stream.stop()
        await run_in_threadpool(push.stop, PUSH_ENDS_S)
        await run_in_threadpool(anchor.stop, PUSH_ENDS_S)

    app = FastAPI(
        title="Atelier registry-api",
        summary="Lists, inspects, compares, promotes, rolls back and retires versions of models, and keeps every decision.",
        version="1",
        docs_url=None,  # its page would load scripts from elsewhere, and could not send a token
        redoc_url=None,
        lifespan=lifespan,
    )
    app.include_router(catalogue_router(recent, integrity))
    app.include_router(image_router(recent, looking))
    app.include_router(
        promotion_router(
            recent,
            ledger,
            integrity,
            Promotions(registry, ledger, alias_writer, evaluator, preview),
            Approvals(registry, ledger, alias_writer, evaluator),
            Retirement(registry, ledger, alias_writer, recent.forget),
        )
    )
    app.include_router(event_router(event_stream))
    app.include_router(metrics_router(metrics))
    app.include_router(subscriber_router(push))
    app.include_router(ui.router())

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", tags=["health"])
    async def healthz() -> Status:
        """The process answers."""
        return Status(status="ok")

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", tags=["health"], responses={503: {"model": Status}})
    async def readyz(response: Response) -> Status:
        """MLflow and the database answer. Which one does not is told by the log."""
        ready = await readiness.ready()
        response.status_code = 200 if ready else 503
        return Status(status="ready" if ready else "unavailable")

    problems.install(app)
    problems.describe(app, Problem, RefusedProblem)
    app.add_middleware(ETags)
    app.add_middleware(RequestBodies, limit_bytes=lambda path: MAX_BODY_BYTES)
    app.add_middleware(Authentication, tokens=tokens)
    app.add_middleware(AccessLog, measure=metrics.request)  # the last one added is the outermost
    return app
