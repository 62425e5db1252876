"""A start creates tables in an empty database and never migrates."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from atelier_tracking.errors import SchemaError
from atelier_tracking.server.schema import open_schema
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base
from sqlalchemy import create_engine, inspect, text

PREVIOUS_REVISION = "75868b020152"  # the last migration of MLflow 3.17 creates a table, so MLflow itself would run it at start


def create_older_database(uri: str) -> set[str]:
    """Creates the tables of an older MLflow with one row; returns their names."""
    engine = create_engine(uri)
    with engine.begin() as connection:
        Base.metadata.create_all(connection)
        config = _get_alembic_config(uri)
        config.attributes["connection"] = connection
        command.upgrade(config, PREVIOUS_REVISION)
        connection.execute(text("INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (7, 'mine', 'active')"))
    return set(inspect(engine).get_table_names())


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_tables_are_created_in_an_empty_database(uri: str) -> None:
    schema = open_schema(uri)
    assert schema.state() == "empty"
    schema.require_current()
    assert (schema.state(), schema.revision()) == ("current", schema.head)
    schema.require_current()


def test_an_older_database_is_refused_and_unchanged(uri: str) -> None:
    tables = create_older_database(uri)
    schema = open_schema(uri)
    with pytest.raises(SchemaError) as error:
        schema.require_current()
    for words in (schema.head, PREVIOUS_REVISION, "python -m atelier_tracking migrate", "create a backup"):
        assert words in str(error.value)
    assert schema.revision() == PREVIOUS_REVISION
    assert set(inspect(create_engine(uri)).get_table_names()) == tables


def test_migrate_is_idempotent(uri: str) -> None:
    create_older_database(uri)
    schema = open_schema(uri)
    assert schema.migrate() == (PREVIOUS_REVISION, schema.head)
    assert schema.migrate() == (schema.head, schema.head)
    schema.require_current()
    with create_engine(uri).connect() as connection:
        assert connection.execute(text("SELECT name FROM experiments WHERE experiment_id = 7")).scalar() == "mine"


def test_a_database_of_a_later_release_is_refused(uri: str) -> None:
    schema = open_schema(uri)
    schema.require_current()
    with create_engine(uri).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'ffffffffffff'"))
    for call in (schema.require_current, schema.migrate):
        with pytest.raises(SchemaError, match=r"ffffffffffff, which belongs to a later release: start that release"):
            call()


def test_an_interrupted_first_start_is_completed(uri: str) -> None:
    Base.metadata.create_all(create_engine(uri))
    schema = open_schema(uri)
    assert schema.state() == "empty"
    schema.require_current()
    assert schema.state() == "current"


def test_tables_with_rows_and_no_revision_are_not_empty(uri: str) -> None:
    engine = create_engine(uri)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO experiments (name, lifecycle_stage) VALUES ('mine', 'active')"))
    with pytest.raises(SchemaError, match="they are at None"):
        open_schema(uri).require_current()
