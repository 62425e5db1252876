"""The image on a database of an older and of a later release: refused, migrated by its own command, then served."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import PASSWORDS, apr1
from .containers import IMAGE, Neighbours, docker, tracking
from .test_outages import said

NEXT_TO_LAST = "75868b020152"
OLDER = f"""
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
    command.upgrade(config, "{NEXT_TO_LAST}")
    connection.execute(text("INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time, "
                            "last_update_time) VALUES (7, 'mine', 'mlflow-artifacts:/7', 'active', 1, 1)"))
"""


@pytest.fixture
def settings(around: Neighbours, tmp_path: Path) -> dict[str, str]:
    around.sql("DROP DATABASE IF EXISTS another; CREATE DATABASE another;")
    return around.settings(HTPASSWD=f"ada:{apr1(PASSWORDS['ada'])}", DB_NAME="another")


def job(around: Neighbours, settings: dict[str, str], folder: Path, *words: str, stdin: str = "", entry: str = "") -> str:
    file = folder / "job.env"
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    options = ["--rm", "-i", "--env-file", str(file), "--network", around.network, *(["--entrypoint", entry] if entry else [])]
    return docker("run", *options, IMAGE, *words, stdin=stdin)


def revision(around: Neighbours) -> str:
    return around.sql("COPY alembic_version TO STDOUT;", "another").strip()


def test_an_older_database_is_refused_migrated_and_served(around: Neighbours, settings, tmp_path: Path):
    job(around, settings, tmp_path, "-", stdin=OLDER, entry="python3")
    with tracking(settings, tmp_path, "--network", around.network, logins=PASSWORDS, ready=False) as server:
        assert docker("wait", server.name, timeout_s=120).strip() == "4"
        [line] = said(server, "the database's tables are those of another release")
        assert NEXT_TO_LAST in line["reason"] and "python -m atelier_tracking migrate" in line["reason"]
        assert "Traceback" not in server.log()
    assert revision(around) == NEXT_TO_LAST
    assert f"migrated from revision {NEXT_TO_LAST} to " in job(around, settings, tmp_path, "migrate")
    assert f"is at revision {revision(around)} already" in job(around, settings, tmp_path, "migrate")
    with tracking(settings, tmp_path, "--network", around.network, logins=PASSWORDS) as server:
        assert server.call("ada", "GET", "experiments/get?experiment_id=7")["experiment"]["name"] == "mine"


def test_a_database_of_a_later_release_is_left_alone(around: Neighbours, settings, tmp_path: Path):
    job(around, settings, tmp_path, "migrate")
    around.sql("UPDATE alembic_version SET version_num = 'ffffffffffff';", "another")
    with tracking(settings, tmp_path, "--network", around.network, logins=PASSWORDS, ready=False) as server:
        assert docker("wait", server.name, timeout_s=120).strip() == "4"
        assert "restore a backup from before" in server.log()
    assert revision(around) == "ffffffffffff"
