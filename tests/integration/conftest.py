"""The image, PostgreSQL, S3 and two tracking servers, once per session: one with minimal settings, one with roles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .containers import (
    PASSWORDS,
    BackingServices,
    Server,
    apr1,
    build_image,
    start_backing_services,
    tracking,
    tracking_with_roles,
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session")
def image() -> str:
    return build_image()


@pytest.fixture(scope="session")
def backing_services(image: str) -> Iterator[BackingServices]:
    with start_backing_services() as services:
        yield services


@pytest.fixture(scope="session")
def minimal(backing_services: BackingServices, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Only the settings of the reference walk-through's env file, with a memory limit of 1 GB."""
    env = backing_services.settings(HTPASSWD=f"ada:{apr1(PASSWORDS['ada'])}")
    folder = tmp_path_factory.mktemp("minimal")
    options = ["--network", backing_services.network, "--memory", "1g", "--sysctl", "net.ipv4.ip_unprivileged_port_start=1024"]
    with tracking(env, folder, *options, logins=PASSWORDS) as server:
        yield server


@pytest.fixture(scope="session")
def with_roles(backing_services: BackingServices, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with tracking_with_roles(backing_services, tmp_path_factory.mktemp("with_roles")) as server:
        yield server
