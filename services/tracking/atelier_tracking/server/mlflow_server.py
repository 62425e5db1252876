"""MLflow's own process: waits for the database, then serves on a Unix socket.

MLflow's command line would keep a second interpreter as a parent (150 MiB), and would end when the database is not there yet.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from atelier_tracking.gate.protected_names import reserve
from atelier_tracking.gate.sources import write_odd_sources
from atelier_tracking.log import say
from atelier_tracking.server.mlflow_env import REGISTRY_USER

RETRY_S = 2.0
WRONG_SCHEMA = 4
"""Exit status: starting again helps only with another image, or after a migration."""
KEEP_ALIVE_S = 120
"""Longer than nginx keeps its connections, so that none is closed while nginx sends a request on it."""


def wait_until(connect: Callable[[], None], failure: type[Exception], pause: Callable[[float], None] = time.sleep) -> None:
    """Returns when `connect` succeeds; says once why it does not, and again when the reason changes.

    Args:
        connect: tries to reach the database.
        failure: what it raises when it cannot.
        pause: waits between two tries.
    """
    reason = ""
    while True:
        try:
            connect()
        except failure as error:
            if (now := " ".join(str(error).split())) != reason:
                say("database not reachable, trying again", reason=now)
                reason = now
            pause(RETRY_S)
        else:
            if reason:
                say("database reachable")
            return


def main() -> None:
    socket, drain_s = Path(sys.argv[1]), int(sys.argv[2])
    uri = os.environ["MLFLOW_BACKEND_STORE_URI"]

    # MLflow mounts its pages with a middleware that starlette means to drop; whoever starts this image can do nothing about it
    warnings.filterwarnings("ignore", message="starlette.middleware.wsgi is deprecated")

    import psycopg2
    import uvicorn
    from mlflow.server import constants
    from mlflow.server.handlers import initialize_backend_stores

    from atelier_tracking.errors import SchemaError
    from atelier_tracking.server.schema import open_schema

    libpq = uri.replace("postgresql+psycopg2://", "postgresql://", 1)
    wait_until(lambda: psycopg2.connect(libpq).close(), psycopg2.OperationalError)
    try:
        open_schema(uri).require_current()
    except SchemaError as error:
        say("the database's tables are those of another release", reason=str(error))
        sys.exit(WRONG_SCHEMA)
    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = uri
    os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
    os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = os.environ["MLFLOW_ARTIFACTS_DESTINATION"]
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
    initialize_backend_stores(uri, default_artifact_root="mlflow-artifacts:/")
    write_odd_sources(
        libpq, os.environ["MLFLOW_ARTIFACTS_DESTINATION"].removeprefix("s3://"), socket.parent / "state/odd_sources.json"
    )
    if registry_user := os.environ.get(REGISTRY_USER):
        reserve(registry_user)
    say("MLflow serves")
    uvicorn.run(
        "mlflow.server.fastapi_app:app",
        uds=str(socket),
        access_log=False,  # nginx writes it, with the user
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=drain_s,
    )


if __name__ == "__main__":
    main()
