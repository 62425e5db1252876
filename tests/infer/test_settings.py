"""The process starts only with valid settings, and the reference documents each."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from atelier_infer.settings import PREFIX, Settings, events, read_settings, webhooks
from atelier_service.settings import SettingsError
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs/reference/infer/settings.md").read_text()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, token_file: Path, tmp_path: Path) -> Any:
    """A complete one; set more, delete some."""
    for name, value in {
        "TRACKING_URI": "http://tracking/",
        "MODEL": "sketches",
        "TOKEN_FILE": str(token_file),
        "CACHE_DIR": str(tmp_path / "new" / "cache"),
    }.items():
        monkeypatch.setenv(PREFIX + name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    return monkeypatch


def read() -> Settings:
    import os

    return read_settings(os.environ)


def test_four_settings_are_enough(environment: Any, tmp_path: Path) -> None:
    settings = read()
    assert settings.tracking_uri == "http://tracking"
    assert settings.cache_dir.is_dir()
    assert (settings.port, settings.scheduler, settings.queue_limit) == (8002, "ddim", 32)


def test_an_empty_variable_is_as_good_as_none(environment: Any) -> None:
    environment.setenv(PREFIX + "REGISTRY_URL", "")
    assert read().registry_url is None
    environment.setenv(PREFIX + "MODEL", "")
    with pytest.raises(SettingsError, match="ATELIER_INFER_MODEL: is required"):
        read()


def test_every_problem_is_listed_at_once(environment: Any, tmp_path: Path) -> None:
    (tmp_path / "bad tokens").write_text("rita king abc\n")
    (tmp_path / "file").write_text("")
    for name, value in {
        "TRACKING_URI": "sqlite:///mlflow.db",
        "REGISTRY_URL": "http://ada:pa55@registry",
        "TOKEN_FILE": str(tmp_path / "bad tokens"),
        "CACHE_DIR": str(tmp_path / "file" / "cache"),
        "PORT": "80000",
        "SCHEDULER": "magic",
        "QUEUE_LIMITS": "3",
    }.items():
        environment.setenv(PREFIX + name, value)
    environment.delenv(PREFIX + "MODEL")
    environment.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    with pytest.raises(SettingsError) as caught:
        read()
    lines = str(caught.value).splitlines()
    found = {line.split(":")[0].removeprefix(PREFIX) for line in lines}
    assert found == {
        *("TRACKING_URI", "REGISTRY_URL", "TOKEN_FILE", "CACHE_DIR", "PORT", "SCHEDULER", "QUEUE_LIMITS", "MODEL"),
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    }
    assert "received 'sqlite:///mlflow.db'" in str(caught.value)
    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize("text", [None, b"\xff\xfe"])
def test_a_token_file_that_cannot_be_read(environment: Any, tmp_path: Path, text: bytes | None) -> None:
    path = tmp_path / "t"
    if text is not None:
        path.write_bytes(text)
    environment.setenv(PREFIX + "TOKEN_FILE", str(path))
    with pytest.raises(SettingsError, match="TOKEN_FILE: must be a readable text file"):
        read()


def test_the_process_refuses_with_the_same_list() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "atelier_infer"], env={"ATELIER_INFER_PORT": "x"}, capture_output=True, text=True
    )
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert re.findall(r"^ATELIER_INFER_(\w+):", answer.stderr, re.M) == [
        "PORT",
        "TRACKING_URI",
        "MODEL",
        "TOKEN_FILE",
        "CACHE_DIR",
    ]


def test_the_reference_has_a_row_for_every_setting() -> None:
    rows = dict(re.findall(r"^\| `ATELIER_INFER_(\w+)` \| ([^|]+) \|", REFERENCE, re.M))
    documented = {name.lower(): default.strip().strip("`") for name, default in rows.items()}
    assert list(documented) == list(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        expected = {PydanticUndefined: "required", None: "none"}.get(field.default, str(field.default))
        assert documented[name] == expected, name


def test_events_need_an_address_and_one_token(environment: Any, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("the token\n")
    assert events(read()) is None
    environment.setenv(PREFIX + "REGISTRY_TOKEN", "the token")
    with pytest.raises(SettingsError, match="together with ATELIER_INFER_REGISTRY_URL"):
        read()
    environment.setenv(PREFIX + "REGISTRY_URL", "http://people")
    assert events(read()) == ("http://people", "the token")
    environment.setenv(PREFIX + "REGISTRY_TOKEN_FILE", str(file))
    with pytest.raises(SettingsError, match="set one of"):
        read()
    environment.delenv(PREFIX + "REGISTRY_TOKEN")
    environment.setenv(PREFIX + "EVENTS_URL", "http://registry-api:8001/")
    assert events(read()) == ("http://registry-api:8001", "the token")
    file.write_text("")
    with pytest.raises(SettingsError, match="the file is empty"):
        read()
    environment.delenv(PREFIX + "REGISTRY_TOKEN_FILE")
    with pytest.raises(SettingsError, match="EVENTS_URL: requires"):
        read()


def test_the_password_may_come_from_a_file(environment: Any, tmp_path: Path) -> None:
    import os

    from atelier_infer.settings import export_tracking_password

    file = tmp_path / "password"
    file.write_text("from a file\n")
    environment.setenv(PREFIX + "TRACKING_PASSWORD_FILE", str(file))
    with pytest.raises(SettingsError, match="MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD: set both"):
        read()
    environment.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    settings = read()
    environment.setenv("MLFLOW_TRACKING_PASSWORD", "")
    export_tracking_password(settings)
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "from a file"
    with pytest.raises(SettingsError, match="set both"):
        read()
    file.write_text("\n")
    with pytest.raises(SettingsError, match="TRACKING_PASSWORD_FILE: must contain the secret; the file is empty"):
        read()


def test_a_canary_is_an_alias_and_a_percent(environment: Any) -> None:
    assert (read().canary_alias, read().canary_percent) == (None, None)
    environment.setenv(PREFIX + "CANARY_ALIAS", "rival")
    with pytest.raises(SettingsError, match="set both or neither; received only ATELIER_INFER_CANARY_ALIAS"):
        read()
    for good in ("0", "0.5", "100"):
        environment.setenv(PREFIX + "CANARY_PERCENT", good)
        assert (read().canary_alias, read().canary_percent) == ("rival", float(good))
    for bad in ("-1", "100.1", "nan", "ten"):
        environment.setenv(PREFIX + "CANARY_PERCENT", bad)
        with pytest.raises(SettingsError, match=f"CANARY_PERCENT: .*; received '{bad}'"):
            read()
    environment.setenv(PREFIX + "CANARY_PERCENT", "10")
    for alias, words in (("champion", "must not be champion"), ("Rival", "pattern"), ("a b", "pattern")):
        environment.setenv(PREFIX + "CANARY_ALIAS", alias)
        with pytest.raises(SettingsError, match=f"CANARY_ALIAS: .*{words}.*received '{alias}'"):
            read()
    environment.delenv(PREFIX + "CANARY_ALIAS")
    with pytest.raises(SettingsError, match="received only ATELIER_INFER_CANARY_PERCENT"):
        read()


def test_webhooks_require_hosts_and_a_secret(environment: Any, tmp_path: Path) -> None:
    assert webhooks(read()) == (frozenset(), b"")
    environment.setenv(PREFIX + "WEBHOOK_HOSTS", "a.example,http://worker:9000")
    with pytest.raises(SettingsError, match="set both or neither; received only ATELIER_INFER_WEBHOOK_HOSTS"):
        read()
    file = tmp_path / "signing"
    environment.setenv(PREFIX + "WEBHOOK_SECRET_FILE", str(file))
    with pytest.raises(SettingsError, match="WEBHOOK_SECRET_FILE: cannot be read"):
        read()
    file.write_text("hunter2")
    with pytest.raises(SettingsError, match="WEBHOOK_SECRET_FILE: must contain whsec_ and the base64") as caught:
        read()
    assert "hunter2" not in str(caught.value)
    file.write_text("whsec_" + "A" * 32 + "\n")
    assert webhooks(read()) == ({("https", "a.example", 443), ("http", "worker", 9000)}, bytes(24))
    environment.setenv(PREFIX + "WEBHOOK_HOSTS", "a.example,*.example")
    with pytest.raises(SettingsError, match=r"WEBHOOK_HOSTS: each entry must be .*received '\*.example'"):
        read()
    environment.delenv(PREFIX + "WEBHOOK_HOSTS")
    with pytest.raises(SettingsError, match="received only ATELIER_INFER_WEBHOOK_SECRET_FILE"):
        read()
