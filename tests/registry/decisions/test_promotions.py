"""Promotions: what moves, what is kept of it, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from atelier_contracts.promotion import Decision
from atelier_registry.storage.ledger import Ledger

from ..conftest import Api
from ..fake_registry import FakeRegistry
from ..real_registry import RealWorld

KIND = {"atelier.kind": "adapter"}


def test_a_promotion_moves_the_alias_and_is_recorded(
    start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str
) -> None:
    world.add_model(name)
    for _ in range(2):
        world.add_version(name, tags=KIND)
    api = start(world.registry)
    first = Decision.model_validate(api.promote(name, 1, reason="the first").json())
    answer = api.as_("ada").promote(name, 2, reason="softer lines")
    assert answer.status_code == 200
    second = Decision.model_validate(answer.json())
    assert (first.from_version, first.to_version, first.actor, first.action) == (None, 1, "pia", "promote")
    assert (second.from_version, second.to_version, second.actor, second.reason) == (1, 2, "ada", "softer lines")
    assert (second.model, second.alias) == (name, "champion")
    assert abs((datetime.now(UTC) - second.at).total_seconds()) < 60
    assert second.id > first.id
    assert dict(world.registry.model(name).aliases) == {"champion": 2}
    assert api.history(name) == [second.model_dump(mode="json"), first.model_dump(mode="json")]


def test_promote_again_changes_nothing(start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str) -> None:
    world.add_model(name)
    world.add_version(name, tags=KIND)
    api = start(world.registry)
    first, again = api.promote(name, 1), api.as_("ada").promote(name, 1, reason="another reason")
    assert again.status_code == 200
    assert again.json() == first.json()
    assert len(api.history(name)) == 1


def test_promoting_a_version_set_outside_records_a_decision(api: Api, fake: FakeRegistry, adapters: str) -> None:
    fake.point(adapters, "champion", 3)
    recorded = api.promote(adapters, 3).json()
    assert (recorded["from_version"], recorded["to_version"]) == (3, 3)
    assert "set_alias" not in fake.calls
    assert api.promote(adapters, 3).json() == recorded


def test_promoting_a_version_that_returned_outside_records_a_decision(api: Api, fake: FakeRegistry, adapters: str) -> None:
    """The decision that once put version 1 there is not the one that it is there for now."""
    first = api.promote(adapters, 1).json()
    api.promote(adapters, 2)
    fake.point(adapters, "champion", 1)
    recorded = api.promote(adapters, 1).json()
    assert recorded["id"] > first["id"]
    assert (recorded["from_version"], recorded["to_version"]) == (1, 1)


def test_other_aliases_move_on_their_own(api: Api, fake: FakeRegistry, adapters: str) -> None:
    api.promote(adapters, 1)
    api.promote(adapters, 2, alias="candidate")
    assert dict(fake.model(adapters).aliases) == {"champion": 1, "candidate": 2}


@pytest.mark.parametrize(
    ("tags", "told"),
    [({"atelier.kind": "bundle"}, "has the tag atelier.kind=bundle"), ({}, "has no tag atelier.kind")],
)
def test_only_adapters_become_champion(
    start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str, tags: dict[str, str], told: str
) -> None:
    world.add_model(name)
    world.add_version(name, tags=tags)
    api = start(world.registry)
    answer = api.promote(name, 1)
    assert answer.status_code == 409
    assert told in answer.json()["detail"]
    assert dict(world.registry.model(name).aliases) == {}
    assert [decision["outcome"] for decision in api.history(name)] == ["refused"]
    assert api.promote(name, 1, alias="base").status_code == 200


def test_only_ready_versions_are_pointed_at(start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str) -> None:
    world.add_model(name)
    world.add_version(name, tags=KIND)
    world.make_pending(name, 1)
    api = start(world.registry)
    for alias in ("champion", "candidate"):
        answer = api.promote(name, 1, alias=alias)
        assert answer.status_code == 409
        assert "PENDING_REGISTRATION" in answer.json()["detail"]
    assert dict(world.registry.model(name).aliases) == {}


@pytest.mark.parametrize("alias", ["latest", "v7"])
def test_reserved_aliases_are_refused(api: Api, adapters: str, alias: str) -> None:
    answer = api.promote(adapters, 1, alias=alias)
    assert answer.status_code == 422
    assert alias in answer.json()["detail"]


def test_a_version_deleted_during_the_promotion_is_not_found(
    api: Api, fake: FakeRegistry, adapters: str, ledger: Ledger
) -> None:
    fake.before_alias = lambda: fake.delete_version(adapters, 2)
    answer = api.promote(adapters, 2)
    assert answer.status_code == 404
    assert "has no version 2" in answer.json()["detail"]
    assert ledger.pending() == []
    assert api.moves(adapters) == []
    assert dict(fake.model(adapters).aliases) == {}


def test_an_alias_that_mlflow_refuses_fails_the_decision(api: Api, fake: FakeRegistry, adapters: str, ledger: Ledger) -> None:
    from atelier_registry.errors import InvalidArgumentError

    def refuse() -> None:
        raise InvalidArgumentError("MLflow refuses this: not today")

    fake.before_alias = refuse
    answer = api.promote(adapters, 2)
    assert answer.status_code == 422
    assert "not today" in answer.json()["detail"]
    assert ledger.pending() == []
    assert api.moves(adapters) == []
