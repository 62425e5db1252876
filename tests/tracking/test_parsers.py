"""Property tests: any environment or file is parsed, or refused with a list of problems."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from atelier_tracking.errors import LoginsError, RolesError, SettingsError
from atelier_tracking.gate.nginx_config import write_files
from atelier_tracking.htpasswd import USER, parse_logins
from atelier_tracking.roles import ROLES, parse_roles
from atelier_tracking.server.mlflow_env import mlflow_environment
from atelier_tracking.settings import FROM_FILES, NAMES, read_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .test_htpasswd import APR1, BCRYPT, SHA256, SHA512
from .test_settings import MINIMAL

HASHES = st.sampled_from([APR1, BCRYPT, SHA256, SHA512, APR1.replace("$", "$$"), "$2y$99$" + "a" * 53, "{SHA}x", "plain"])
WORDS = st.sampled_from(["ada", "ADA", "default", "include", "-", "a b", "", "#", "é", "a:b", *ROLES])
COLONS = st.sampled_from([":", "", " ", "::"])
LINES = st.builds("{}{}{}".format, WORDS | st.text(max_size=8), COLONS, HASHES | st.text(max_size=70))
ENDS = st.sampled_from(["\n", "\r\n", "\\n"])
FILE = st.builds(lambda lines, end: end.join(lines), st.lists(LINES, max_size=6), ENDS)
ODD = [
    "http://[",
    "http://a:99999999",
    "https://a'b",
    "http://$x",
    "http://a/%zz",
    "0",
    "-1",
    "1e9",
    "\u0663",
    "::/0",
    "/",
    "\x00",
]
VALUES = st.text(max_size=60) | st.sampled_from(ODD)


@given(FILE | st.text())
def test_any_password_file_is_parsed_or_refused(text: str) -> None:
    try:
        logins = parse_logins(text)
    except LoginsError as error:
        assert error.problems and all(re.match("HTPASSWD(, line \\d+.*)?: ", problem) for problem in error.problems)
        assert not any(len(secret) > 20 and secret in str(error) for secret in re.findall(r"[./0-9A-Za-z]{22,}", text))
    else:
        assert logins and all(USER.fullmatch(login.user) for login in logins)
        assert len({login.user.lower() for login in logins}) == len(logins)


@given(FILE | st.text(), st.lists(WORDS, unique=True, max_size=4))
def test_any_roles_are_parsed_or_refused(text: str, users: list[str]) -> None:
    try:
        roles = parse_roles(text, users)
    except RolesError as error:
        assert error.problems and all(problem.startswith("ROLES") for problem in error.problems)
    else:
        assert set(roles) == set(users) and set(roles.values()) <= set(ROLES)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_any_environment_is_parsed_or_refused(tmp_path_factory: pytest.TempPathFactory, changes: dict[str, str]) -> None:
    try:
        valid_settings = read_settings(MINIMAL | changes)
    except SettingsError as error:
        assert error.problems and all(re.match("[A-Z0-9_]+", problem)[0] in {*NAMES, "ROLES"} for problem in error.problems)
        return
    folder = tmp_path_factory.mktemp("run")
    write_files(valid_settings, folder)
    assert "\x00" not in (folder / "nginx.conf").read_text()
    assert all(isinstance(value, str) and "\x00" not in value for value in mlflow_environment(valid_settings).values())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(FROM_FILES), st.binary(max_size=200))
def test_any_file_is_parsed_or_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "given").write_bytes(content)
    environment = {each: value for each, value in MINIMAL.items() if each != name} | {f"{name}_FILE": str(tmp_path / "given")}
    try:
        read_settings(environment)
    except SettingsError as error:
        assert error.problems and all(re.match("[A-Z0-9_]+", problem) for problem in error.problems)


@pytest.mark.parametrize("address", ["https://a'b", "https://a$x", 'https://a"b', "https://a b", "https://a;b", "https://a{b"])
def test_a_url_with_characters_that_nginx_interprets_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="PUBLIC_URL: must"):
        read_settings(MINIMAL | {"PUBLIC_URL": address})


@pytest.mark.parametrize("folder", ["/a b", "/a;b", "/$a", "relative", "/a'b", "/a{b}", "/\u00e9"])
def test_a_folder_with_characters_that_nginx_interprets_is_refused(folder: str) -> None:
    with pytest.raises(SettingsError, match="SPOOL_DIR: must be an absolute path"):
        read_settings(MINIMAL | {"SPOOL_DIR": folder})
