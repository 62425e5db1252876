"""`python -m atelier_infer`: reads the settings, builds the application and serves it."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from atelier_contracts.tokens import TokenFile
from atelier_service.access_log import configure_logging
from atelier_service.settings import SettingsError
from fastapi import FastAPI

from atelier_infer.engine.malloc import return_large_blocks
from atelier_infer.errors import ProviderError
from atelier_infer.http_timeouts import protocol_with_header_timeout
from atelier_infer.metrics import Metrics
from atelier_infer.settings import Settings, export_tracking_password, read_settings

if TYPE_CHECKING:
    from atelier_infer.engine.engine import Engine

ENVIRONMENT = {
    # otherwise ONNX Runtime stores a device id and a database of events in the home folder
    "ORT_DISABLE_TELEMETRY": "1",
    # by default a request is retried for four minutes, longer than any caller waits; aliases are polled again anyway
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Defaults of variables that libraries read, some of them while they are imported."""

MARGIN_S = 10
"""In addition to drain_timeout_s, for the current step and for sending the last responses."""


class Server(uvicorn.Server):
    """Drains the engine as soon as the signal arrives, so that open connections cannot start new jobs."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by uvicorn for SIGTERM and SIGINT."""
        self._engine.drain()
        super().handle_exit(sig, frame)


def build(settings: Settings, engine: Engine, metrics: Metrics) -> FastAPI:
    """The application with the tracking server of the settings."""
    from atelier_infer.app import create_app
    from atelier_infer.registry.mlflow_store import MlflowStore

    store = MlflowStore(tracking_uri=settings.tracking_uri, model=settings.model)
    tokens = TokenFile(settings.token_file)
    return create_app(engine=engine, metrics=metrics, store=store, tokens=tokens, settings=settings)


def main() -> int:
    """Exit status; 2 for invalid settings."""
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"atelier_infer cannot start:\n{error}\n")
        return 2
    export_tracking_password(settings)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    configure_logging(sys.stderr)
    return serve(settings)


def serve(settings: Settings) -> int:
    """Until a signal; 2 without the provider. Libraries that read the environment are imported from here on."""
    from atelier_infer.app import make_engine, make_runtime

    try:
        make_runtime(settings).check()
    except ProviderError as error:
        sys.stderr.write(f"atelier_infer cannot start:\nATELIER_INFER_PROVIDER: {error}\n")
        return 2
    return_large_blocks()
    metrics = Metrics()
    engine = make_engine(settings, metrics)
    config = uvicorn.Config(
        build(settings, engine, metrics),
        host=settings.host,
        port=settings.port,
        http=protocol_with_header_timeout(settings.header_timeout_s),
        log_config=None,
        access_log=False,  # atelier_service.access_log logs more
        timeout_graceful_shutdown=int(settings.drain_timeout_s) + MARGIN_S,
    )
    # uvicorn raises the signal again after a graceful shutdown, which is a success
    signal.signal(signal.SIGTERM, lambda *_: None)
    Server(config, engine).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
