"""The images under attack, in containers that Docker restarts, as in the twin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..integration.containers import BackingServices, build_image, start_backing_services, tracking_with_roles
from .environment import Environment, create_environment, on_server
from .sampling import Peak
from .services import Services, start_services


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # last, because the requests of that file may replace the champion
    items.sort(key=lambda item: item.path == Path(__file__).with_name("test_specification.py"))
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.security)
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def backing_services() -> Iterator[BackingServices]:
    build_image()
    with start_backing_services() as started:
        yield started


@pytest.fixture(scope="session")
def environment(backing_services: BackingServices, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """A champion, versions with noncanonical sources and other files; and a new tracking container on them."""
    with tracking_with_roles(backing_services, tmp_path_factory.mktemp("before")) as server:
        environment = create_environment(backing_services, server)
    with tracking_with_roles(
        backing_services, tmp_path_factory.mktemp("now"), "--memory", "1g", "--restart", "always"
    ) as server:
        yield on_server(environment, server)


@pytest.fixture(scope="session")
def peak(environment: Environment) -> Iterator[Peak]:
    """Samples tracking's memory during the tests."""
    with Peak(environment.tracking) as sampled:
        yield sampled


@pytest.fixture(scope="session")
def services(backing_services: BackingServices, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """registry-api and infer with a champion, on the same database and S3."""
    with start_services(backing_services, tmp_path_factory.mktemp("services")) as started:
        yield started
