"""Start of the container, refused settings, and visibility of secrets."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .containers import PASSWORDS, BackingServices, Server, apr1, docker, port_of, tracking

AWKWARD = "$HOME $$ @:/#%25'\"\\ ;&?= ä€漢 {x} ``"


def test_an_empty_environment_is_refused_with_all_problems(image: str) -> None:
    output = docker("run", "--rm", image, check=False)
    assert "Traceback" not in output
    for name in ("DB_NAME", "DB_USER", "DB_PW", "DB_PORT", "DB_ENDPOINT", "AWS_BUCKET_NAME", "AWS_REGION", "HTPASSWD"):
        assert f"{name}" in output
    process = subprocess.run(["docker", "run", "--rm", "-e", "DB_PW=secret-pw", image], capture_output=True, text=True)
    assert process.returncode == 2
    assert "secret-pw" not in process.stdout + process.stderr


@pytest.fixture(scope="module")
def awkward(backing_services: BackingServices, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A database password with special characters, a bcrypt hash with doubled dollars, no new privileges."""
    quoted = AWKWARD.replace("'", "''")
    backing_services.sql(f'CREATE ROLE "odd user" LOGIN PASSWORD \'{quoted}\';\nCREATE DATABASE "odd/name" OWNER "odd user";')
    bcrypt = "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"  # of U*U, a published test vector
    htpasswd = f"ada:{apr1(PASSWORDS['ada'])}\\nbea:{bcrypt}".replace("$", "$$")
    env = backing_services.settings(DB_PW=AWKWARD, DB_USER="odd user", DB_NAME="odd/name", HTPASSWD=htpasswd)
    folder = tmp_path_factory.mktemp("awkward")
    options = ["--network", backing_services.network, "--security-opt", "no-new-privileges", "--cap-drop", "ALL"]
    with tracking(env, folder, *options, logins=PASSWORDS | {"bea": "U*U"}) as server:
        yield server


def test_the_database_password_may_contain_any_character(awkward: Server) -> None:
    assert awkward.call("ada", "GET", "experiments/get?experiment_id=0")["experiment"]["name"] == "Default"


def test_users_with_every_kind_of_hash_can_log_in(awkward: Server) -> None:
    assert awkward.request("GET", "/version", "ada").status == 200
    assert awkward.request("GET", "/version", "bea").status == 200
    assert awkward.request("GET", "/version", "bea:wrong").status == 401
    assert awkward.request("GET", "/version", "eve:U*U").status == 401


INSPECT_SCRIPT = """
import pathlib
for entry in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        print((entry / "cmdline").read_text().replace(chr(0), " "), (entry / "status").read_text().split("Uid:")[1].split()[0])
    except OSError:
        pass
for file in pathlib.Path("/tmp/tracking").rglob("*"):
    if file.is_file():
        text = file.read_bytes().decode(errors="replace") if "logins" in str(file) else ""
        print(file, oct(file.stat().st_mode & 0o777), text)
"""


def test_no_secret_is_in_arguments_logs_or_cache(awkward: Server) -> None:
    awkward.request("GET", "/version", "ada")
    visible = awkward.exec("python3", "-", stdin=INSPECT_SCRIPT)
    assert "nginx: master" in visible and "atelier_tracking.server.mlflow_server" in visible
    assert "/tmp/tracking/htpasswd 0o600" in visible and "/tmp/tracking/nginx.conf 0o600" in visible
    assert "KEY: " in visible, "the login cache must not be empty"
    quoted = "%24HOME%20"
    basic = awkward.headers("ada")["Authorization"].removeprefix("Basic ")
    for secret in (AWKWARD, quoted, AWKWARD[:12], "apr1", "$2b$", basic, "ada's"):
        assert secret not in visible.replace("/tmp/tracking", ""), secret
        assert secret not in awkward.log(), secret
    uids = {line.rpartition(" ")[2] for line in visible.splitlines() if "nginx:" in line or "atelier_tracking" in line}
    assert uids == {"10001"}


