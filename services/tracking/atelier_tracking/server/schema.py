"""Revision of MLflow's tables. A start creates tables in an empty database only; migrating is a separate command.

MLflow itself migrates at start if a newer release added a table, and refuses to start if one changed a column. Migrations
cannot be undone, so an operator runs them after a backup.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from atelier_tracking.errors import SchemaError

if TYPE_CHECKING:
    from sqlalchemy import Engine

COMMAND = "python -m atelier_tracking migrate"
LOCK = 0x61746C_0003
"""PostgreSQL advisory lock: one process at a time creates or migrates tables."""

State = Literal["empty", "current", "older", "newer"]


class Schema:
    """Compares the tables of a database with those that this image's MLflow needs."""

    def __init__(self, engine: Engine) -> None:
        from alembic.script import ScriptDirectory
        from mlflow.store.db import utils

        self._engine, self._mlflow = engine, utils
        script = ScriptDirectory.from_config(utils._get_alembic_config(""))
        self.head = utils._get_latest_schema_revision()
        self._revisions = {revision.revision for revision in script.walk_revisions()}

    def revision(self) -> str | None:
        """Revision of the database; None if no migration was ever completed."""
        revision: str | None = self._mlflow._get_schema_version(self._engine)
        return revision

    def state(self) -> State:
        """State of the database. Tables without rows, left by an interrupted first start, count as empty."""
        revision = self.revision()
        if revision == self.head:
            return "current"
        if revision is not None:
            return "older" if revision in self._revisions else "newer"
        return "older" if self._has_rows() else "empty"

    def require_current(self) -> None:
        """Creates the tables of an empty database.

        Raises:
            SchemaError: the tables have the revision of another release.
        """
        with self._locked():
            state, revision = self.state(), self.revision()
            if state == "empty":
                self._mlflow._initialize_tables(self._engine)
        self._engine.dispose()  # the server opens its own connections
        if state == "older":
            raise SchemaError(
                f"the database's tables must be at revision {self.head} for this image; they are at {revision}, and a "
                f"migration cannot be undone: create a backup, then run `{COMMAND}` with this image and the same settings "
                "(twin: `docker compose run --rm tracking migrate`; AWS: `python -m atelier_infra upgrade`)"
            )
        if state == "newer":
            raise self._later_release(revision)

    def migrate(self) -> tuple[str | None, str]:
        """Migrates the tables to this image's revision.

        Returns:
            Revisions before and after; equal if nothing was done.

        Raises:
            SchemaError: the tables have the revision of a later release.
        """
        with self._locked():
            before, state = self.revision(), self.state()
            if state == "newer":
                raise self._later_release(before)
            if state == "empty":
                self._mlflow._initialize_tables(self._engine)
            elif state == "older":
                self._mlflow._upgrade_db(self._engine)
            self._mlflow._verify_schema(self._engine)
        return before, self.head

    def _later_release(self, revision: str | None) -> SchemaError:
        return SchemaError(
            f"the database's tables must be at revision {self.head} for this image; they are at {revision}, which "
            "belongs to a later release: start that release, or restore a backup of this one"
        )

    def _has_rows(self) -> bool:
        from mlflow.store.tracking.dbmodels.initial_models import Base
        from sqlalchemy import func, inspect, select

        existing = set(inspect(self._engine).get_table_names())
        with self._engine.connect() as connection:
            return any(
                connection.execute(select(func.count()).select_from(table)).scalar()
                for name, table in Base.metadata.tables.items()
                if name in existing
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        from sqlalchemy import text

        if self._engine.dialect.name != "postgresql":
            yield
            return
        with self._engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": LOCK})
            connection.commit()  # ends the transaction; the lock belongs to the session
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": LOCK})
                connection.commit()


def open_schema(uri: str) -> Schema:
    """The schema of the database at an SQLAlchemy URL."""
    from mlflow.store.db.utils import create_sqlalchemy_engine

    return Schema(create_sqlalchemy_engine(uri))
