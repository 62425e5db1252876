"""A PostgreSQL of the tests' own, in a container that is removed afterwards."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import time
import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

IMAGE = "postgres:17"
USER = "atelier_registry"


class Postgres:
    """A server, and as many empty databases on it as are asked for, owned by a user that may do nothing else."""

    def __init__(self, port: int, password: str) -> None:
        self._address, self._password = f"127.0.0.1:{port}", password
        self._admin = create_engine(
            f"postgresql+psycopg2://postgres:{password}@{self._address}/postgres",
            isolation_level="AUTOCOMMIT",
            pool_pre_ping=True,
        )

    def wait(self, patience_s: float = 120) -> None:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                with self._admin.connect() as connection:
                    connection.execute(text(f"CREATE ROLE {USER} LOGIN PASSWORD '{self._password}'"))
                return
            except OperationalError:
                assert time.monotonic() < deadline, "PostgreSQL did not start"
                time.sleep(0.3)

    def database(self) -> str:
        """Address of a new database, with the schema that its user owns."""
        name = f"t_{uuid.uuid4().hex[:12]}"
        with self._admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        owner = create_engine(
            f"postgresql+psycopg2://postgres:{self._password}@{self._address}/{name}", isolation_level="AUTOCOMMIT"
        )
        with owner.connect() as connection:
            connection.execute(text(f"CREATE SCHEMA {USER} AUTHORIZATION {USER}"))
        owner.dispose()
        return f"postgresql://{USER}:{self._password}@{self._address}/{name}"

    def run(self, database_url: str, statement: str) -> None:
        """As an owner of everything would."""
        name = database_url.rpartition("/")[2]
        owner = create_engine(
            f"postgresql+psycopg2://postgres:{self._password}@{self._address}/{name}", isolation_level="AUTOCOMMIT"
        )
        with owner.connect() as connection:
            connection.execute(text(f"SET search_path TO {USER}"))
            connection.execute(text(statement))
        owner.dispose()


@contextlib.contextmanager
def postgres_running() -> Iterator[Postgres]:
    """Fails where no container engine answers: who asks for these tests is told, not passed over."""
    password, name = secrets.token_hex(8), f"atelier-registry-tests-{uuid.uuid4().hex[:8]}"
    command = ["docker", "run", "--detach", "--rm", "--name", name, "--publish", "127.0.0.1::5432"]
    command += ["--env", f"POSTGRES_PASSWORD={password}", "--tmpfs", "/var/lib/postgresql/data", IMAGE]
    try:
        started = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except OSError as error:
        pytest.fail(f"these tests need Docker, to start {IMAGE}: {error}")
    if started.returncode:
        pytest.fail(f"these tests need Docker, to start {IMAGE}: {started.stderr.strip()[-500:]}")
    try:
        port = subprocess.run(["docker", "port", name, "5432"], capture_output=True, text=True, check=True).stdout
        server = Postgres(int(port.splitlines()[0].rpartition(":")[2]), password)
        server.wait()
        yield server
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True, check=False)
