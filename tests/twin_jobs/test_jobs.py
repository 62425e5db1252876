"""The twin's one-shot jobs, without containers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from atelier_contracts.tokens import Role, parse_tokens
from atelier_twin import first_version, ports, summary
from atelier_twin.errors import PortsTaken, RequestRefused, SecretsError, StepFailed
from atelier_twin.htpasswd import apr1
from atelier_twin.secrets import LOGINS, TOKENS, make, read_or_make
from atelier_twin.volume_layout import OWN_TOKENS, Places, entries, lay_out

ADDRESSES = summary.Addresses("http://t:1", "http://r:2", "http://i:3", "http://s:4")


@pytest.mark.parametrize(
    ("password", "salt", "expected"),  # as `openssl passwd -apr1` prints them
    [
        ("x", "r31ab", "$apr1$r31ab$IV4CiLnUDllik5evN8GMB."),
        ("a secret of more than 16 bytes", "abcdefgh", "$apr1$abcdefgh$51R4jSlq7zC7dn4FdGFSv1"),
    ],
)
def test_apr1(password, salt, expected):
    assert apr1(password, salt) == expected


def test_a_salt_of_its_own_each_time():
    assert apr1("x") != apr1("x")


def test_secrets_are_made_once(tmp_path):
    file = tmp_path / "secrets.json"
    made, fresh = read_or_make(file, {})
    again, fresh_again = read_or_make(file, {})
    assert (fresh, fresh_again) == (True, False)
    assert made == again
    assert file.stat().st_mode & 0o777 == 0o600
    other, _ = read_or_make(tmp_path / "other.json", {})
    every = [*made.logins.values(), *made.tokens.values(), *made.database.values(), made.s3_secret_access_key]
    assert len(set(every)) == len(every)
    assert all(len(secret) >= 32 for secret in every)
    assert not set(every) & {*other.logins.values(), *other.tokens.values(), *other.database.values()}


def test_a_newer_release_adds_the_tokens_that_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "chown", lambda *_: None)
    made = make({})
    old = {name: made.tokens[name] for name in made.tokens if name not in OWN_TOKENS}
    file = tmp_path / "secrets.json"
    file.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(made, tokens=old))))
    (tmp_path / "tokens").mkdir()
    tokens = tmp_path / "tokens/tokens"
    tokens.write_text("ana promoter " + "0" * 64 + "\n")
    read, fresh = read_or_make(file, {})
    assert not fresh and read.tokens.items() >= old.items() and read.tokens.keys() == TOKENS.keys()
    assert read_or_make(file, {}) == (read, False)
    nothing = tmp_path / "nothing"
    nothing.write_text("")
    places = Places(
        secrets=tmp_path, trainer_home=tmp_path / "home", postgres_init=tmp_path, jobs=nothing, roles=nothing, base=nothing
    )
    (tmp_path / "home/models").mkdir(parents=True)
    (tmp_path / "home/.mlflow").mkdir()
    (tmp_path / "first-version").mkdir()
    lay_out(read, places)
    assert [token.id for token in parse_tokens(tokens.read_text())] == ["ana", "registry-api", "infer"]
    assert (tmp_path / "infer/registry_token").read_text() == read.tokens["infer"]
    tokens.chmod(0o600)
    tokens.write_text("ana promoter " + "0" * 64 + "\n")  # a person revoked both
    for name in ("infer", "registry-api", "first-version", "postgres", "tracking", "tokens"):
        (tmp_path / name).chmod(0o700)
    lay_out(read, places)
    assert [token.id for token in parse_tokens(tokens.read_text())] == ["ana"]


def test_a_damaged_file_is_told_and_kept(tmp_path):
    file = tmp_path / "secrets.json"
    file.write_text('{"logins": {}')
    with pytest.raises(SecretsError, match=r"must hold this twin's secrets.*down --volumes"):
        read_or_make(file, {})
    assert file.read_text() == '{"logins": {}'


def test_keys_of_another_s3():
    made = make({"S3_ACCESS_KEY_ID": "mine", "S3_SECRET_ACCESS_KEY": "also mine"})
    assert (made.s3_access_key_id, made.s3_secret_access_key) == ("mine", "also mine")
    with pytest.raises(SecretsError, match="set both or none"):
        make({"S3_ACCESS_KEY_ID": "mine"})


def test_each_service_finds_its_own_secrets_and_no_others():
    made = make({})
    written = entries(made)
    assert len({entry.path for entry in written}) == len(written)
    owners = {"postgres/postgres_password": {999}, "tracking/htpasswd": {10001}, "infer/tracking_password": {10003}}
    for path, users in owners.items():
        assert {entry.user for entry in written if entry.path == path} == users
    seen_by_infer = "".join(entry.text for entry in written if entry.user == 10003)
    assert made.logins["infer"] in seen_by_infer
    assert not [secret for name, secret in made.logins.items() if name != "infer" and secret in seen_by_infer]
    assert not [secret for secret in made.database.values() if secret in seen_by_infer]


def test_files_are_what_the_services_read():
    made = make({})
    text = {entry.path: entry.text for entry in entries(made)}
    tokens = parse_tokens(text["tokens/tokens"])
    assert {token.id: token.role for token in tokens} == {name: Role[role] for name, role in TOKENS.items()}
    assert not [secret for secret in made.tokens.values() if secret in text["tokens/tokens"]]
    lines = dict(line.split(":", 1) for line in text["tracking/htpasswd"].splitlines())
    assert set(lines) == set(LOGINS) == {line.split()[0] for line in text["tracking/roles"].splitlines()}
    for name, hashed in lines.items():
        assert apr1(made.logins[name], hashed.split("$")[2]) == hashed


def test_the_summary_tells_where_and_no_secret():
    made = make({})
    told, full = summary.summary(ADDRESSES), summary.full(made, ADDRESSES)
    assert "http://t:1" in told and "docker compose run --rm secrets login" in told
    every = [*made.logins.values(), *made.tokens.values(), *made.database.values(), made.s3_secret_access_key]
    assert not [secret for secret in every if secret in told]
    assert made.logins["admin"] in full and made.tokens["reader"] in full
    assert not [secret for secret in made.database.values() if secret in full]


class Answers(BaseHTTPRequestHandler):
    """A registry-api of one answer."""

    answer: tuple[int, dict[str, object]] = (200, {})

    def do_GET(self) -> None:
        status, body = self.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def plan(tmp_path) -> Iterator[first_version.Plan]:
    (tmp_path / "token").write_text("secret")
    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield first_version.Plan(True, "sketch", 5, f"http://127.0.0.1:{server.server_port}", tmp_path / "token")
    server.shutdown()
    server.server_close()


def test_a_twin_with_a_champion_is_left_alone(plan, monkeypatch):
    monkeypatch.setattr(Answers, "answer", (200, {"aliases": {"champion": 3}}))
    said: list[str] = []
    first_version.run(plan, said.append)
    assert said == ["version 3 of sketch is champion: nothing to do\n"]


def test_a_refusal_is_told(plan, monkeypatch):
    monkeypatch.setattr(Answers, "answer", (503, {"detail": "MLflow does not answer"}))
    with pytest.raises(RequestRefused, match=r"answered 503.*MLflow does not answer"):
        first_version.run(plan, lambda _: None)


def test_it_can_be_switched_off(tmp_path):
    environment = {"MODEL": "sketch", "FIRST_VERSION": "off", "FIRST_VERSION_STEPS": "5"}
    environment |= {"REGISTRY_API_URL": "http://nowhere", "TOKEN_FILE": str(tmp_path / "none")}
    said: list[str] = []
    first_version.run(first_version.Plan.read(environment), said.append)
    assert said == ["FIRST_VERSION=off: nothing is trained\n"]
    with pytest.raises(StepFailed, match="must be on or off; received 'no'"):
        first_version.Plan.read(environment | {"FIRST_VERSION": "no"})
    with pytest.raises(StepFailed, match="whole number from 1; received '0'"):
        first_version.Plan.read(environment | {"FIRST_VERSION_STEPS": "0"})


def free_ports() -> dict[str, str]:
    """Settings with addresses and ports that nobody has."""
    settings = {"TWIN_ADDRESS": "127.0.0.1", "S3_ADDRESS": "127.0.0.1"}
    with contextlib.ExitStack() as opened:
        for name in ("TRACKING_PORT", "REGISTRY_API_PORT", "INFER_PORT", "S3_PORT"):
            one = opened.enter_context(socket.socket())
            one.bind(("127.0.0.1", 0))
            settings[name] = str(one.getsockname()[1])
    return settings


def test_free_ports_are_free_again_after_the_look():
    settings = free_ports()
    for _ in range(2):
        ports.check(ports.wanted(settings, ()))


def test_each_taken_port_is_one_line_with_the_setting_that_moves_it():
    settings = free_ports()
    with socket.socket() as one, socket.socket() as two:
        for holder, name in ((one, "REGISTRY_API_PORT"), (two, "S3_PORT")):
            holder.bind(("127.0.0.1", int(settings[name])))
            holder.listen()
        with pytest.raises(PortsTaken) as told:
            ports.check(ports.wanted(settings, ()))
        lines = str(told.value).splitlines()
        assert len(lines) == 2
        for line, name in zip(lines, ("REGISTRY_API_PORT", "S3_PORT"), strict=True):
            assert line.startswith(f"port {settings[name]} of 127.0.0.1 is taken (another program listens there): set {name} ")
        ports.check(ports.wanted(settings, {"registry-api", "localstack"}))


def test_a_port_that_is_given_twice_and_an_address_of_another_machine_are_told():
    settings = free_ports()
    settings["INFER_PORT"] = settings["TRACKING_PORT"]
    with pytest.raises(PortsTaken, match=r"is taken \(TRACKING_PORT has it, too\): set INFER_PORT"):
        ports.check(ports.wanted(settings, ()))
    with pytest.raises(PortsTaken, match=r"S3_ADDRESS must be an address of this machine.*received 192\.0\.2\.1"):
        ports.check(ports.wanted(free_ports() | {"S3_ADDRESS": "192.0.2.1"}, ()))
