"""Brings the database's tables to what this release needs."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from atelier_registry.errors import DatabaseUnavailableError, SchemaError
from atelier_registry.storage.tables import SCHEMA

_MIGRATION_LOCK = 0x61746C_0001  # of PostgreSQL's advisory locks: one process migrates, the others wait


def migrate(engine: Engine) -> None:
    """Runs the revisions that are missing; several processes may start at once.

    Raises:
        SchemaError: the schema is missing and may not be made, or the database was written by a later release.
        DatabaseUnavailableError: the database does not answer.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    try:
        with engine.execution_options(immediate=True).begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                # IF NOT EXISTS would ask for the right to create even where the schema is there
                if connection.execute(text("SELECT to_regnamespace(:name)"), {"name": SCHEMA}).scalar() is None:
                    connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
            config.attributes["connection"] = connection
            known = {revision.revision for revision in ScriptDirectory.from_config(config).walk_revisions()}
            if (present := _revision(connection)) and present not in known:
                raise SchemaError(
                    f"the database is at revision {present}, and this release knows {max(known)}: start a later one"
                )
            command.upgrade(config, "head")
    except SQLAlchemyError as error:
        if "permission denied" in str(error):
            raise SchemaError(
                f"the database's user may not create {SCHEMA!r}: let an owner create the schema for it"
            ) from error
        raise DatabaseUnavailableError from error


def _revision(connection: object) -> str | None:
    from alembic.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_revision()  # type: ignore[arg-type]
