"""The image, built once; PostgreSQL and S3, started once; two tracking servers on them: as in the walk-through, and guarded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .containers import PASSWORDS, Neighbours, Server, apr1, built_image, guarded_tracking, neighbours, tracking


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session")
def image() -> str:
    return built_image()


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
    with guarded_tracking(around, tmp_path_factory.mktemp("guarded")) as server:
        yield server
