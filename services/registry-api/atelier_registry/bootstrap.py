"""Reads the settings, builds every part, and serves. Nothing else builds parts."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import FrameType

import uvicorn
from atelier_contracts.promotion import Decision
from atelier_contracts.tokens import TokenFile
from atelier_service.access_log import configure_logging
from atelier_service.settings import SettingsError
from fastapi import FastAPI

from atelier_registry.api.health import Readiness
from atelier_registry.app import Parts, create_app
from atelier_registry.config.policy import BUILT_IN, Policy, read_policy
from atelier_registry.config.settings import Settings, export_tracking_password, read_settings
from atelier_registry.config.subscribers import read_subscribers
from atelier_registry.decisions.alias_reconciler import AliasReconciler
from atelier_registry.decisions.alias_writer import AliasWriter
from atelier_registry.decisions.anchor_stores import AnchorStore, MlflowAnchorStore, S3AnchorStore
from atelier_registry.decisions.approvals import Approvals
from atelier_registry.decisions.chain_anchor import ChainAnchor
from atelier_registry.decisions.policy_evaluation import PolicyEvaluator
from atelier_registry.decisions.promotions import Promotions
from atelier_registry.decisions.retirement import Retirement
from atelier_registry.decisions.revert_monitor import HttpServedModelReader, RevertMonitor, ServedModelReader
from atelier_registry.decisions.styles.style_editor import StyleEditor
from atelier_registry.decisions.styles.style_writer import StyleWriter
from atelier_registry.errors import RegistryApiError
from atelier_registry.events.event_stream import EventStream
from atelier_registry.events.webhooks.dispatcher import WebhookDispatcher
from atelier_registry.events.webhooks.offsets import WebhookOffsets
from atelier_registry.metrics import Metrics
from atelier_registry.models.artifact_digests import AdapterDigests
from atelier_registry.models.cached_registry import CachedRegistry
from atelier_registry.models.infer_client import BoundedInferClient, HttpInferClient, InferClient, NoInferClient
from atelier_registry.models.integrity_monitor import IntegrityMonitor
from atelier_registry.models.mlflow_client import configure_client
from atelier_registry.models.mlflow_registry import MlflowRegistry
from atelier_registry.models.model_registry import ModelRegistry
from atelier_registry.storage.database import open_database
from atelier_registry.storage.ledger import Ledger
from atelier_registry.storage.locks import AliasLocks, open_locks
from atelier_registry.storage.migrate import migrate

MAX_INFER_DECISIONS, MAX_INFER_PREVIEWS = 8, 4
"""Requests that may wait for infer at the same time; of 40 worker threads the others stay free."""


@dataclass(frozen=True)
class Intervals:
    """Times in seconds; the settings of the same names describe them."""

    alias_poll_s: float = 5.0
    cache_ttl_s: float = 1.0
    integrity_check_s: float = 300.0
    revert_poll_s: float = 30.0
    readiness_ttl_s: float = 2.0


class Server(uvicorn.Server):
    """Ends the event streams as soon as the signal arrives; open streams would otherwise use up the drain timeout."""

    def __init__(self, config: uvicorn.Config, event_stream: EventStream) -> None:
        super().__init__(config)
        self._event_stream = event_stream

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by uvicorn for SIGTERM and SIGINT."""
        self._event_stream.close()
        super().handle_exit(sig, frame)


