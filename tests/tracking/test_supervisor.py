"""Readiness, waiting for the database, and nginx's files."""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from atelier_tracking.errors import LoginsError
from atelier_tracking.gate.nginx_config import DUMMY_USER, PLACEHOLDER, SCRIPTS, dummy_hash, placeholders, write_files
from atelier_tracking.htpasswd import parse_logins
from atelier_tracking.server.mlflow_server import wait_for_database
from atelier_tracking.server.readiness import CHECKS, DependencyMonitor, ReadinessFile, run_check
from atelier_tracking.server.supervisor import exit_code, may_bind_low_ports
from atelier_tracking.settings import read_settings

from .test_settings import HASH, MINIMAL

DATABASE = CHECKS[0]


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[tuple[Path, list[Any]]]:
    """A fake MLflow on a Unix socket: its path, and the list of its next responses."""
    responses: list[tuple[int, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = responses.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> Any:
            return "unix"

        def log_message(self, *_: str) -> None:
            pass

    server = socketserver.UnixStreamServer(str(tmp_path / "s"), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield tmp_path / "s", responses
    server.shutdown()
    server.server_close()


def test_a_check_returns_none_or_the_reason(mlflow: tuple[Path, list[Any]]) -> None:
    path, responses = mlflow
    responses += [(200, b"{}"), (404, b"{}"), (500, json.dumps({"message": "password\nfailed"}).encode()), (502, b"nothing")]
    assert run_check(path, DATABASE) is None
    assert run_check(path, DATABASE) is None
    assert run_check(path, DATABASE) == "status 500: password failed"
    assert run_check(path, DATABASE) == "status 502: nothing"
    assert "MLflow does not respond" in (run_check(path.with_name("none"), DATABASE) or "")


def test_each_change_is_logged_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reasons: list[str | None] = [None, "refused", "refused", "timeout", None]
    monitor = DependencyMonitor(DATABASE, lambda _: reasons.pop(0))
    file = tmp_path / "ready"
    readiness = ReadinessFile(file, [monitor])
    exists = []
    for _ in range(5):
        monitor.run_once()
        readiness.update()
        readiness.update()
        exists.append(file.exists())
    assert exists == [True, False, False, False, True]
    log = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in log if "database" in line["event"]] == [
        "database available",
        "database unavailable",
        "database unavailable",
        "database available",
    ]


def test_waiting_logs_each_reason_once(capsys: pytest.CaptureFixture[str]) -> None:
    reasons = ["no\nroute", "no\nroute", "wrong password"]

    def connect() -> None:
        if reasons:
            raise OSError(reasons.pop(0))

    pauses: list[float] = []
    wait_for_database(connect, OSError, pauses.append)
    assert len(pauses) == 3
    log = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line.get("reason") for line in log] == ["no route", "wrong password", None]


@pytest.mark.parametrize(("child_code", "container_code"), [(0, 1), (1, 1), (3, 3), (-9, 137), (-15, 143)])
def test_an_unexpected_exit_is_a_failure(child_code: int, container_code: int) -> None:
    assert exit_code(child_code) == container_code


def test_capabilities_are_parsed() -> None:
    assert may_bind_low_ports("Name:\tx\nCapBnd:\t00000000a80425fb\n")
    assert not may_bind_low_ports("CapBnd:\t0000000000000000\n")


def test_files_have_no_placeholders_and_are_private(tmp_path: Path) -> None:
    text = f"ada:{HASH}\nrita:{HASH}"
    environment = MINIMAL | {
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


def test_users_may_be_called_like_nginx_keywords(tmp_path: Path) -> None:
    names = ("default", "include", "hostnames", "volatile")
    settings = read_settings(MINIMAL | {"HTPASSWD": "\n".join(f"{name}:{HASH}" for name in names)})
    users = placeholders(settings, tmp_path)["users"].split()
    assert users == [word for name in names for word in ('"user', f'{name}"', f'"{name}";')]


@pytest.mark.parametrize(
    "hashed", [HASH, "$2y$10$" + "a" * 53, "$5$rounds=5000$salt$" + "a" * 43, "$6$salt$" + "a" * 86], ids=lambda text: text[:3]
)
def test_unknown_users_are_checked_against_a_hash_of_the_same_cost(tmp_path: Path, hashed: str) -> None:
    dummy = dummy_hash(hashed)
    assert parse_logins(f"ada:{dummy}")[0].hash == dummy != hashed
    assert dummy[:-43] == hashed[:-43]
    with pytest.raises(LoginsError):
        parse_logins(f"{DUMMY_USER}:{HASH}")
    write_files(read_settings(MINIMAL | {"HTPASSWD": f"ada:{hashed}"}), tmp_path)
    lines = (tmp_path / "htpasswd").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["ada", DUMMY_USER]


def test_salts_differ_between_starts(tmp_path: Path) -> None:
    settings = read_settings(MINIMAL)
    assert placeholders(settings, tmp_path)["salt"] != placeholders(settings, tmp_path)["salt"]


def test_the_supervisor_imports_only_the_standard_library() -> None:
    code = (
        "import sys, atelier_tracking.server.supervisor; print({'pydantic', 'mlflow', 'boto3', 'psycopg2'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