def test_the_image_has_no_other_packages(minimal: Server) -> None:
    packages = json.loads(
        minimal.exec(
            "python3",
            "-c",
            "import importlib.metadata as m, json; print(json.dumps([d.name.lower() for d in m.distributions()]))",
        )
    )
    assert not {"scipy", "scikit-learn", "matplotlib", "pyarrow", "torch", "pip", "setuptools", "docker", "gunicorn"} & set(
        packages
    )
    assert minimal.exec("ls", "/opt/atelier").split() == ["atelier_tracking"]


def test_compose_and_docker_run_read_the_same_env_file(tmp_path: Path) -> None:
    from atelier_tracking.htpasswd import parse_logins

    hashed = apr1("secret")
    (tmp_path / "doubled.env").write_text("HTPASSWD=ada:" + hashed.replace("$", "$$") + "\n")
    (tmp_path / "raw.env").write_text(f"HTPASSWD=ada:{hashed}\n")
    read = {}
    for kind in ("doubled", "raw"):
        (tmp_path / "compose.yaml").write_text(f"services:\n  t:\n    image: x\n    env_file: {kind}.env\n")
        # a container gets the output of `config` with its escaping undone
        shown = docker("compose", "-f", str(tmp_path / "compose.yaml"), "config", "--format", "json")
        read[kind] = json.loads(shown)["services"]["t"]["environment"]["HTPASSWD"].replace("$$", "$")
    assert parse_logins(read["doubled"])[0].hash == hashed
    assert parse_logins((tmp_path / "doubled.env").read_text().partition("=")[2])[0].hash == hashed
    assert parse_logins(f"ada:{hashed}")[0].hash == hashed
    with pytest.raises(Exception, match=r"write every \$ of the hash as \$\$"):
        parse_logins(read["raw"])


def test_tls_and_public_url(backing_services: BackingServices, tmp_path: Path) -> None:
    pair = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "certificate.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=sketch.example", *pair],
        check=True,
        capture_output=True,
    )
    for name in ("key.pem", "certificate.pem"):
        (tmp_path / name).chmod(0o644)
    tmp_path.chmod(0o755)
    env = backing_services.settings(HTPASSWD=f"ada:{apr1(PASSWORDS['ada'])}", PUBLIC_URL="https://sketch.example")
    env["MLFLOW_CRYPTO_KEK_PASSPHRASE"] = "a passphrase"
    env |= {
        "TLS_CERTIFICATE_FILE": "/given/certificate.pem",
        "TLS_KEY_FILE": "/given/key.pem",
        "HTTP_PORT": "8080",
        "HTTPS_PORT": "8443",
    }
    options = [
        "--network",
        backing_services.network,
        "--volume",
        f"{tmp_path}:/given:ro",
        "-p",
        "127.0.0.1::8443",
        "--cap-drop",
        "ALL",
    ]
    options += ["--sysctl", "net.ipv4.ip_unprivileged_port_start=1024", "--security-opt", "no-new-privileges"]
    with tracking(env, tmp_path, *options, logins=PASSWORDS, port=8080) as server:
        answer = server.request("GET", "/version?x=1", "ada")
        assert (answer.status, answer.headers["Location"]) == (308, "https://sketch.example/version?x=1")
        assert https_status(server, "https://sketch.example") == 200
        assert https_status(server, None) == 200
        assert https_status(server, f"https://127.0.0.1:{port_of(server.name, 8443)}") == 403
        assert https_status(server, "http://sketch.example") == 403
        assert "Strict-Transport-Security" not in answer.headers
        for path, status in (("/version", 200), ("/api//x", 400), ("/no/such", 403), ("/healthz", 200)):
            found = https_request(server, "GET", path)
            assert (found.status, found.getheader("Strict-Transport-Security")) == (status, "max-age=31536000"), path
        # with a passphrase, MLflow's gateway is open
        assert https_request(server, "GET", "/api/3.0/mlflow/gateway/secrets/list").status == 200


def https_request(
    server: Server, method: str, path: str, body: bytes | None = None, **headers: str
) -> http.client.HTTPResponse:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", port_of(server.name, 8443), timeout=60, context=context)
    given = server.headers("ada") | {"Content-Type": "application/json"} | headers
    connection.request(method, path, body, given)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def https_status(server: Server, origin: str | None) -> int:
    headers = {"Origin": origin} if origin else {}
    return https_request(server, "POST", "/ajax-api/2.0/mlflow/experiments/search", b'{"max_results": 1}', **headers).status
