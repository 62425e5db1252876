"""`python -m atelier_registry`: reads the settings, builds the parts, serves. The only place that builds anything."""

from __future__ import annotations

import sys

import uvicorn
from atelier_contracts.access import TokenFile

from atelier_registry.app import create_app
from atelier_registry.decisions import DecisionLog
from atelier_registry.logs import configure_logging
from atelier_registry.mlflow_registry import MlflowRegistry, limit_waiting
from atelier_registry.settings import SettingsError, hand_over_login, read_settings
from atelier_registry.tables import create_tables, open_database


def main() -> None:
    """Serves until told to stop. Exits with 2 where a setting is missing or wrong."""
    try:
        settings = read_settings()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    hand_over_login(settings)
    configure_logging()
    limit_waiting(settings.tracking_timeout_s)
    engine = open_database(settings.database_url.get_secret_value())
    create_tables(engine)
    app = create_app(
        registry=MlflowRegistry(settings.tracking_uri),
        decisions=DecisionLog(engine),
        tokens=TokenFile(settings.token_file),
    )
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,  # ours is in place
        access_log=False,
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )


if __name__ == "__main__":
    main()
