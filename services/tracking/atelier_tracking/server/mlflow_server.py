"""MLflow's process: waits for the database, then serves on a Unix socket.

MLflow's command line would keep a second interpreter as parent (150 MiB), and would exit if the database is not available yet.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from atelier_tracking.gate.protected_names import protect_handlers
from atelier_tracking.gate.sources import write_noncanonical_sources
from atelier_tracking.log import log_event
from atelier_tracking.server.mlflow_env import REGISTRY_USER

RETRY_S = 2.0
EXIT_SCHEMA_MISMATCH = 4
"""Exit code: a restart is useless without another image or a migration."""
KEEP_ALIVE_S = 120
"""Longer than nginx's keep-alive, so that no connection is closed while nginx sends a request on it."""


def wait_for_database(
    connect: Callable[[], None], failure: type[Exception], sleep: Callable[[float], None] = time.sleep
) -> None:
    """Returns when `connect` succeeds; logs each new reason for a failure once.

    Args:
        connect: connects to the database.
        failure: exception that it raises.
        sleep: waits between two attempts; an argument for tests.
    """
    reason = ""
    while True:
        try:
            connect()
        except failure as error:
            if (new_reason := " ".join(str(error).split())) != reason:
                log_event("database unavailable", reason=new_reason)
                reason = new_reason
            sleep(RETRY_S)
        else:
            if reason:
                log_event("database available")
            return


def main() -> None:
    socket, drain_s = Path(sys.argv[1]), int(sys.argv[2])
    uri = os.environ["MLFLOW_BACKEND_STORE_URI"]

    # MLflow mounts its pages with a middleware that starlette has deprecated
    warnings.filterwarnings("ignore", message="starlette.middleware.wsgi is deprecated")

    import psycopg2
    import uvicorn
    from mlflow.server import constants
    from mlflow.server.handlers import initialize_backend_stores

    from atelier_tracking.errors import SchemaError
    from atelier_tracking.server.schema import open_schema

    database_url = uri.replace("postgresql+psycopg2://", "postgresql://", 1)
    wait_for_database(lambda: psycopg2.connect(database_url).close(), psycopg2.OperationalError)
    try:
        open_schema(uri).require_current()
    except SchemaError as error:
        log_event("schema mismatch", reason=str(error))
        sys.exit(EXIT_SCHEMA_MISMATCH)
    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = uri
    os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
    os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = os.environ["MLFLOW_ARTIFACTS_DESTINATION"]
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
    initialize_backend_stores(uri, default_artifact_root="mlflow-artifacts:/")
    write_noncanonical_sources(
        database_url,
        os.environ["MLFLOW_ARTIFACTS_DESTINATION"].removeprefix("s3://"),
        socket.parent / "state/noncanonical_sources.json",
    )
    if registry_user := os.environ.get(REGISTRY_USER):
        protect_handlers(registry_user)
    log_event("MLflow started")
    uvicorn.run(
        "mlflow.server.fastapi_app:app",
        uds=str(socket),
        access_log=False,  # nginx writes it
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=drain_s,
    )


if __name__ == "__main__":
    main()
