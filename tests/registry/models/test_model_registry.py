"""What a `ModelRegistry` does: the same tests for the fake and for an MLflow server."""

from __future__ import annotations

import math

import pytest
from atelier_registry.errors import InvalidArgumentError, UnreadableFileError

from ..adapter_files import FILES
from ..fake_registry import FakeRegistry
from ..real_registry import RealWorld


def test_ping(world: FakeRegistry | RealWorld) -> None:
    world.registry.ping()


def test_what_does_not_exist_is_none(world: FakeRegistry | RealWorld, name: str) -> None:
    world.add_model(name)
    registry = world.registry
    assert registry.model("nobody") is None
    assert registry.version(name, 1) is None
    assert registry.version("nobody", 1) is None
    assert registry.version(name, 2**31) is None
    assert registry.version(name, 2**80) is None
    assert registry.run("0" * 32) is None
    assert not registry.versions("nobody", 5, None).items


def test_a_model_has_aliases_and_a_latest_version(world: FakeRegistry | RealWorld, name: str) -> None:
    world.add_model(name, "pencil drawings")
    assert world.registry.model(name).latest is None
    for _ in range(2):
        world.add_version(name)
    world.point(name, "champion", 1)
    world.point(name, "candidate", 2)
    model = world.registry.model(name)
    assert (model.name, model.description, dict(model.aliases)) == (name, "pencil drawings", {"champion": 1, "candidate": 2})
    assert model.latest.number == 2
    assert model.aliases_of(1) == ["champion"]


def test_a_version(world: FakeRegistry | RealWorld, name: str) -> None:
    world.add_model(name)
    number = world.add_version(name, tags={"atelier.kind": "adapter", "mood": "calm"})
    version = world.registry.version(name, number)
    assert (version.model, version.number, version.status, version.kind) == (name, 1, "READY", "adapter")
    assert dict(version.tags) == {"atelier.kind": "adapter", "mood": "calm"}
    assert version.created_at.utcoffset().total_seconds() == 0
    assert version.run_id
    assert world.registry.versions(name, 5, None).items == [version]


def test_a_version_that_is_not_ready(world: FakeRegistry | RealWorld, name: str) -> None:
    world.add_model(name)
    world.add_version(name)
    world.make_pending(name, 1)
    assert world.registry.version(name, 1).status == "PENDING_REGISTRATION"


def test_versions_come_newest_first_in_pages(world: FakeRegistry | RealWorld, name: str) -> None:
    world.add_model(name)
    for _ in range(12):
        world.add_version(name)
    seen, token = [], None
    for _ in range(3):
        page = world.registry.versions(name, 5, token)
        seen.append([version.number for version in page.items])
        token = page.next_token
    assert seen == [[12, 11, 10, 9, 8], [7, 6, 5, 4, 3], [2, 1]]
    assert token is None


def test_models_come_by_name_in_pages(world: FakeRegistry | RealWorld, name: str) -> None:
    names = [world.add_model(f"{name}-{letter}") for letter in "cab"]
    seen, token, pages = [], None, 0
    while True:
        page = world.registry.models(2, token)
        assert len(page.items) <= 2
        seen += [model.name for model in page.items]
        pages, token = pages + 1, page.next_token
        if token is None:
            break
    assert seen == sorted(seen)
    assert set(names) <= set(seen)
    assert pages == math.ceil(len(seen) / 2)


@pytest.mark.parametrize("token", ["zzz", "zzz!", "né", ""])
def test_a_wrong_page_token_is_refused(world: FakeRegistry | RealWorld, name: str, token: str) -> None:
    world.add_model(name)
    with pytest.raises(InvalidArgumentError, match=r"page.token"):
        world.registry.models(2, token)
    with pytest.raises(InvalidArgumentError, match=r"page.token"):
        world.registry.versions(name, 2, token)


def test_a_name_that_no_model_can_have_is_refused(world: FakeRegistry | RealWorld) -> None:
    with pytest.raises(InvalidArgumentError, match="Names cannot contain"):
        world.registry.model("a:b")


@pytest.mark.parametrize("odd", ["it's", 'so "called"', "Größe 1", "50% off", "a_b", "x' OR name != '"])
def test_odd_names(world: FakeRegistry | RealWorld, name: str, odd: str) -> None:
    world.add_model(odd + name)
    world.add_model(name)
    world.add_version(name)
    world.add_version(odd + name)
    assert world.registry.model(odd + name).name == odd + name
    assert [version.model for version in world.registry.versions(odd + name, 5, None).items] == [odd + name]


def test_a_run(world: FakeRegistry | RealWorld, name: str) -> None:
    world.add_model(name)
    world.add_version(
        name, params={"rank": "8"}, metrics={"loss": 0.25, "broken": math.nan}, run_tags={"mlflow.source.git.commit": "1c2f7a9"}
    )
    run = world.registry.run(world.registry.version(name, 1).run_id)
    assert (run.name, run.status, dict(run.params)) == ("a run", "FINISHED", {"rank": "8"})
    assert run.metrics["loss"] == 0.25
    assert math.isnan(run.metrics["broken"])
    assert run.tags["mlflow.source.git.commit"] == "1c2f7a9"


def test_files(world: FakeRegistry | RealWorld, name: str) -> None:
    world.add_model(name)
    world.add_version(name, files=FILES)
    world.add_version(name)
    assert world.registry.files(name, 1) == FILES
    assert world.registry.files(name, 2) == {}
    assert world.registry.files(name, 3) == {}


def test_files_stored_elsewhere_are_not_read(world: FakeRegistry | RealWorld, name: str) -> None:
    world.add_model(name)
    world.add_version(name, files=FILES)
    world.keep_files_elsewhere(name, 1)
    with pytest.raises(UnreadableFileError, match="not stored by the tracking server"):
        world.registry.files(name, 1)


def test_an_alias_moves(world: FakeRegistry | RealWorld, name: str) -> None:
    world.add_model(name)
    for _ in range(2):
        world.add_version(name)
    assert world.registry.set_alias(name, "champion", 1)
    assert world.registry.set_alias(name, "champion", 2)
    assert dict(world.registry.model(name).aliases) == {"champion": 2}


def test_an_alias_does_not_move_to_what_is_not_there(world: FakeRegistry | RealWorld, name: str) -> None:
    world.add_model(name)
    world.add_version(name)
    world.point(name, "champion", 1)
    assert not world.registry.set_alias(name, "champion", 2)
    assert not world.registry.set_alias(name, "champion", 2**80)
    assert not world.registry.set_alias("nobody", "champion", 1)
    assert dict(world.registry.model(name).aliases) == {"champion": 1}


def test_a_reserved_alias_is_refused(world: FakeRegistry | RealWorld, name: str) -> None:
    world.add_model(name)
    world.add_version(name)
    with pytest.raises(InvalidArgumentError, match="reserved"):
        world.registry.set_alias(name, "latest", 1)


def test_a_deleted_version_takes_its_aliases_along(world: FakeRegistry | RealWorld, name: str) -> None:
    world.add_model(name)
    world.add_version(name)
    world.point(name, "champion", 1)
    world.delete_version(name, 1)
    assert world.registry.version(name, 1) is None
    assert dict(world.registry.model(name).aliases) == {}


# Of the MLflow server only.
