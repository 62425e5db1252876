"""`python -m atelier_infer`: the only place that builds things."""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from atelier_contracts.tokens import TokenFile
from fastapi import FastAPI

from atelier_infer.api.access_log import JsonLines
from atelier_infer.engine.malloc import give_back_large_blocks
from atelier_infer.errors import ProviderError
from atelier_infer.http_timeouts import timed_connection
from atelier_infer.metrics import Metrics
from atelier_infer.settings import Settings, SettingsError, hand_over_login, read_settings

if TYPE_CHECKING:
    from atelier_infer.engine.engine import Engine

ENVIRONMENT = {
    # ONNX Runtime otherwise keeps a device id and a database of events in the home folder
    "ORT_DISABLE_TELEMETRY": "1",
    # by default a request is tried for four minutes, which no caller of ours waits for; staging tries again by itself
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Libraries read these, in part while they are imported; what the environment says already wins."""

MARGIN_S = 10
"""Beyond drain_timeout_s, for the step that runs and for sending the last answers."""


class Server(uvicorn.Server):
    """Tells the engine of the end the moment the signal comes, so that no new drawing starts on an open connection."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by uvicorn for SIGTERM and SIGINT."""
        self._engine.drain()
        super().handle_exit(sig, frame)


def build(settings: Settings, engine: Engine, metrics: Metrics) -> FastAPI:
    """The application over the real registry."""
    from atelier_infer.app import create_app
    from atelier_infer.registry.mlflow_store import MlflowStore

    store = MlflowStore(tracking_uri=settings.tracking_uri, model=settings.model)
    tokens = TokenFile(settings.token_file)
    return create_app(engine=engine, metrics=metrics, store=store, tokens=tokens, settings=settings)


def main() -> int:
    """Reads the environment and serves; 2 when the settings are not legal."""
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"atelier_infer cannot start:\n{error}\n")
        return 2
    hand_over_login(settings)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    return serve(settings)


def serve(settings: Settings) -> int:
    """Until a signal; 2 when the provider is missing. Libraries that read the environment are imported from here on."""
    from atelier_infer.app import make_engine, make_runtime

    try:
        make_runtime(settings).check()
    except ProviderError as error:
        sys.stderr.write(f"atelier_infer cannot start:\nATELIER_INFER_PROVIDER: {error}\n")
        return 2
    give_back_large_blocks()
    metrics = Metrics()
    engine = make_engine(settings, metrics)
    config = uvicorn.Config(
        build(settings, engine, metrics),
        host=settings.host,
        port=settings.port,
        http=timed_connection(settings.header_timeout_s),
        log_config=None,
        access_log=False,  # requestlog writes a line with more in it
        timeout_graceful_shutdown=int(settings.drain_timeout_s) + MARGIN_S,
    )
    # uvicorn raises the signal again after a graceful end; that end is a success
    signal.signal(signal.SIGTERM, lambda *_: None)
    Server(config, engine).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
