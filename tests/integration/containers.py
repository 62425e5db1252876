"""Containers that the tests start through the docker command, and remove when they are done."""

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

import pytest

ROOT = Path(__file__).parents[2]
GIVEN = os.environ.get("TRACKING_IMAGE")
"""An image that was built before; without it the tests build their own."""
IMAGE = GIVEN or "atelier/tracking:integration"
PATIENCE_S = 240

PASSWORDS = {"ada": "ada's", "rita": "rita's", "theo": "theo's", "pia": "pia's", "registry": "registry's"}
ROLES = {"ada": "admin", "rita": "reader", "theo": "trainer", "pia": "promoter", "registry": "promoter"}


def docker(*arguments: str, check: bool = True, stdin: str | None = None, timeout_s: float = 300) -> str:
    """Output of a docker command; the test fails with its error where there is no engine or the command fails."""
    try:
        ended = subprocess.run(["docker", *arguments], capture_output=True, text=True, input=stdin, timeout=timeout_s)
    except FileNotFoundError:
        pytest.fail("this tier needs Docker: install it, or leave the tier out", pytrace=False)
    if check and ended.returncode:
        pytest.fail(f"docker {' '.join(arguments)[:200]} ended with {ended.returncode}:\n{ended.stderr[-3000:]}")
    return ended.stdout if check else ended.stdout + ended.stderr


def built_image() -> str:
    if not GIVEN:
        docker("build", "--quiet", "--tag", IMAGE, "--file", "services/tracking/Dockerfile", str(ROOT), timeout_s=1500)
    return IMAGE


def apr1(password: str) -> str:
    return subprocess.run(["openssl", "passwd", "-apr1", password], capture_output=True, text=True, check=True).stdout.strip()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


@dataclass
class Server:
    """A running tracking container and the logins that it knows: user to password."""

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

    def ask(
        self,
        method: str,
        path: str,
        user: str | None = None,
        body: object = None,
        timeout_s: float = PATIENCE_S,
        **headers: str,
    ) -> Answer:
        """One request with the path as it is, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        data = body if isinstance(body, (bytes, type(None))) or hasattr(body, "read") else json.dumps(body).encode()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        kind = {"Content-Type": "application/json"} if data is not None else {}
        try:
            connection.request(method, path, data, kind | self.headers(user) | given)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def call(self, user: str, method: str, route: str, body: object = None) -> dict:
        """A call of MLflow's API that has to succeed."""
        answer = self.ask(method, f"/api/2.0/mlflow/{route}", user, body)
        assert answer.status == 200, answer.body
        return answer.json

    def put(self, user: str, path: str, data: bytes = b"data") -> int:
        return self.ask("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{path}", user, data).status

    def log(self) -> str:
        return docker("logs", self.name, check=False)

    def inside(self, *command: str, stdin: str | None = None) -> str:
        return docker("exec", "-i", self.name, *command, stdin=stdin)

    def memory_mib(self) -> float:
        """Memory that cannot be given back: processes and temporary file systems, without the cache of files."""
        text = self.inside("sh", "-c", "cat /sys/fs/cgroup/memory.stat /sys/fs/cgroup/memory/memory.stat 2>/dev/null || true")
        found = {name: int(value) for name, value in (line.split() for line in text.splitlines())}
        return (found.get("total_rss", found.get("anon", 0)) + found.get("total_shmem", found.get("shmem", 0))) / 2**20

    def spool_mib(self) -> float:
        return float(self.inside("du", "-sm", "/var/spool/tracking").split()[0])

    def wait(self, path: str = "/readyz", status: int = 200, patience_s: float = PATIENCE_S) -> Answer:
        """Asks until the status comes; fails with the log where the container ended or it never came."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if (answer := self.ask("GET", path)).status == status:
                    return answer
            if docker("inspect", "-f", "{{.State.Running}}", self.name, check=False).strip() != "true":
                break
            time.sleep(0.3)
        pytest.fail(f"{path} never answered {status}; the log ends:\n{self.log()[-4000:]}")


@dataclass(frozen=True)
class Neighbours:
    """A network with PostgreSQL and S3 in it."""

    network: str
    database: str
    s3: str
    s3_uri: str
    password: str

    def settings(self, **more: str) -> dict[str, str]:
        """The walk-through's variables, with these neighbours."""
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
def removed(name: str) -> Iterator[str]:
    try:
        yield name
    finally:
        docker("rm", "--force", "--volumes", name, check=False)


