"""Settings: complete at the start, all problems at once, and documented."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from atelier_registry.config.settings import PREFIX, Settings, export_tracking_password, read_settings
from atelier_service.settings import SettingsError

REFERENCE = Path(__file__).parents[3] / "docs/reference/registry-api"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'decisions.db'}"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, token_file: Path, database_url: str) -> Any:
    monkeypatch.setenv("ATELIER_REGISTRY_TRACKING_URI", "http://tracking:5000/")
    monkeypatch.setenv("ATELIER_REGISTRY_DATABASE_URL", database_url)
    monkeypatch.setenv("ATELIER_REGISTRY_TOKEN_FILE", str(token_file))
    return monkeypatch


def test_complete_settings_are_read(environment: Any, database_url: str) -> None:
    settings = read_settings()
    assert (settings.host, settings.port, settings.drain_timeout_s) == ("127.0.0.1", 8001, 30)
    assert settings.tracking_uri == "http://tracking:5000"
    assert settings.database_url.get_secret_value() == database_url
    assert database_url not in repr(settings)


def test_all_problems_at_once(environment: Any) -> None:
    environment.delenv("ATELIER_REGISTRY_TRACKING_URI")
    environment.setenv("ATELIER_REGISTRY_PORT", "eighty")
    environment.setenv("ATELIER_REGISTRY_TOKEN_FILE", "/nowhere/tokens")
    environment.setenv("ATELIER_REGISTRY_TRACKING_URL", "http://mistyped:5000")
    with pytest.raises(SettingsError) as found:
        read_settings()
    lines = str(found.value).splitlines()
    assert sorted(line.split(":")[0].strip() for line in lines) == [
        "ATELIER_REGISTRY_PORT",
        "ATELIER_REGISTRY_TOKEN_FILE",
        "ATELIER_REGISTRY_TRACKING_URI",
        "ATELIER_REGISTRY_TRACKING_URL",
    ]
    assert "received 'eighty'" in str(found.value)
    assert "No such file or directory: '/nowhere/tokens'" in str(found.value)
    assert "is required (address of the MLflow server)" in str(found.value)
    assert "no such setting" in str(found.value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("TRACKING_URI", "tracking:5000", "must be the address of an MLflow server"),
        ("TRACKING_URI", "file:///mlruns", "must be the address of an MLflow server"),
        ("TRACKING_URI", "http://user:hunter2@tracking:5000", "must not contain a login"),
        ("DATABASE_URL", "hunter2", "must be a database address"),
        ("DATABASE_URL", "postgresql://user:hunter2@/atelier", "must name a host and a database"),
        ("DATABASE_URL", "mysql://user:hunter2@db/atelier", "must name a PostgreSQL database, or a SQLite file"),
        ("DATABASE_URL", "sqlite://", "or a SQLite file"),
        ("POLICY_FILE", "/nowhere/policy.yaml", "the policy cannot be read"),
        ("INFER_URL", "infer:8002", "must be the address of infer"),
        ("INFER_TOKEN", "hunter2", "set both or neither"),
        ("ALIAS_POLL_S", "0", "greater than 0"),
        ("DATABASE_URL", "sqlite:////nowhere/decisions.db", "a folder that exists"),
        ("PORT", "0", "greater than or equal to 1"),
        ("DRAIN_TIMEOUT_S", "-1", "greater than or equal to 0"),
        ("TRACKING_TIMEOUT_S", "0", "greater than or equal to 1"),
    ],
)
def test_invalid_values_are_refused_without_secrets(environment: Any, name: str, value: str, told: str) -> None:
    environment.setenv(PREFIX + name, value)
    with pytest.raises(SettingsError, match=re.escape(told)) as found:
        read_settings()
    assert "hunter2" not in str(found.value)


def test_an_empty_variable_counts_as_absent(environment: Any) -> None:
    for name in ("INFER_URL", "INFER_TOKEN", "POLICY_FILE", "HOST"):
        environment.setenv(PREFIX + name, "")
    settings = read_settings()
    assert (settings.infer_url, settings.policy_file, settings.host) == (None, None, "127.0.0.1")


def test_secrets_are_read_from_files(environment: Any, tmp_path: Path) -> None:
    for name in ("database", "infer", "tracking"):
        (tmp_path / name).write_text(f"p@ss/{name}\n")
    environment.setenv(PREFIX + "DATABASE_URL", "postgresql://atelier_registry@db:5432/mlflow")
    environment.setenv(PREFIX + "DATABASE_PASSWORD_FILE", str(tmp_path / "database"))
    environment.setenv(PREFIX + "INFER_URL", "http://infer:8002/")
    environment.setenv(PREFIX + "INFER_TOKEN_FILE", str(tmp_path / "infer"))
    environment.setenv(PREFIX + "TRACKING_PASSWORD_FILE", str(tmp_path / "tracking"))
    environment.setenv("MLFLOW_TRACKING_USERNAME", "registry-api")
    settings = read_settings()
    assert settings.database() == "postgresql://atelier_registry:p%40ss%2Fdatabase@db:5432/mlflow"
    assert settings.token_for_infer() == "p@ss/infer"
    export_tracking_password(settings)
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "p@ss/tracking"
    with pytest.raises(SettingsError, match="replaces MLFLOW_TRACKING_PASSWORD"):
        read_settings()
    environment.setenv(PREFIX + "INFER_TOKEN", "twice")
    with pytest.raises(SettingsError, match="set both or neither"):
        read_settings()


def test_an_invalid_token_file_is_refused(environment: Any, token_file: Path) -> None:
    token_file.write_text("pia promoter nohash\n\nada king 00\n")
    with pytest.raises(SettingsError, match=r"line 1.*line 3"):
        read_settings()


def test_the_password_may_come_from_a_file(environment: Any, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from a file\n")
    environment.setenv(PREFIX + "TRACKING_PASSWORD_FILE", str(file))
    environment.setenv("MLFLOW_TRACKING_PASSWORD", "")
    environment.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    with pytest.raises(SettingsError, match="set MLFLOW_TRACKING_USERNAME with it"):
        read_settings()
    environment.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    export_tracking_password(read_settings())
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "from a file"
    with pytest.raises(SettingsError, match="and not MLFLOW_TRACKING_PASSWORD"):
        read_settings()


def test_the_reference_lists_every_setting() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", (REFERENCE / "settings.md").read_text(), re.MULTILINE)
    assert [name for name, _ in rows] == [PREFIX + name.upper() for name in Settings.model_fields]
    for (_, default), field in zip(rows, Settings.model_fields.values(), strict=True):
        assert default == ("required" if field.is_required() else f"`{field.default}`")
