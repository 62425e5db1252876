"""What is missing is said once, and is used again as soon as it is there; the container goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from .containers import PASSWORDS, Neighbours, Server, apr1, docker, make_bucket, port_of, tracking, until


def said(server: Server, event: str) -> list[dict]:
    lines = [json.loads(line) for line in server.log().splitlines() if '"source": "tracking"' in line]
    return [line for line in lines if line["event"].startswith(event)]


@pytest.fixture
def login(around: Neighbours) -> dict[str, str]:
    return around.settings(HTPASSWD=f"ada:{apr1(PASSWORDS['ada'])}")


def test_a_wrong_password_is_said_once_and_mended_without_a_restart(around: Neighbours, login, tmp_path: Path):
    around.sql("CREATE ROLE late LOGIN PASSWORD 'not yet'; CREATE DATABASE late OWNER late;")
    env = login | {"DB_USER": "late", "DB_NAME": "late", "DB_PW": "right at last"}
    with tracking(env, tmp_path, "--network", around.network, logins=PASSWORDS, ready=False) as server:
        until(lambda: said(server, "database not reachable"), "the log names the database")
        assert server.wait("/healthz").status == 200
        assert server.ask("GET", "/readyz").status == 503
        assert server.ask("GET", "/version", "ada").status == 503
        time.sleep(5)  # two more tries, which must say nothing
        assert len(said(server, "database not reachable")) == 1
        assert "password authentication failed" in said(server, "database not reachable")[0]["reason"]
        assert "right at last" not in server.log()
        around.sql("ALTER ROLE late PASSWORD 'right at last';")
        server.wait()
        assert server.call("ada", "GET", "experiments/get?experiment_id=0")


def test_a_missing_bucket_is_said_and_found_later(around: Neighbours, login, tmp_path: Path):
    env = login | {"AWS_BUCKET_NAME": "later"}
    with tracking(env, tmp_path, "--network", around.network, logins=PASSWORDS, ready=False) as server:
        until(lambda: said(server, "bucket not reachable"), "the log names the bucket")
        answer = server.ask("GET", "/readyz")
        assert answer.status == 503 and b"later" not in answer.body and b"ucket" not in answer.body
        assert server.ask("GET", "/version", "ada").status == 200
        until(
            lambda: any("bucket does not exist" in line["reason"] for line in said(server, "bucket not reachable")),
            "the log says why",
        )
        time.sleep(5)  # more questions, which must say nothing new
        reasons = [line["reason"] for line in said(server, "bucket not reachable")]
        assert len(reasons) == len(set(reasons))
        make_bucket(around.s3, "later")
        server.wait()
        assert len(said(server, "bucket reachable")) == 1


def test_a_database_that_goes_away_comes_back(around: Neighbours, login, tmp_path: Path):
    with tracking(login, tmp_path, "--network", around.network, logins=PASSWORDS) as server:
        docker("pause", around.database)
        docker("unpause", around.database)
        docker("stop", "--time", "5", around.database)
        try:
            server.wait(status=503)
            until(lambda: said(server, "database not reachable"), "the log names the database")
            assert server.ask("GET", "/healthz").status == 200
        finally:
            docker("start", around.database)
        server.wait()
        assert server.call("ada", "GET", "experiments/get?experiment_id=0")
        assert docker("inspect", "-f", "{{.RestartCount}} {{.State.Running}}", server.name).split() == ["0", "true"]


@pytest.mark.parametrize("victim", ["atelier_tracking.server.mlflow_server", "nginx: master"])
def test_either_death_ends_the_container(around: Neighbours, login, tmp_path: Path, victim: str):
    with tracking(login, tmp_path, "--network", around.network, logins=PASSWORDS) as server:
        server.inside("python3", "-", stdin=KILL.replace("VICTIM", victim))
        assert docker("wait", server.name, timeout_s=60).strip() == "137"
        assert said(server, "MLflow ended" if "serve" in victim else "nginx ended")[0]["code"] == 137


KILL = """
import os, pathlib, signal
for entry in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        line = (entry / "cmdline").read_text().replace(chr(0), " ")
    except OSError:
        continue
    if "VICTIM" in line:
        os.kill(int(entry.name), signal.SIGKILL)
"""


def test_an_upload_that_runs_is_finished_before_the_end(around: Neighbours, login, tmp_path: Path):
    import http.client
    import threading

    with tracking(login, tmp_path, "--network", around.network, logins=PASSWORDS) as server:
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
        assert again.ask("GET", path, "ada").body == b"a" * 4000
