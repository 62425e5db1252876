"""The revision of MLflow's tables: a start makes them in an empty database and leaves every other one as it is.

MLflow by itself migrates at a start where a newer release added a table, and refuses where one changed a column; neither can be
taken back. So a migration is a command of its own, before which a backup is made.
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
"""Of PostgreSQL's advisory locks: one process makes or migrates tables, the others wait."""

State = Literal["empty", "current", "older", "newer"]


class Schema:
    """The tables of one database against those that this image's MLflow needs."""

    def __init__(self, engine: Engine) -> None:
        from alembic.script import ScriptDirectory
        from mlflow.store.db import utils

        self._engine, self._mlflow = engine, utils
        script = ScriptDirectory.from_config(utils._get_alembic_config(""))
        self.head = utils._get_latest_schema_revision()
        self._known = {each.revision for each in script.walk_revisions()}

    def revision(self) -> str | None:
        """What the database says of itself; None where no migration was ever finished."""
        found: str | None = self._mlflow._get_schema_version(self._engine)
        return found

    def state(self) -> State:
        """Where the database stands. A first start that was cut short left tables without a row, which count as none."""
        revision = self.revision()
        if revision == self.head:
            return "current"
        if revision is not None:
            return "older" if revision in self._known else "newer"
        return "older" if self._holds_rows() else "empty"

    def require_current(self) -> None:
        """Makes the tables of an empty database.

        Raises:
            SchemaError: the tables are those of another release.
        """
        with self._locked():
            state, revision = self.state(), self.revision()
            if state == "empty":
                self._mlflow._initialize_tables(self._engine)
        self._engine.dispose()  # the server that starts now has connections of its own
        if state == "older":
            raise SchemaError(
                f"the database's tables must be at revision {self.head} for this image; they are at {revision}, and a "
                f"migration cannot be undone: make a backup, then run `{COMMAND}` with this image and the same settings "
                "(twin: `docker compose run --rm tracking migrate`; AWS: `python -m atelier_infra upgrade`)"
            )
        if state == "newer":
            raise self._later_release(revision)

    def migrate(self) -> tuple[str | None, str]:
        """Brings the tables to this image's revision.

        Returns:
            The revisions before and after; equal where there was nothing to do.

        Raises:
            SchemaError: a later release wrote the database.
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
            "it does not know: start the later release that wrote them, or restore a backup from before"
        )

    def _holds_rows(self) -> bool:
        from mlflow.store.tracking.dbmodels.initial_models import Base
        from sqlalchemy import func, inspect, select

        there = set(inspect(self._engine).get_table_names())
        with self._engine.connect() as connection:
            return any(
                connection.execute(select(func.count()).select_from(table)).scalar()
                for name, table in Base.metadata.tables.items()
                if name in there
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        from sqlalchemy import text

        if self._engine.dialect.name != "postgresql":
            yield
            return
        with self._engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": LOCK})
            connection.commit()  # the lock is the session's; no transaction stays open under it
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": LOCK})
                connection.commit()


def open_schema(uri: str) -> Schema:
    """The schema of the database at an SQLAlchemy address."""
    from mlflow.store.db.utils import create_sqlalchemy_engine

    return Schema(create_sqlalchemy_engine(uri))
