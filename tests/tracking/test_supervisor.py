"""Readiness, waiting and the files that nginx reads."""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from atelier_tracking.errors import LoginsError
from atelier_tracking.gate.nginx_config import NO_USER, PLACEHOLDER, SCRIPTS, placeholders, unmatched, write_files
from atelier_tracking.htpasswd import parse_logins
from atelier_tracking.server.mlflow_server import wait_until
from atelier_tracking.server.readiness import QUESTIONS, Ready, Watch, ask
from atelier_tracking.server.supervisor import exit_code, may_bind_low_ports
from atelier_tracking.settings import read_settings

from .test_settings import HASH, WALKED

DATABASE = QUESTIONS[0]


@pytest.fixture
def answers(tmp_path: Path):
    """A server on a Unix socket that gives the statuses it is told to."""
    given: list[tuple[int, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = given.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self):
            return "unix"

        def log_message(self, *_):
            pass

    server = socketserver.UnixStreamServer(str(tmp_path / "s"), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield tmp_path / "s", given
    server.shutdown()
    server.server_close()


def test_a_question_is_answered_by_what_is_behind(answers):
    path, given = answers
    given += [(200, b"{}"), (404, b"{}"), (500, json.dumps({"message": "password\nfailed"}).encode()), (502, b"nothing")]
    assert ask(path, DATABASE) is None
    assert ask(path, DATABASE) is None
    assert ask(path, DATABASE) == "status 500: password failed"
    assert ask(path, DATABASE) == "status 502: nothing"
    assert "MLflow does not answer" in (ask(path.with_name("none"), DATABASE) or "")


def test_each_change_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    told: list[str | None] = [None, "gone", "gone", "other", None]
    watch = Watch(DATABASE, lambda _: told.pop(0))
    file = tmp_path / "ready"
    ready = Ready(file, [watch])
    there = []
    for _ in range(5):
        watch.once()
        ready.update()
        ready.update()
        there.append(file.exists())
    assert there == [True, False, False, False, True]
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in said if "database" in line["event"]] == [
        "database reachable",
        "database not reachable",
        "database not reachable",
        "database reachable",
    ]


def test_waiting_says_a_reason_once(capsys: pytest.CaptureFixture[str]):
    reasons = ["no\nroute", "no\nroute", "wrong password"]

    def connect() -> None:
        if reasons:
            raise OSError(reasons.pop(0))

    pauses: list[float] = []
    wait_until(connect, OSError, pauses.append)
    assert len(pauses) == 3
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line.get("reason") for line in said] == ["no route", "wrong password", None]


@pytest.mark.parametrize(("code", "shown"), [(0, 1), (1, 1), (3, 3), (-9, 137), (-15, 143)])
def test_an_end_that_nobody_asked_for_is_a_failure(code, shown):
    assert exit_code(code) == shown


def test_capabilities_are_read_as_the_kernel_writes_them():
    assert may_bind_low_ports("Name:\tx\nCapBnd:\t00000000a80425fb\n")
    assert not may_bind_low_ports("CapBnd:\t0000000000000000\n")


def test_every_placeholder_is_filled_and_nothing_is_readable_by_others(tmp_path: Path):
    text = f"ada:{HASH}\nrita:{HASH}"
    environment = WALKED | {
        "HTPASSWD": text,
        "ROLES": "ada admin\nrita reader",
        "REGISTRY_USER": "ada",
        "TRUSTED_PROXIES": "10.0.0.0/8",
    }
    write_files(read_settings(environment), tmp_path)
    written = {file.name: file for file in tmp_path.iterdir() if file.is_file()}
    assert set(written) == {"htpasswd", "nginx.conf", *SCRIPTS}
    for file in written.values():
        assert file.stat().st_mode & 0o077 == 0
        assert not PLACEHOLDER.search(file.read_text())
    config = written["nginx.conf"].read_text()
    assert '"user rita" reader;' in config and '"user ada" registry;' in config
    assert "set_real_ip_from 10.0.0.0/8;" in config
    assert '"rita curate" yes;' in config and '"ada curate" yes;' not in config
    assert HASH not in config


def test_no_name_is_one_of_nginxs_own(tmp_path: Path):
    names = ("default", "include", "hostnames", "volatile")
    settings = read_settings(WALKED | {"HTPASSWD": "\n".join(f"{name}:{HASH}" for name in names)})
    users = placeholders(settings, tmp_path)["users"].split()
    assert users == [word for name in names for word in ('"user', f'{name}"', f'"{name}";')]


@pytest.mark.parametrize(
    "hashed", [HASH, "$2y$10$" + "a" * 53, "$5$rounds=5000$salt$" + "a" * 43, "$6$salt$" + "a" * 86], ids=lambda text: text[:3]
)
def test_a_name_that_does_not_exist_costs_as_much_as_one_that_does(tmp_path: Path, hashed: str):
    made = unmatched(hashed)
    assert parse_logins(f"ada:{made}")[0].hash == made != hashed
    assert made[:-43] == hashed[:-43]
    with pytest.raises(LoginsError):
        parse_logins(f"{NO_USER}:{HASH}")
    write_files(read_settings(WALKED | {"HTPASSWD": f"ada:{hashed}"}), tmp_path)
    lines = (tmp_path / "htpasswd").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["ada", NO_USER]


def test_salts_differ_between_starts(tmp_path: Path):
    settings = read_settings(WALKED)
    assert placeholders(settings, tmp_path)["salt"] != placeholders(settings, tmp_path)["salt"]


def test_the_supervisor_imports_the_standard_library_alone():
    code = (
        "import sys, atelier_tracking.server.supervisor; print({'pydantic', 'mlflow', 'boto3', 'psycopg2'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
