"""Migrates the database to the schema of this release."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from atelier_registry.errors import DatabaseUnavailableError, SchemaError
from atelier_registry.storage.tables import SCHEMA

_MIGRATION_LOCK = 0x61746C_0001  # key of a PostgreSQL advisory lock: one process migrates, the others wait


def migrate(engine: Engine) -> None:
    """Runs the missing revisions. Several processes may start at the same time.

    Raises:
        SchemaError: the schema is missing and the user may not create it, or a later release wrote the database.
        DatabaseUnavailableError: the database does not answer.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    try:
        with engine.execution_options(immediate=True).begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                # IF NOT EXISTS needs the right to create even where the schema exists
                if connection.execute(text("SELECT to_regnamespace(:name)"), {"name": SCHEMA}).scalar() is None:
                    connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
            config.attributes["connection"] = connection
            known = {revision.revision for revision in ScriptDirectory.from_config(config).walk_revisions()}
            if (present := _revision(connection)) and present not in known:
                raise SchemaError(
                    f"the database is at revision {present}, and this release knows only {max(known)}; start a newer release"
                )
            command.upgrade(config, "head")
    except SQLAlchemyError as error:
        if "permission denied" in str(error):
            raise SchemaError(
                f"the database user may not create the schema {SCHEMA!r}; have the database's owner create it for this user"
            ) from error
        raise DatabaseUnavailableError from error


def _revision(connection: object) -> str | None:
    from alembic.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_revision()  # type: ignore[arg-type]