def build_app(
    *,
    registry: ModelRegistry,
    ledger: Ledger,
    locks: AliasLocks,
    event_stream: EventStream,
    webhooks: WebhookDispatcher,
    tokens: TokenFile,
    policy: Policy,
    infer_client: InferClient,
    served_model_reader: ServedModelReader | None = None,
    anchor_stores: tuple[AnchorStore, ...] = (),
    intervals: Intervals = Intervals(),
) -> FastAPI:
    """Builds the parts and the application.

    Args:
        registry: models, versions and aliases.
        ledger: decisions and events.
        locks: allow one decision at a time on each alias.
        event_stream: sends events to clients; its streams end when it is closed.
        webhooks: sends events to subscribers.
        tokens: who has access.
        policy: the rules.
        infer_client: loads versions without serving them.
        served_model_reader: reads what infer serves; None without infer.
        anchor_stores: for the chain's newest entry, in addition to MLflow.
        intervals: of the background threads and caches.
    """
    cache = CachedRegistry(registry, intervals.cache_ttl_s)
    digests = AdapterDigests(registry, ledger)
    preview_digests = AdapterDigests(registry, ledger, MAX_INFER_PREVIEWS)
    decision_client = BoundedInferClient(infer_client, MAX_INFER_DECISIONS, "decisions")
    preview_client = BoundedInferClient(infer_client, MAX_INFER_PREVIEWS, "previews")
    evaluator = PolicyEvaluator(registry, digests, policy, decision_client)
    preview_evaluator = PolicyEvaluator(registry, preview_digests, policy, preview_client)
    alias_writer = AliasWriter(registry, ledger, digests, locks)
    style_writer = StyleWriter(registry, ledger, locks)
    integrity = IntegrityMonitor(registry, ledger, digests, intervals.integrity_check_s)
    anchor = ChainAnchor([MlflowAnchorStore(registry), *anchor_stores], ledger)
    metrics = Metrics()
    metrics.add_gauge("changed_versions", "Versions with an alias whose files were changed", lambda: integrity.count)
    metrics.add_gauge("chain_broken", "1 where the chain is not the one that was anchored", lambda: anchor.problem is not None)

    def on_entry(decision: Decision) -> None:
        metrics.count_decision(decision)
        if decision.outcome != "pending":
            cache.invalidate()
            event_stream.notify()
            webhooks.notify()
            anchor.notify()

    ledger.add_listener(on_entry)
    return create_app(
        Parts(
            tokens=tokens,
            registry=cache,
            ledger=ledger,
            metrics=metrics,
            readiness=Readiness({"database": ledger.ping, "tracking": registry.ping}, intervals.readiness_ttl_s),
            preview_client=preview_client,
            promotions=Promotions(registry, ledger, alias_writer, evaluator, preview_evaluator),
            approvals=Approvals(registry, ledger, alias_writer, evaluator),
            retirement=Retirement(registry, ledger, alias_writer),
            style_editor=StyleEditor(registry, ledger, style_writer),
            event_stream=event_stream,
            webhooks=webhooks,
            reconciler=AliasReconciler(registry, ledger, alias_writer, style_writer, intervals.alias_poll_s),
            integrity=integrity,
            reverts=RevertMonitor(served_model_reader, ledger, intervals.revert_poll_s),
            anchor=anchor,
        )
    )


def serve() -> int:
    """Serves until it is stopped. Returns 2 for invalid settings, an invalid policy, or a database that cannot be migrated."""
    try:
        settings = read_settings()
    except SettingsError as error:
        sys.stderr.write(f"registry-api cannot start:\n{error}\n")
        return 2
    export_tracking_password(settings)
    configure_logging(sys.stdout)
    configure_client(settings.tracking_timeout_s)
    engine = open_database(settings.database())
    try:
        migrate(engine)
        policy = read_policy(settings.policy_file or BUILT_IN)
        subscribers = read_subscribers(settings.subscribers_file) if settings.subscribers_file else []
    except RegistryApiError as error:
        sys.stderr.write(f"registry-api cannot start: {error}\n")
        return 2
    ledger = Ledger(engine)
    event_stream = EventStream(ledger.outbox)
    locks = open_locks(engine, settings.lock_timeout_s)
    infer_token = settings.token_for_infer()
    app = build_app(
        registry=MlflowRegistry(settings.tracking_uri),
        ledger=ledger,
        locks=locks,
        event_stream=event_stream,
        webhooks=WebhookDispatcher(subscribers, ledger.outbox, WebhookOffsets(engine), locks),
        tokens=TokenFile(settings.token_file),
        policy=policy,
        infer_client=_infer_client(settings, infer_token),
        anchor_stores=(S3AnchorStore(settings.anchor_bucket),) if settings.anchor_bucket else (),
        served_model_reader=HttpServedModelReader(settings.infer_url, infer_token)
        if settings.infer_url and infer_token
        else None,
        intervals=Intervals(
            alias_poll_s=settings.alias_poll_s,
            cache_ttl_s=settings.cache_ttl_s,
            integrity_check_s=settings.integrity_check_s,
            revert_poll_s=settings.revert_poll_s,
        ),
    )
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,  # logging is configured above
        access_log=False,
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )
    Server(config, event_stream).run()
    return 0


def _infer_client(settings: Settings, token: str | None) -> InferClient:
    if settings.infer_url and token:
        return HttpInferClient(settings.infer_url, token, settings.stage_timeout_s)
    return NoInferClient()