def port_of(name: str, port: int = 80) -> int:
    return int(docker("port", name, f"{port}/tcp").splitlines()[0].rpartition(":")[2])


@contextlib.contextmanager
def neighbours() -> Iterator[Neighbours]:
    mark = secrets.token_hex(4)
    network, password = f"tracking-test-{mark}", secrets.token_hex(8)
    docker("network", "create", network)
    try:
        with removed(f"tracking-test-db-{mark}") as database, removed(f"tracking-test-s3-{mark}") as s3:
            names = ["-e", "POSTGRES_USER=mlflow", "-e", "POSTGRES_DB=mlflow", "-e", f"POSTGRES_PASSWORD={password}"]
            docker("run", "-d", "--name", database, "--network", network, *names, "postgres:17")
            docker("run", "-d", "--name", s3, "--network", network, "-e", "SERVICES=s3", "-p", "127.0.0.1::4566", S3_IMAGE)
            until(lambda: "accepting" in docker("exec", database, "pg_isready", "-h", "127.0.0.1", check=False), "PostgreSQL")
            until(lambda: make_bucket(s3, "artifacts"), "S3")
            yield Neighbours(network, database, s3, f"http://127.0.0.1:{port_of(s3, 4566)}", password)
    finally:
        docker("network", "rm", network, check=False)


S3_IMAGE = "localstack/localstack:4.14.0"


def make_bucket(s3: str, name: str) -> bool:
    place = "LocationConstraint=eu-central-1"
    return '"Location"' in docker(
        "exec", s3, "awslocal", "s3api", "create-bucket", "--bucket", name, "--create-bucket-configuration", place, check=False
    )


def until(happened, what: str, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not happened():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: did not happen within {patience_s:.0f} s")
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
    """A tracking container whose settings come from an env file, as the walk-through starts it."""
    file = folder / f"env-{secrets.token_hex(4)}"
    file.write_text("".join(f"{name}={value}\n" for name, value in env.items()))
    with removed(f"tracking-test-{secrets.token_hex(4)}") as name:
        docker("run", "-d", "--name", name, "--env-file", str(file), "-p", f"127.0.0.1::{port}", *options, IMAGE)
        server = Server(name, port_of(name, port), dict(logins or {}))
        if ready:
            server.wait()
        yield server


@contextlib.contextmanager
def guarded_tracking(around: Neighbours, folder: Path, *options: str, **changes: str) -> Iterator[Server]:
    """Roles, a registry user, secrets in files, nothing writable but what has to be; `changes` go over the other settings."""
    files = {"htpasswd": "".join(f"{user}:{apr1(password)}\n" for user, password in PASSWORDS.items())}
    files["roles"] = "".join(f"{user} {role}\n" for user, role in ROLES.items())
    files["password"] = around.password + "\n"
    folder.chmod(0o755)
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
    env = around.settings(
        HTPASSWD_FILE="/given/htpasswd", ROLES_FILE="/given/roles", DB_PW_FILE="/given/password", REGISTRY_USER="registry"
    )
    del env["DB_PW"]
    env |= changes
    locked = ["--read-only", "--tmpfs", "/tmp", "--volume", "/var/spool/tracking", "--cap-drop", "ALL"]
    locked += ["--cap-add", "NET_BIND_SERVICE", "--sysctl", "net.ipv4.ip_unprivileged_port_start=1024"]
    given = ["--network", around.network, "--volume", f"{folder}:/given:ro"]
    with tracking(env, folder, *given, *locked, *options, logins=PASSWORDS) as server:
        yield server
