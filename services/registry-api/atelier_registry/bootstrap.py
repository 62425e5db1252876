"""Runs the service: reads the settings, builds the parts, serves until told to stop."""

from __future__ import annotations

import sys
from types import FrameType

import uvicorn
from atelier_contracts.tokens import TokenFile

from atelier_registry.access_log import configure_logging
from atelier_registry.app import create_app
from atelier_registry.config.policy import BUILT_IN, read_policy
from atelier_registry.config.settings import Settings, SettingsError, hand_over_login, read_settings
from atelier_registry.config.subscribers import read_subscribers
from atelier_registry.decisions.revert_monitor import HttpServedReader, ServedReader
from atelier_registry.errors import RegistryApiError
from atelier_registry.events.event_stream import EventStream
from atelier_registry.events.webhooks.dispatcher import WebhookDispatcher
from atelier_registry.events.webhooks.offsets import WebhookOffsets
from atelier_registry.models.infer_client import HttpInferClient, InferClient, NoInferClient
from atelier_registry.models.mlflow_registry import MlflowRegistry, limit_waiting
from atelier_registry.storage.ledger import Ledger
from atelier_registry.storage.locks import open_locks
from atelier_registry.storage.migrate import migrate
from atelier_registry.storage.tables import open_database


class Server(uvicorn.Server):
    """Ends the event streams the moment the signal comes: an open stream would otherwise use up the drain time."""

    def __init__(self, config: uvicorn.Config, event_stream: EventStream) -> None:
        super().__init__(config)
        self._feed = event_stream

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by uvicorn for SIGTERM and SIGINT."""
        self._feed.end()
        super().handle_exit(sig, frame)


def serve() -> int:
    """Serves until told to stop; 2 where a setting, the policy or the database's schema is wrong."""
    try:
        settings = read_settings()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    hand_over_login(settings)
    configure_logging()
    limit_waiting(settings.tracking_timeout_s)
    engine = open_database(settings.database())
    try:
        migrate(engine)
        policy = read_policy(settings.policy_file or BUILT_IN)
        subscribers = read_subscribers(settings.subscribers_file) if settings.subscribers_file else []
    except RegistryApiError as error:
        sys.stderr.write(f"registry-api cannot start: {error}\n")
        return 2
    ledger = Ledger(engine)
    event_stream = EventStream(ledger)
    locks = open_locks(engine, settings.lock_wait_s)
    app = create_app(
        registry=MlflowRegistry(settings.tracking_uri),
        ledger=ledger,
        locks=locks,
        event_stream=event_stream,
        push=WebhookDispatcher(subscribers, ledger, WebhookOffsets(engine), locks),
        tokens=TokenFile(settings.token_file),
        policy=policy,
        infer_client=_stager(settings),
        outside_poll_s=settings.outside_poll_s,
        read_age_s=settings.read_age_s,
        integrity_check_s=settings.integrity_check_s,
        served=_served(settings),
        revert_poll_s=settings.revert_poll_s,
    )
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,  # ours is in place
        access_log=False,
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )
    Server(config, event_stream).run()
    return 0


def _served(settings: Settings) -> ServedReader | None:
    if settings.infer_url and (token := settings.token_for_infer()):
        return HttpServedReader(settings.infer_url, token)
    return None


def _stager(settings: Settings) -> InferClient:
    if settings.infer_url and (token := settings.token_for_infer()):
        return HttpInferClient(settings.infer_url, token, settings.stage_timeout_s)
    return NoInferClient()
