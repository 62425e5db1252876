"""The image, built once; PostgreSQL and S3, started once; two tracking servers on them: as in the walk-through, and guarded."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .containers import GIVEN, IMAGE, ROOT, Neighbours, Server, docker, neighbours, tracking

PASSWORDS = {"ada": "ada's", "rita": "rita's", "theo": "theo's", "pia": "pia's", "registry": "registry's"}
ROLES = {"ada": "admin", "rita": "reader", "theo": "trainer", "pia": "promoter", "registry": "promoter"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)
            item.add_marker(pytest.mark.timeout(3600))


def apr1(password: str) -> str:
    return subprocess.run(["openssl", "passwd", "-apr1", password], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session")
def image() -> str:
    if not GIVEN:
        docker("build", "--quiet", "--tag", IMAGE, "--file", "services/tracking/Dockerfile", str(ROOT), timeout_s=1500)
    return IMAGE


@pytest.fixture(scope="session")
def around(image: str) -> Iterator[Neighbours]:
    with neighbours() as found:
        yield found


@pytest.fixture(scope="session")
def walked(around: Neighbours, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The walk-through's env file and nothing else, in a task of 1 GB."""
    env = around.settings(HTPASSWD=f"ada:{apr1(PASSWORDS['ada'])}")
    folder = tmp_path_factory.mktemp("walked")
    options = ["--network", around.network, "--memory", "1g", "--sysctl", "net.ipv4.ip_unprivileged_port_start=1024"]
    with tracking(env, folder, *options, logins=PASSWORDS) as server:
        yield server


@pytest.fixture(scope="session")
def guarded(around: Neighbours, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Roles, a registry user, secrets in files, nothing writable but what has to be."""
    folder = tmp_path_factory.mktemp("guarded")
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
    options = [
        "--network",
        around.network,
        "--read-only",
        "--tmpfs",
        "/tmp",
        "--volume",
        "/var/spool/tracking",
        "--cap-drop",
        "ALL",
    ]
    options += ["--cap-add", "NET_BIND_SERVICE", "--sysctl", "net.ipv4.ip_unprivileged_port_start=1024"]
    with tracking(env, folder, *options, "--volume", f"{folder}:/given:ro", logins=PASSWORDS) as server:
        yield server
