"""Settings from environment variables: valid, or refused with all problems at once."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from atelier_tracking.errors import SettingsError
from atelier_tracking.server.mlflow_env import database_uri, mlflow_environment
from atelier_tracking.settings import FROM_FILES, NAMES, Settings, read_settings
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url

HASH = "$apr1$abcdefgh$0123456789012345678901"
MINIMAL = {
    "DB_NAME": "mlflow",
    "DB_USER": "mlflow",
    "DB_PW": "pw",
    "DB_PORT": "5432",
    "DB_ENDPOINT": "db.example",
    "AWS_BUCKET_NAME": "artifacts",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "eu-central-1",
    "HTPASSWD": f"ada:{HASH}",
}


def problems(**changes: str) -> str:
    with pytest.raises(SettingsError) as error:
        read_settings(MINIMAL | changes)
    return str(error.value)


def test_the_reference_walk_throughs_variables_are_sufficient() -> None:
    settings = read_settings(MINIMAL)
    assert [login.user for login in settings.logins] == ["ada"]
    assert settings.roles is None and settings.registry_user is None
    assert mlflow_environment(settings)["MLFLOW_ARTIFACTS_DESTINATION"] == "s3://artifacts"


def test_an_empty_environment_lists_all_required_variables() -> None:
    with pytest.raises(SettingsError) as error:
        read_settings({})
    missing = {line.split(":")[0].split(" ")[0] for line in str(error.value).splitlines()}
    assert missing == {"DB_NAME", "DB_USER", "DB_PW", "DB_PORT", "DB_ENDPOINT", "AWS_BUCKET_NAME", "AWS_REGION", "HTPASSWD"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"DB_PORT": "0"}, "DB_PORT: .*received '0'"),
        ({"DB_PORT": "fifty"}, "DB_PORT: .*received 'fifty'"),
        ({"DB_ENDPOINT": "db.example:5432"}, "DB_ENDPOINT: .*received 'db.example:5432'"),
        ({"DB_PW": "two\nlines"}, "DB_PW: must be printable characters in one line$"),
        ({"DB_TLS_MODE": "on"}, "DB_TLS_MODE: .*received 'on'"),
        ({"DB_TLS_MODE": "verify-full"}, "DB_TLS_CA_FILE: must be the path"),
        ({"AWS_BUCKET_NAME": "s3://x"}, "AWS_BUCKET_NAME: .*received 's3://x'"),
        ({"AWS_ACCESS_KEY_ID": ""}, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: set both or none; received only AWS_SECRET"),
        ({"S3_ENDPOINT_URL": "s3:4566"}, "S3_ENDPOINT_URL: must be an http"),
        ({"S3_ENDPOINT_URL": "http://me:pw@s3"}, "S3_ENDPOINT_URL: must not contain a login$"),
        ({"S3_ENDPOINT_URL": "http://a", "S3_PUBLIC_ENDPOINT_URL": "http://b"}, "must be the same URL"),
        ({"PUBLIC_URL": "https://a/b"}, "PUBLIC_URL: must be scheme://name .*received 'https://a/b'"),
        ({"TRUSTED_PROXIES": "10.0.0.0/8 lb.example"}, "TRUSTED_PROXIES: .*received 'lb.example'"),
        ({"TLS_KEY_FILE": __file__}, "TLS_CERTIFICATE_FILE and TLS_KEY_FILE: set both or none"),
        ({"HTPASSWD_FILE": "/nowhere"}, "HTPASSWD and HTPASSWD_FILE: set one of them"),
        ({"HTPASSWD": "", "HTPASSWD_FILE": "/nowhere"}, "HTPASSWD_FILE: must be a text file .*received /nowhere"),
        ({"ROLES": "ada king"}, "ROLES, line 1: .*received 'ada king'"),
        ({"ROLES": "eve reader"}, "ROLES, line 1: user eve is not in HTPASSWD"),
        ({"ROLES": "# none"}, "ROLES: user ada of HTPASSWD has no role"),
        ({"REGISTRY_USER": "eve"}, "REGISTRY_USER: must be a user of HTPASSWD; received eve; users are ada"),
        ({"ROLES": "ada trainer", "REGISTRY_USER": "ada"}, "REGISTRY_USER: ada must be a promoter or admin"),
    ],
)
def test_a_problem_has_rule_and_value(changes: dict[str, str], words: str) -> None:
    message = problems(**changes)
    assert re.search(words, message, re.M)
    assert len(message.splitlines()) == 1


def test_all_problems_are_reported_without_secrets() -> None:
    message = problems(DB_PORT="x", AWS_REGION="Mars", DB_PW="hid\tden", HTPASSWD="ada:hidden", ROLES="x", PUBLIC_URL="nope")
    assert {line.split(":")[0].split(",")[0] for line in message.splitlines()} == {
        "DB_PORT",
        "AWS_REGION",
        "DB_PW",
        "HTPASSWD",
        "PUBLIC_URL",
    }
    assert "hid" not in message


def test_secrets_are_read_from_files(tmp_path: Path) -> None:
    values = {name: MINIMAL[name] for name in FROM_FILES if name in MINIMAL} | {"ROLES": "ada admin\n"}
    environment = {name: value for name, value in MINIMAL.items() if name not in values}
    for name, value in values.items():
        (tmp_path / name).write_text(value + "\n")
        environment[f"{name}_FILE"] = str(tmp_path / name)
    settings = read_settings(environment)
    assert settings.db_pw.get_secret_value() == "pw"
    assert settings.roles == {"ada": "admin"}
    assert "'pw'" not in repr(settings)


@given(st.text(st.characters(exclude_categories=("C", "Z")) | st.just(" "), min_size=1))
def test_any_password_can_be_in_the_database_url(password: str) -> None:
    settings = read_settings(MINIMAL | {"DB_PW": password})
    url = make_url(database_uri(settings))
    assert (url.password, url.host, url.port, url.database) == (password, "db.example", 5432, "mlflow")
    assert unquote(database_uri(settings).split(":", 2)[2].rpartition("@")[0]) == password


@pytest.mark.parametrize(
    ("given_url", "origin"),
    [
        ("https://Sketch.example:443/", "https://sketch.example"),
        ("http://a:8080", "http://a:8080"),
        ("http://[2001:DB8::1]", "http://[2001:db8::1]"),
    ],
)
def test_public_url_is_normalized_to_an_origin(given_url: str, origin: str) -> None:
    assert read_settings(MINIMAL | {"PUBLIC_URL": given_url}).public_url == origin


def test_every_setting_is_documented_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/tracking/settings.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z0-9_]+)`[^|]*\| ([^|]+) \|", page, re.M))
    assert set(rows) == set(NAMES)
    for name, default in rows.items():
        field = Settings.model_fields["logins" if name == "HTPASSWD" else name.lower()]
        optional = "none" if field.default in (None, ()) else f"`{field.default}`"
        expected = "required" if field.is_required() else optional
        assert default.strip() == expected, name
    assert {name for name in FROM_FILES if f"`{name}_FILE`" in page} == set(FROM_FILES)
