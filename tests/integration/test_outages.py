"""Outages of the database and the bucket are logged once, and end without a restart of the container."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from .containers import PASSWORDS, BackingServices, Server, apr1, create_bucket, docker, port_of, tracking, until


def events(server: Server, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.log().splitlines() if '"source": "tracking"' in line]
    return [line for line in lines if line["event"].startswith(event)]


@pytest.fixture
def login(backing_services: BackingServices) -> dict[str, str]:
    return backing_services.settings(HTPASSWD=f"ada:{apr1(PASSWORDS['ada'])}")


def test_a_wrong_password_is_logged_once_and_can_be_corrected(
    backing_services: BackingServices, login: dict[str, str], tmp_path: Path
) -> None:
    backing_services.sql("CREATE ROLE late LOGIN PASSWORD 'not yet'; CREATE DATABASE late OWNER late;")
    env = login | {"DB_USER": "late", "DB_NAME": "late", "DB_PW": "right at last"}
    with tracking(env, tmp_path, "--network", backing_services.network, logins=PASSWORDS, ready=False) as server:
        until(lambda: events(server, "database unavailable"), "the log names the database")
        assert server.wait("/healthz").status == 200
        assert server.request("GET", "/readyz").status == 503
        assert server.request("GET", "/version", "ada").status == 503
        time.sleep(5)  # two more attempts, which must log nothing
        assert len(events(server, "database unavailable")) == 1
        assert "password authentication failed" in events(server, "database unavailable")[0]["reason"]
        assert "right at last" not in server.log()
        backing_services.sql("ALTER ROLE late PASSWORD 'right at last';")
        server.wait()
        assert server.call("ada", "GET", "experiments/get?experiment_id=0")


def test_a_missing_bucket_is_logged_and_can_be_created_later(
    backing_services: BackingServices, login: dict[str, str], tmp_path: Path
) -> None:
    env = login | {"AWS_BUCKET_NAME": "later"}
    with tracking(env, tmp_path, "--network", backing_services.network, logins=PASSWORDS, ready=False) as server:
        until(lambda: events(server, "bucket unavailable"), "the log names the bucket")
        answer = server.request("GET", "/readyz")
        assert answer.status == 503 and b"later" not in answer.body and b"ucket" not in answer.body
        assert server.request("GET", "/version", "ada").status == 200
        until(
            lambda: any("bucket does not exist" in line["reason"] for line in events(server, "bucket unavailable")),
            "the log has the reason",
        )
        time.sleep(5)  # more checks, which must log nothing new
        reasons = [line["reason"] for line in events(server, "bucket unavailable")]
        assert len(reasons) == len(set(reasons))
        create_bucket(backing_services.s3, "later")
        server.wait()
        assert len(events(server, "bucket available")) == 1


def test_an_outage_of_the_database_does_not_stop_the_container(
    backing_services: BackingServices, login: dict[str, str], tmp_path: Path
) -> None:
    with tracking(login, tmp_path, "--network", backing_services.network, logins=PASSWORDS) as server:
        docker("pause", backing_services.database)
        docker("unpause", backing_services.database)
        docker("stop", "--time", "5", backing_services.database)
        try:
            server.wait(status=503)
            until(lambda: events(server, "database unavailable"), "the log names the database")
            assert server.request("GET", "/healthz").status == 200
        finally:
            docker("start", backing_services.database)
        server.wait()
        assert server.call("ada", "GET", "experiments/get?experiment_id=0")
        assert docker("inspect", "-f", "{{.RestartCount}} {{.State.Running}}", server.name).split() == ["0", "true"]


@pytest.mark.parametrize("process", ["atelier_tracking.server.mlflow_server", "nginx: master"])
def test_the_container_exits_when_a_process_is_killed(
    backing_services: BackingServices, login: dict[str, str], tmp_path: Path, process: str
) -> None:
    with tracking(login, tmp_path, "--network", backing_services.network, logins=PASSWORDS) as server:
        server.exec("python3", "-", stdin=KILL.replace("PROCESS", process))
        assert docker("wait", server.name, timeout_s=60).strip() == "137"
        assert events(server, "MLflow exited" if "serve" in process else "nginx exited")[0]["exit_code"] == 137


KILL = """
import os, pathlib, signal
for entry in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        line = (entry / "cmdline").read_text().replace(chr(0), " ")
    except OSError:
        continue
    if "PROCESS" in line:
        os.kill(int(entry.name), signal.SIGKILL)
"""


def test_a_running_upload_is_completed_before_the_container_stops(
    backing_services: BackingServices, login: dict[str, str], tmp_path: Path
) -> None:
    import http.client
    import threading

    with tracking(login, tmp_path, "--network", backing_services.network, logins=PASSWORDS) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        path = f"/api/2.0/mlflow-artifacts/artifacts/0/{'d' * 32}/artifacts/slow.bin"
        connection.putrequest("PUT", path)
        for name, value in (server.headers("ada") | {"Content-Length": "4000"}).items():
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(b"a" * 1000)
        time.sleep(2)
        stopping = threading.Thread(target=docker, args=("stop", "--time", "60", server.name))
        stopping.start()
        for _ in range(3):
            time.sleep(1.5)
            connection.send(b"a" * 1000)
        assert connection.getresponse().status == 200
        connection.close()
        stopping.join()
        assert docker("inspect", "-f", "{{.State.ExitCode}}", server.name).strip() == "0"
        docker("start", server.name)
        again = Server(server.name, port_of(server.name), server.logins)
        again.wait()
        assert again.request("GET", path, "ada").body == b"a" * 4000
