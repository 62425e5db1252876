"""The image on databases of older and later releases: refused; an older one is migrated, then served."""

from __future__ import annotations

from pathlib import Path

import pytest

from .containers import IMAGE, PASSWORDS, BackingServices, apr1, docker, tracking
from .test_outages import events

PREVIOUS_REVISION = "75868b020152"
CREATE_OLDER_DATABASE = f"""
import os
from alembic import command
from mlflow.store.db.utils import _get_alembic_config, create_sqlalchemy_engine
from mlflow.store.tracking.dbmodels.initial_models import Base
from sqlalchemy import text
uri = "postgresql+psycopg2://{{DB_USER}}:{{DB_PW}}@{{DB_ENDPOINT}}/{{DB_NAME}}".format(**os.environ)
engine = create_sqlalchemy_engine(uri)
Base.metadata.create_all(engine)
with engine.begin() as connection:
    config = _get_alembic_config(uri)
    config.attributes["connection"] = connection
    command.upgrade(config, "{PREVIOUS_REVISION}")
    connection.execute(text("INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time, "
                            "last_update_time) VALUES (7, 'mine', 'mlflow-artifacts:/7', 'active', 1, 1)"))
"""


@pytest.fixture
def settings(backing_services: BackingServices, tmp_path: Path) -> dict[str, str]:
    backing_services.sql("DROP DATABASE IF EXISTS another; CREATE DATABASE another;")
    return backing_services.settings(HTPASSWD=f"ada:{apr1(PASSWORDS['ada'])}", DB_NAME="another")


def job(
    backing_services: BackingServices, settings: dict[str, str], folder: Path, *words: str, stdin: str = "", entry: str = ""
) -> str:
    file = folder / "job.env"
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    options = [
        "--rm",
        "-i",
        "--env-file",
        str(file),
        "--network",
        backing_services.network,
        *(["--entrypoint", entry] if entry else []),
    ]
    return docker("run", *options, IMAGE, *words, stdin=stdin)


def revision(backing_services: BackingServices) -> str:
    return backing_services.sql("COPY alembic_version TO STDOUT;", "another").strip()


def test_an_older_database_is_refused_migrated_and_served(
    backing_services: BackingServices, settings: dict[str, str], tmp_path: Path
) -> None:
    job(backing_services, settings, tmp_path, "-", stdin=CREATE_OLDER_DATABASE, entry="python3")
    with tracking(settings, tmp_path, "--network", backing_services.network, logins=PASSWORDS, ready=False) as server:
        assert docker("wait", server.name, timeout_s=120).strip() == "4"
        [line] = events(server, "schema mismatch")
        assert PREVIOUS_REVISION in line["reason"] and "python -m atelier_tracking migrate" in line["reason"]
        assert "Traceback" not in server.log()
    assert revision(backing_services) == PREVIOUS_REVISION
    assert f"migrated from revision {PREVIOUS_REVISION} to " in job(backing_services, settings, tmp_path, "migrate")
    assert f"is already at revision {revision(backing_services)}" in job(backing_services, settings, tmp_path, "migrate")
    with tracking(settings, tmp_path, "--network", backing_services.network, logins=PASSWORDS) as server:
        assert server.call("ada", "GET", "experiments/get?experiment_id=7")["experiment"]["name"] == "mine"


def test_a_database_of_a_later_release_is_refused_and_unchanged(
    backing_services: BackingServices, settings: dict[str, str], tmp_path: Path
) -> None:
    job(backing_services, settings, tmp_path, "migrate")
    backing_services.sql("UPDATE alembic_version SET version_num = 'ffffffffffff';", "another")
    with tracking(settings, tmp_path, "--network", backing_services.network, logins=PASSWORDS, ready=False) as server:
        assert docker("wait", server.name, timeout_s=120).strip() == "4"
        assert "restore a backup of this one" in server.log()
    assert revision(backing_services) == "ffffffffffff"
