"""The twin's one-off jobs without containers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from atelier_contracts.tokens import Role, parse_tokens
from atelier_twin import first_version, ports, summary
from atelier_twin.errors import FirstVersionError, PortsTaken, RequestError, SecretsError
from atelier_twin.htpasswd import apr1
from atelier_twin.secrets import LOGINS, TOKENS, generate, read_or_generate
from atelier_twin.volume_layout import PEER_TOKEN_FILES, VolumePaths, populate, secret_files

ADDRESSES = summary.Addresses("http://t:1", "http://r:2", "http://i:3", "http://s:4")


@pytest.mark.parametrize(
    ("password", "salt", "expected"),  # as `openssl passwd -apr1` prints them
    [
        ("x", "r31ab", "$apr1$r31ab$IV4CiLnUDllik5evN8GMB."),
        ("a secret of more than 16 bytes", "abcdefgh", "$apr1$abcdefgh$51R4jSlq7zC7dn4FdGFSv1"),
    ],
)
def test_apr1(password: str, salt: str, expected: str) -> None:
    assert apr1(password, salt) == expected


def test_each_hash_has_its_own_salt() -> None:
    assert apr1("x") != apr1("x")


def test_secrets_are_generated_once(tmp_path: Path) -> None:
    file = tmp_path / "secrets.json"
    secrets, generated = read_or_generate(file, {})
    again, generated_again = read_or_generate(file, {})
    assert (generated, generated_again) == (True, False)
    assert secrets == again
    assert file.stat().st_mode & 0o777 == 0o600
    other, _ = read_or_generate(tmp_path / "other.json", {})
    every = [*secrets.logins.values(), *secrets.tokens.values(), *secrets.database.values(), secrets.s3_secret_access_key]
    assert len(set(every)) == len(every)
    assert all(len(secret) >= 32 for secret in every)
    assert not set(every) & {*other.logins.values(), *other.tokens.values(), *other.database.values()}


def test_a_newer_release_adds_missing_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "chown", lambda *_: None)
    secrets = generate({})
    old = {name: secrets.tokens[name] for name in secrets.tokens if name not in PEER_TOKEN_FILES}
    file = tmp_path / "secrets.json"
    file.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(secrets, tokens=old))))
    (tmp_path / "tokens").mkdir()
    tokens = tmp_path / "tokens/tokens"
    tokens.write_text("ana promoter " + "0" * 64 + "\n")
    current, generated = read_or_generate(file, {})
    assert not generated and current.tokens.items() >= old.items() and current.tokens.keys() == TOKENS.keys()
    assert read_or_generate(file, {}) == (current, False)
    empty_file = tmp_path / "empty_file"
    empty_file.write_text("")
    paths = VolumePaths(
        secrets=tmp_path,
        trainer_home=tmp_path / "home",
        postgres_init=tmp_path,
        jobs=empty_file,
        roles=empty_file,
        base=empty_file,
    )
    (tmp_path / "home/models").mkdir(parents=True)
    (tmp_path / "home/.mlflow").mkdir()
    (tmp_path / "first-version").mkdir()
    populate(current, paths)
    assert [token.id for token in parse_tokens(tokens.read_text())] == ["ana", "registry-api", "infer"]
    assert (tmp_path / "infer/registry_token").read_text() == current.tokens["infer"]
    tokens.chmod(0o600)
    tokens.write_text("ana promoter " + "0" * 64 + "\n")  # a person revoked both
    for name in ("infer", "registry-api", "first-version", "postgres", "tracking", "tokens"):
        (tmp_path / name).chmod(0o700)
    populate(current, paths)
    assert [token.id for token in parse_tokens(tokens.read_text())] == ["ana"]


def test_a_damaged_secrets_file_is_reported_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "secrets.json"
    file.write_text('{"logins": {}')
    with pytest.raises(SecretsError, match=r"must contain this twin's secrets.*down --volumes"):
        read_or_generate(file, {})
    assert file.read_text() == '{"logins": {}'


def test_keys_of_another_s3_are_used() -> None:
    secrets = generate({"S3_ACCESS_KEY_ID": "mine", "S3_SECRET_ACCESS_KEY": "also mine"})
    assert (secrets.s3_access_key_id, secrets.s3_secret_access_key) == ("mine", "also mine")
    with pytest.raises(SecretsError, match="must be set together"):
        generate({"S3_ACCESS_KEY_ID": "mine"})


def test_each_service_can_read_only_its_own_secrets() -> None:
    secrets = generate({})
    files = secret_files(secrets)
    assert len({file.path for file in files}) == len(files)
    owners = {"postgres/postgres_password": {999}, "tracking/htpasswd": {10001}, "infer/tracking_password": {10003}}
    for path, users in owners.items():
        assert {file.user for file in files if file.path == path} == users
    readable_by_infer = "".join(file.text for file in files if file.user == 10003)
    assert secrets.logins["infer"] in readable_by_infer
    assert not [secret for name, secret in secrets.logins.items() if name != "infer" and secret in readable_by_infer]
    assert not [secret for secret in secrets.database.values() if secret in readable_by_infer]


def test_services_can_parse_the_files() -> None:
    secrets = generate({})
    text = {file.path: file.text for file in secret_files(secrets)}
    tokens = parse_tokens(text["tokens/tokens"])
    assert {token.id: token.role for token in tokens} == {name: Role[role] for name, role in TOKENS.items()}
    assert not [secret for secret in secrets.tokens.values() if secret in text["tokens/tokens"]]
    lines = dict(line.split(":", 1) for line in text["tracking/htpasswd"].splitlines())
    assert set(lines) == set(LOGINS) == {line.split()[0] for line in text["tracking/roles"].splitlines()}
    for name, hashed in lines.items():
        assert apr1(secrets.logins[name], hashed.split("$")[2]) == hashed


def test_the_summary_has_addresses_and_no_secrets() -> None:
    secrets = generate({})
    text, full = summary.summary(ADDRESSES), summary.credentials(secrets, ADDRESSES)
    assert "http://t:1" in text and "docker compose run --rm secrets login" in text
    every = [*secrets.logins.values(), *secrets.tokens.values(), *secrets.database.values(), secrets.s3_secret_access_key]
    assert not [secret for secret in every if secret in text]
    assert secrets.logins["admin"] in full and secrets.tokens["reader"] in full
    assert not [secret for secret in secrets.database.values() if secret in full]


class RegistryApi(BaseHTTPRequestHandler):
    """A fake registry-api with one response."""

    response: tuple[int, dict[str, Any]] = (200, {})

    def do_GET(self) -> None:
        status, body = self.response
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[first_version.Settings]:
    (tmp_path / "token").write_text("secret")
    server = HTTPServer(("127.0.0.1", 0), RegistryApi)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield first_version.Settings(True, "sketch", 5, f"http://127.0.0.1:{server.server_port}", tmp_path / "token")
    server.shutdown()
    server.server_close()


def test_a_twin_with_a_champion_is_not_changed(settings: first_version.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RegistryApi, "response", (200, {"aliases": {"champion": 3}}))
    output: list[str] = []
    first_version.run(settings, output.append)
    assert output == ["version 3 of sketch is champion already; nothing to do\n"]


def test_an_error_response_is_reported(settings: first_version.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RegistryApi, "response", (503, {"detail": "MLflow is unavailable"}))
    with pytest.raises(RequestError, match=r"returned 503.*MLflow is unavailable"):
        first_version.run(settings, lambda _: None)


def test_the_first_version_can_be_disabled(tmp_path: Path) -> None:
    environment = {"MODEL": "sketch", "FIRST_VERSION": "off", "FIRST_VERSION_STEPS": "5"}
    environment |= {"REGISTRY_API_URL": "http://nowhere", "TOKEN_FILE": str(tmp_path / "none")}
    output: list[str] = []
    first_version.run(first_version.Settings.read(environment), output.append)
    assert output == ["FIRST_VERSION=off: no version is trained\n"]
    with pytest.raises(FirstVersionError, match="must be on or off; received 'no'"):
        first_version.Settings.read(environment | {"FIRST_VERSION": "no"})
    with pytest.raises(FirstVersionError, match="whole number from 1; received '0'"):
        first_version.Settings.read(environment | {"FIRST_VERSION_STEPS": "0"})


def free_ports() -> dict[str, str]:
    """Settings with free ports."""
    settings = {"TWIN_ADDRESS": "127.0.0.1", "S3_ADDRESS": "127.0.0.1"}
    with contextlib.ExitStack() as stack:
        for name in ("TRACKING_PORT", "REGISTRY_API_PORT", "INFER_PORT", "S3_PORT"):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            settings[name] = str(listener.getsockname()[1])
    return settings


def test_free_ports_are_released_after_the_check() -> None:
    settings = free_ports()
    for _ in range(2):
        ports.check(ports.required(settings, ()))


def test_each_used_port_is_reported_with_its_setting() -> None:
    settings = free_ports()
    with socket.socket() as one, socket.socket() as two:
        for listener, name in ((one, "REGISTRY_API_PORT"), (two, "S3_PORT")):
            listener.bind(("127.0.0.1", int(settings[name])))
            listener.listen()
        with pytest.raises(PortsTaken) as error:
            ports.check(ports.required(settings, ()))
        lines = str(error.value).splitlines()
        assert len(lines) == 2
        for line, name in zip(lines, ("REGISTRY_API_PORT", "S3_PORT"), strict=True):
            assert line.startswith(f"port {settings[name]} of 127.0.0.1 is taken (another program listens on it): set {name} ")
        ports.check(ports.required(settings, {"registry-api", "localstack"}))


def test_a_repeated_port_and_a_foreign_address_are_reported() -> None:
    settings = free_ports()
    settings["INFER_PORT"] = settings["TRACKING_PORT"]
    with pytest.raises(PortsTaken, match=r"is taken \(TRACKING_PORT is the same\): set INFER_PORT"):
        ports.check(ports.required(settings, ()))
    with pytest.raises(PortsTaken, match=r"S3_ADDRESS must be an address of this machine.*received 192\.0\.2\.1"):
        ports.check(ports.required(free_ports() | {"S3_ADDRESS": "192.0.2.1"}, ()))
