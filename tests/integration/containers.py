"""Containers that the tests start with the docker command and remove at the end."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXISTING_IMAGE = os.environ.get("TRACKING_IMAGE")
"""Image to test; without it the tests build one."""
IMAGE = EXISTING_IMAGE or "atelier/tracking:integration"
TIMEOUT_S = 240

PASSWORDS = {"ada": "ada's", "rita": "rita's", "theo": "theo's", "pia": "pia's", "registry": "registry's"}
ROLES = {"ada": "admin", "rita": "reader", "theo": "trainer", "pia": "promoter", "registry": "promoter"}


def docker(*arguments: str, check: bool = True, stdin: str | None = None, timeout_s: float = 300) -> str:
    """Output of a docker command; fails the test if there is no Docker or the command fails."""
    try:
        process = subprocess.run(["docker", *arguments], capture_output=True, text=True, input=stdin, timeout=timeout_s)
    except FileNotFoundError:
        pytest.fail("this tier needs Docker: install it, or leave the tier out", pytrace=False)
    if check and process.returncode:
        pytest.fail(f"docker {' '.join(arguments)[:200]} exited with code {process.returncode}:\n{process.stderr[-3000:]}")
    return process.stdout if check else process.stdout + process.stderr


def build_image() -> str:
    if not EXISTING_IMAGE:
        docker("build", "--quiet", "--tag", IMAGE, "--file", "services/tracking/Dockerfile", str(ROOT), timeout_s=1500)
    return IMAGE


def apr1(password: str) -> str:
    return subprocess.run(["openssl", "passwd", "-apr1", password], capture_output=True, text=True, check=True).stdout.strip()


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """A running tracking container, and its logins (user → password)."""

    name: str
    port: int
    logins: dict[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def headers(self, user: str | None) -> dict[str, str]:
        if user is None:
            return {}
        name, _, password = user.partition(":")
        return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password or self.logins[name]}".encode()).decode()}

    def request(
        self,
        method: str,
        path: str,
        user: str | None = None,
        body: object = None,
        timeout_s: float = TIMEOUT_S,
        **headers: str,
    ) -> Response:
        """One request on a new connection; the path is not normalized."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        data = body if isinstance(body, (bytes, type(None))) or hasattr(body, "read") else json.dumps(body).encode()
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        content_type = {"Content-Type": "application/json"} if data is not None else {}
        try:
            connection.request(method, path, data, content_type | self.headers(user) | extra)
            response = connection.getresponse()
            return Response(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def call(self, user: str, method: str, route: str, body: object = None) -> dict[str, Any]:
        """A call of MLflow's API that must succeed."""
        answer = self.request(method, f"/api/2.0/mlflow/{route}", user, body)
        assert answer.status == 200, answer.body
        return answer.json

    def put(self, user: str, path: str, data: bytes = b"data") -> int:
        return self.request("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{path}", user, data).status

    def log(self) -> str:
        return docker("logs", self.name, check=False)

    def exec(self, *command: str, stdin: str | None = None) -> str:
        return docker("exec", "-i", self.name, *command, stdin=stdin)

    def memory_mib(self) -> float:
        """Memory of processes and temporary file systems, without the page cache."""
        text = self.exec("sh", "-c", "cat /sys/fs/cgroup/memory.stat /sys/fs/cgroup/memory/memory.stat 2>/dev/null || true")
        values = {name: int(value) for name, value in (line.split() for line in text.splitlines())}
        return (values.get("total_rss", values.get("anon", 0)) + values.get("total_shmem", values.get("shmem", 0))) / 2**20

    def spool_mib(self) -> float:
        return float(self.exec("du", "-sm", "/var/spool/tracking").split()[0])

    def wait(self, path: str = "/readyz", status: int = 200, timeout_s: float = TIMEOUT_S) -> Response:
        """Requests a path until it returns the status; fails with the log if it never does or the container exits."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if (answer := self.request("GET", path)).status == status:
                    return answer
            if docker("inspect", "-f", "{{.State.Running}}", self.name, check=False).strip() != "true":
                break
            time.sleep(0.3)
        pytest.fail(f"{path} never returned {status}; end of the log:\n{self.log()[-4000:]}")


@dataclass(frozen=True)
class BackingServices:
    """A Docker network with PostgreSQL and S3."""

    network: str
    database: str
    s3: str
    s3_uri: str
    password: str

    def settings(self, **more: str) -> dict[str, str]:
        """The settings of the reference walk-through, for these services."""
        return {
            "DB_NAME": "mlflow",
            "DB_USER": "mlflow",
            "DB_PW": self.password,
            "DB_PORT": "5432",
            "DB_ENDPOINT": self.database,
            "AWS_BUCKET_NAME": "artifacts",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "eu-central-1",
            "S3_ENDPOINT_URL": f"http://{self.s3}:4566",
        } | more

    def sql(self, text: str, database: str = "mlflow") -> str:
        return docker("exec", "-i", self.database, "psql", "-U", "mlflow", "-d", database, "-v", "ON_ERROR_STOP=1", stdin=text)


@contextlib.contextmanager
def removed_at_end(name: str) -> Iterator[str]:
    try:
        yield name
    finally:
        docker("rm", "--force", "--volumes", name, check=False)


def port_of(name: str, port: int = 80) -> int:
    return int(docker("port", name, f"{port}/tcp").splitlines()[0].rpartition(":")[2])


@contextlib.contextmanager
def start_backing_services() -> Iterator[BackingServices]:
    mark = secrets.token_hex(4)
    network, password = f"tracking-test-{mark}", secrets.token_hex(8)
    docker("network", "create", network)
    try:
        with removed_at_end(f"tracking-test-db-{mark}") as database, removed_at_end(f"tracking-test-s3-{mark}") as s3:
            names = ["-e", "POSTGRES_USER=mlflow", "-e", "POSTGRES_DB=mlflow", "-e", f"POSTGRES_PASSWORD={password}"]
            docker("run", "-d", "--name", database, "--network", network, *names, "postgres:17")
            docker("run", "-d", "--name", s3, "--network", network, "-e", "SERVICES=s3", "-p", "127.0.0.1::4566", S3_IMAGE)
            until(lambda: "accepting" in docker("exec", database, "pg_isready", "-h", "127.0.0.1", check=False), "PostgreSQL")
            until(lambda: create_bucket(s3, "artifacts"), "S3")
            yield BackingServices(network, database, s3, f"http://127.0.0.1:{port_of(s3, 4566)}", password)
    finally:
        docker("network", "rm", network, check=False)


S3_IMAGE = "localstack/localstack:4.14.0"


def create_bucket(s3: str, name: str) -> bool:
    location = "LocationConstraint=eu-central-1"
    return '"Location"' in docker(
        "exec",
        s3,
        "awslocal",
        "s3api",
        "create-bucket",
        "--bucket",
        name,
        "--create-bucket-configuration",
        location,
        check=False,
    )


def until(happened: Any, description: str, timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        if time.monotonic() > deadline:
            pytest.fail(f"{description}: did not happen within {timeout_s:.0f} s")
        time.sleep(0.5)


@contextlib.contextmanager
def tracking(
    env: Mapping[str, str],
    folder: Path,
    *options: str,
    logins: Mapping[str, str] | None = None,
    ready: bool = True,
    port: int = 80,
) -> Iterator[Server]:
    """A tracking container with settings from an env file."""
    file = folder / f"env-{secrets.token_hex(4)}"
    file.write_text("".join(f"{name}={value}\n" for name, value in env.items()))
    with removed_at_end(f"tracking-test-{secrets.token_hex(4)}") as name:
        docker("run", "-d", "--name", name, "--env-file", str(file), "-p", f"127.0.0.1::{port}", *options, IMAGE)
        server = Server(name, port_of(name, port), dict(logins or {}))
        if ready:
            server.wait()
        yield server


@contextlib.contextmanager
def tracking_with_roles(backing_services: BackingServices, folder: Path, *options: str, **changes: str) -> Iterator[Server]:
    """With roles, a registry user, secrets in files, and a read-only root file system; `changes` override settings."""
    files = {"htpasswd": "".join(f"{user}:{apr1(password)}\n" for user, password in PASSWORDS.items())}
    files["roles"] = "".join(f"{user} {role}\n" for user, role in ROLES.items())
    files["password"] = backing_services.password + "\n"
    folder.chmod(0o755)
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
    env = backing_services.settings(
        HTPASSWD_FILE="/given/htpasswd", ROLES_FILE="/given/roles", DB_PW_FILE="/given/password", REGISTRY_USER="registry"
    )
    del env["DB_PW"]
    env |= changes
    hardening = ["--read-only", "--tmpfs", "/tmp", "--volume", "/var/spool/tracking", "--cap-drop", "ALL"]
    hardening += ["--cap-add", "NET_BIND_SERVICE", "--sysctl", "net.ipv4.ip_unprivileged_port_start=1024"]
    mounts = ["--network", backing_services.network, "--volume", f"{folder}:/given:ro"]
    with tracking(env, folder, *mounts, *hardening, *options, logins=PASSWORDS) as server:
        yield server
