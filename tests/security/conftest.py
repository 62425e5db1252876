"""The images under attack, in containers that come back by themselves when they are killed, as in the twin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..integration.containers import Neighbours, built_image, guarded_tracking, neighbours
from .sampling import Peak
from .services import Services, serving
from .world import World, remade, seeded


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # a promoter's requests of that file promote and retire: nobody after them finds the champion that there was
    items.sort(key=lambda item: item.path == Path(__file__).with_name("test_specification.py"))
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.security)
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def around() -> Iterator[Neighbours]:
    built_image()
    with neighbours() as found:
        yield found


@pytest.fixture(scope="session")
def world(around: Neighbours, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A champion, versions from before sources had one spelling, files of nobody; and tracking, started on them anew."""
    with guarded_tracking(around, tmp_path_factory.mktemp("before")) as server:
        made = seeded(around, server)
    with guarded_tracking(around, tmp_path_factory.mktemp("now"), "--memory", "1g", "--restart", "always") as server:
        yield remade(made, server)


@pytest.fixture(scope="session")
def peak(world: World) -> Iterator[Peak]:
    """Samples tracking's memory for as long as the tests run."""
    with Peak(world.tracking) as sampled:
        yield sampled


@pytest.fixture(scope="session")
def services(around: Neighbours, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """registry-api and infer with a champion, on the same database and S3."""
    with serving(around, tmp_path_factory.mktemp("services")) as found:
        yield found
