"""`python -m atelier_infer`: the only place that builds things."""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType

import uvicorn
from atelier_contracts.access import TokenFile
from fastapi import FastAPI

from atelier_infer.app import create_app
from atelier_infer.engine import Engine
from atelier_infer.requestlog import JsonLines
from atelier_infer.settings import Settings, SettingsError, hand_over_login, read_settings

MLFLOW_ENVIRONMENT = {
    # by default a request is tried for four minutes, which no caller of ours waits for; staging tries again by itself
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Read by MLflow's client; what the environment says already wins."""

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


def build(settings: Settings, engine: Engine) -> FastAPI:
    """The application over the real registry."""
    # mlflow reads part of its environment while it is imported
    from atelier_infer.mlflow_store import MlflowStore

    store = MlflowStore(tracking_uri=settings.tracking_uri, model=settings.model)
    return create_app(engine=engine, store=store, tokens=TokenFile(settings.token_file), settings=settings)


def main() -> int:
    """Serves until a signal; 2 when the settings are not legal."""
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"atelier_infer cannot start:\n{error}\n")
        return 2
    hand_over_login(settings)
    for name, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    engine = Engine(queue_limit=settings.queue_limit, drain_timeout_s=settings.drain_timeout_s)
    config = uvicorn.Config(
        build(settings, engine),
        host=settings.host,
        port=settings.port,
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
