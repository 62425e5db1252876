"""Credentials are created once, written to env files, and kept."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from atelier_contracts.tokens import Role, Token, parse_tokens
from atelier_infra.errors import InputError
from atelier_infra.secrets import credentials, env_files


def logins(folder: Path) -> Any:
    return [line.split() for line in (folder / "logins").read_text().splitlines() if not line.startswith("#")]


def test_a_new_environment_has_two_logins_with_matching_hashes(tmp_path: Path) -> None:
    assert credentials.create_missing(tmp_path, ["tracking"], "ana", env_file=False) == [
        "tracking admin ana",
        "tracking trainer trainer",
    ]
    values = env_files.read(tmp_path / "tracking.env")
    hashes = dict(line.split(":") for line in values["HTPASSWD"].split(r"\n"))
    for _, _, name, password in logins(tmp_path):
        assert bcrypt.checkpw(password.encode(), hashes[name].encode())
        assert password not in (tmp_path / "tracking.env").read_text()
    assert values["ROLES"] == r"ana admin\ntrainer trainer"
    assert "DB_PW" not in values


def test_files_are_readable_by_the_owner_only(tmp_path: Path) -> None:
    credentials.create_missing(tmp_path / "secrets", ["tracking", "infer"], "ana", env_file=True)
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "secrets").iterdir()} == {0o600}


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    credentials.create_missing(tmp_path, ["tracking", "infer"], "ana", env_file=True)
    before = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert credentials.create_missing(tmp_path, ["tracking", "infer"], "somebody-else", env_file=True) == []
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == before


def test_an_added_service_gets_a_login_and_a_token(tmp_path: Path) -> None:
    credentials.create_missing(tmp_path, ["tracking"], "ana", env_file=False)
    credentials.create_missing(tmp_path, ["tracking", "registry-api"], "ana", env_file=False)
    tracking, registry = env_files.read(tmp_path / "tracking.env"), env_files.read(tmp_path / "registry-api.env")
    hashes = dict(line.split(":") for line in tracking["HTPASSWD"].split(r"\n"))
    assert bcrypt.checkpw(registry["MLFLOW_TRACKING_PASSWORD"].encode(), hashes[registry["MLFLOW_TRACKING_USERNAME"]].encode())
    assert "registry-api promoter" in tracking["ROLES"].split(r"\n")
    [token] = parse_tokens(registry["ATELIER_TOKENS"].replace(r"\n", "\n"))
    [clear] = [words[3] for words in logins(tmp_path) if words[0] == "registry-api"]
    assert (token.id, token.role, token.sha256) == ("ana", Role.admin, hashlib.sha256(clear.encode()).hexdigest())


def token_lines(values: dict[str, str]) -> dict[str, Token]:
    return {each.id: each for each in parse_tokens(values["ATELIER_TOKENS"].replace(r"\n", "\n"))}


def test_apis_get_tokens_for_each_other_if_both_run(tmp_path: Path) -> None:
    credentials.create_missing(tmp_path, ["tracking", "infer"], "ana", env_file=False)
    assert "ATELIER_INFER_REGISTRY_TOKEN" not in env_files.read(tmp_path / "infer.env")
    for _ in range(2):
        credentials.create_missing(tmp_path, ["tracking", "infer", "registry-api"], "ana", env_file=False)
        infer, registry = env_files.read(tmp_path / "infer.env"), env_files.read(tmp_path / "registry-api.env")
        asks_infer, asks_registry = token_lines(infer)["registry-api"], token_lines(registry)["infer"]
        assert (asks_infer.role, asks_registry.role) == (Role.promoter, Role.reader)
        assert asks_infer.sha256 == hashlib.sha256(registry["ATELIER_REGISTRY_INFER_TOKEN"].encode()).hexdigest()
        assert asks_registry.sha256 == hashlib.sha256(infer["ATELIER_INFER_REGISTRY_TOKEN"].encode()).hexdigest()
        assert set(token_lines(infer)) == {"ana", "registry-api"}


def test_removing_a_service_removes_the_token_for_it(tmp_path: Path) -> None:
    credentials.create_missing(tmp_path, ["tracking", "infer", "registry-api"], "ana", env_file=True)
    credentials.create_missing(tmp_path, ["tracking", "registry-api"], "ana", env_file=True)
    registry = env_files.read(tmp_path / "registry-api.env")
    assert "ATELIER_REGISTRY_INFER_TOKEN" not in registry
    assert set(token_lines(registry)) == {"ana"}


def test_registry_api_gets_the_database_password_in_its_env_file(tmp_path: Path) -> None:
    credentials.create_missing(tmp_path, ["tracking", "registry-api"], "ana", env_file=False)
    assert "PGPASSWORD" not in env_files.read(tmp_path / "registry-api.env")
    credentials.create_missing(tmp_path, ["tracking", "registry-api"], "ana", env_file=True)
    tracking = env_files.read(tmp_path / "tracking.env")
    assert env_files.read(tmp_path / "registry-api.env")["PGPASSWORD"] == tracking["DB_PW"] != ""
    env_files.write(tmp_path / "tracking.env", tracking | {"DB_PW": "another"})
    credentials.create_missing(tmp_path, ["tracking", "registry-api"], "ana", env_file=True)
    assert env_files.read(tmp_path / "registry-api.env")["PGPASSWORD"] == "another"


def test_an_existing_env_file_is_kept_and_completed(tmp_path: Path) -> None:
    (tmp_path / "tracking.env").write_text("DB_NAME=mlflow\nDB_PW=a=b c'\nHTPASSWD=joe:$apr1$abcdefgh$0123456789012345678901\n")
    credentials.create_missing(tmp_path, ["tracking"], "ana", env_file=True)
    values = env_files.read(tmp_path / "tracking.env")
    assert (values["DB_NAME"], values["DB_PW"]) == ("mlflow", "a=b c'")
    assert values["HTPASSWD"].startswith(r"joe:$apr1$abcdefgh$0123456789012345678901\ntrainer:$2b$10$")
    assert values["ROLES"] == r"joe admin\ntrainer trainer"


@pytest.mark.parametrize("line", ["HTPASSWD", "9LIVES=1", "A B=secret"])
def test_an_invalid_line_is_refused_and_its_value_is_not_printed(tmp_path: Path, line: str) -> None:
    (tmp_path / "tracking.env").write_text(f"# mine\nA=1\n{line}\n")
    with pytest.raises(InputError, match=r"tracking.env, line 3: a line must be NAME=value") as caught:
        env_files.read(tmp_path / "tracking.env")
    assert "secret" not in str(caught.value)


def test_removing_a_services_password_renews_its_login(tmp_path: Path) -> None:
    credentials.create_missing(tmp_path, ["tracking", "registry-api", "infer"], "ana", env_file=False)
    before = {name: env_files.read(tmp_path / f"{name}.env") for name in ("tracking", "registry-api", "infer")}
    kept = {name: value for name, value in before["registry-api"].items() if name != "MLFLOW_TRACKING_PASSWORD"}
    env_files.write(
        tmp_path / "registry-api.env", {name: kept[name] for name in kept if name != "ATELIER_REGISTRY_INFER_TOKEN"}
    )
    credentials.create_missing(tmp_path, ["tracking", "registry-api", "infer"], "ana", env_file=False)
    after = {name: env_files.read(tmp_path / f"{name}.env") for name in before}
    for name in ("MLFLOW_TRACKING_PASSWORD", "ATELIER_REGISTRY_INFER_TOKEN"):
        assert after["registry-api"][name] != before["registry-api"][name]
    hashes = dict(line.split(":") for line in after["tracking"]["HTPASSWD"].split(r"\n"))
    assert bcrypt.checkpw(after["registry-api"]["MLFLOW_TRACKING_PASSWORD"].encode(), hashes["registry-api"].encode())
    assert after["tracking"]["ROLES"].split(r"\n").count("registry-api promoter") == 1
    wanted = hashlib.sha256(after["registry-api"]["ATELIER_REGISTRY_INFER_TOKEN"].encode()).hexdigest()
    assert token_lines(after["infer"])["registry-api"].sha256 == wanted
    assert (after["infer"]["MLFLOW_TRACKING_PASSWORD"], token_lines(after["infer"])["ana"]) == (
        before["infer"]["MLFLOW_TRACKING_PASSWORD"],
        token_lines(before["infer"])["ana"],
    )


def test_removing_the_trainers_lines_renews_its_login(tmp_path: Path) -> None:
    credentials.create_missing(tmp_path, ["tracking"], "ana", env_file=False)
    before = env_files.read(tmp_path / "tracking.env")
    env_files.write(tmp_path / "tracking.env", {name: value.split(r"\n")[0] for name, value in before.items()})
    assert credentials.create_missing(tmp_path, ["tracking"], "ana", env_file=False) == ["tracking trainer trainer"]
    after = env_files.read(tmp_path / "tracking.env")
    assert after["ROLES"] == before["ROLES"] and after["HTPASSWD"].split(r"\n")[0] == before["HTPASSWD"].split(r"\n")[0]
    assert after["HTPASSWD"] != before["HTPASSWD"]


def test_a_missing_login_is_created_with_the_password_of_the_service(tmp_path: Path) -> None:
    credentials.create_missing(tmp_path, ["tracking", "infer"], "ana", env_file=False)
    tracking = env_files.read(tmp_path / "tracking.env")
    env_files.write(tmp_path / "tracking.env", {name: value.rpartition(r"\n")[0] for name, value in tracking.items()})
    infer = env_files.read(tmp_path / "infer.env")
    credentials.create_missing(tmp_path, ["tracking", "infer"], "ana", env_file=False)
    hashes = dict(line.split(":") for line in env_files.read(tmp_path / "tracking.env")["HTPASSWD"].split(r"\n"))
    assert env_files.read(tmp_path / "infer.env") == infer
    assert bcrypt.checkpw(infer["MLFLOW_TRACKING_PASSWORD"].encode(), hashes["infer"].encode())
