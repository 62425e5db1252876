"""Roll backs: a stack of versions, walked from this service's own decisions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from atelier_registry.decisions.rollback_stack import build_stack, previous
from atelier_registry.models.mlflow_registry import MlflowRegistry
from atelier_registry.storage.alias_moves import AliasMove
from hypothesis import given
from hypothesis import strategies as st

from ..conftest import Api
from ..fake_registry import FakeRegistry
from ..real_registry import RealWorld

KIND = {"atelier.kind": "adapter"}


def champion(registry: FakeRegistry | MlflowRegistry, name: str) -> int:
    return registry.model(name).aliases.get("champion")


def test_rolling_back_twice_goes_further_back(start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str) -> None:
    world.add_model(name)
    for _ in range(3):
        world.add_version(name, tags=KIND)
    api = start(world.registry)
    for number in (1, 2, 3):
        api.promote(name, number)
    first = api.roll_back(name, reason="hands")
    assert first.status_code == 200
    assert {
        "action": "rollback",
        "from_version": 3,
        "to_version": 2,
        "reason": "hands",
        "actor": "pia",
    }.items() <= first.json().items()
    assert champion(world.registry, name) == 2
    assert api.roll_back(name).json()["to_version"] == 1
    end = api.roll_back(name)
    assert end.status_code == 409
    assert "pointed at no other version before" in end.json()["detail"]
    assert champion(world.registry, name) == 1
    assert api.moves(name) == [1, 2, 3, 2, 1]


def test_a_promotion_after_a_roll_back_starts_a_new_branch(api: Api, fake: FakeRegistry, adapters: str) -> None:
    for number in (1, 2, 3):
        api.promote(adapters, number)
    api.roll_back(adapters)
    api.roll_back(adapters)
    api.promote(adapters, 5)
    assert api.roll_back(adapters).json()["to_version"] == 1


def test_a_version_promoted_twice_is_rolled_back_to_twice(api: Api, adapters: str) -> None:
    for number in (1, 2, 1):
        api.promote(adapters, number)
    assert [api.roll_back(adapters).json()["to_version"] for _ in range(2)] == [2, 1]
    assert api.roll_back(adapters).status_code == 409


def test_a_roll_back_goes_to_a_version_set_outside(api: Api, fake: FakeRegistry, adapters: str) -> None:
    fake.point(adapters, "champion", 4)
    api.promote(adapters, 5)
    assert api.roll_back(adapters).json()["to_version"] == 4


def test_a_roll_back_starts_from_a_version_set_outside(api: Api, fake: FakeRegistry, adapters: str) -> None:
    api.promote(adapters, 1)
    api.promote(adapters, 2)
    fake.point(adapters, "champion", 4)
    assert api.roll_back(adapters).json()["to_version"] == 2
    assert api.roll_back(adapters).json()["to_version"] == 1


def test_a_roll_back_to_a_named_version(api: Api, fake: FakeRegistry, adapters: str) -> None:
    for number in (1, 2, 3):
        api.promote(adapters, number)
    assert api.roll_back(adapters, version=1).json()["to_version"] == 1
    assert api.roll_back(adapters).status_code == 409
    assert api.roll_back(adapters, version=3).json()["action"] == "rollback"
    assert api.roll_back(adapters).json()["to_version"] == 1
    answer = api.roll_back(adapters, version=4)
    assert answer.status_code == 409
    assert "never pointed at version 4" in answer.json()["detail"]
    assert "only at 1, 2, 3" in answer.json()["detail"]
    assert champion(fake, adapters) == 1


def test_a_roll_back_does_not_go_to_versions_of_another_alias(api: Api, fake: FakeRegistry, adapters: str) -> None:
    api.promote(adapters, 1)
    api.promote(adapters, 2, alias="candidate")
    assert api.roll_back(adapters, version=2).status_code == 409
    assert champion(fake, adapters) == 1


def test_a_roll_back_to_the_current_version_changes_nothing(api: Api, adapters: str) -> None:
    there = api.promote(adapters, 2).json()
    answer = api.roll_back(adapters, version=2)
    assert answer.status_code == 200
    assert answer.json() == there


def test_a_named_version_must_exist(api: Api, fake: FakeRegistry, adapters: str) -> None:
    api.promote(adapters, 2)
    answer = api.roll_back(adapters, version=9)
    assert answer.status_code == 404
    assert "existing versions: 5, 4, 3, 2, 1" in answer.json()["detail"]
    assert champion(fake, adapters) == 2


def test_a_named_version_must_pass_the_standing_rules(api: Api, fake: FakeRegistry, adapters: str) -> None:
    fake.add_version(adapters, tags={"atelier.kind": "bundle"})
    api.promote(adapters, 2)
    assert api.roll_back(adapters, version=6).status_code == 409
    assert champion(fake, adapters) == 2


def test_a_deleted_previous_version_is_not_skipped(api: Api, fake: FakeRegistry, adapters: str) -> None:
    api.promote(adapters, 1)
    api.promote(adapters, 2)
    api.promote(adapters, 3)
    fake.delete_version(adapters, 2)
    answer = api.roll_back(adapters)
    assert answer.status_code == 409
    assert "version 2 was deleted" in answer.json()["detail"]
    assert champion(fake, adapters) == 3
    assert api.roll_back(adapters, version=1).status_code == 200


def test_an_alias_that_does_not_exist_cannot_be_rolled_back(api: Api, fake: FakeRegistry, adapters: str) -> None:
    answer = api.roll_back(adapters)
    assert answer.status_code == 409
    assert "has no alias 'champion'" in answer.json()["detail"]


def test_each_alias_has_its_own_stack(api: Api, adapters: str) -> None:
    api.promote(adapters, 1)
    api.promote(adapters, 2, alias="candidate")
    api.promote(adapters, 3)
    api.promote(adapters, 4, alias="candidate")
    assert api.roll_back(adapters).json()["to_version"] == 1
    assert api.roll_back(adapters, alias="candidate").json()["to_version"] == 2


def test_an_unknown_model_cannot_be_rolled_back(api: Api) -> None:
    assert api.roll_back("nobody").status_code == 404


def move(action: str, from_version: int | None, to_version: int) -> AliasMove:
    return AliasMove(1, "2026-01-01T00:00:00.000000Z", action, "m", "x", from_version, to_version)


@pytest.mark.parametrize(
    ("moves", "stack"),
    [
        ([], []),
        ([("promote", None, 1)], [1]),
        ([("promote", 7, 7)], [7]),
        ([("promote", None, 1), ("promote", 1, 2), ("rollback", 2, 1)], [1]),
        ([("promote", None, 1), ("promote", 9, 2)], [1, 9, 2]),
        ([("promote", None, 1), ("promote", 1, 2), ("rollback", 9, 2)], [1, 2]),
        ([("promote", None, 1), ("rollback", 1, 5)], [1, 5]),
        ([("promote", None, 1), ("promote", 1, 2), ("promote", None, 3)], [1, 2, 3]),
    ],
)
def test_the_stack_follows_the_moves(moves: list[Any], stack: list[int]) -> None:
    assert build_stack(move(*each) for each in moves) == stack


@given(st.lists(st.one_of(st.integers(1, 4), st.none()), max_size=30))
def test_rolling_back_always_ends(steps: list[int | None]) -> None:
    """A number promotes it, None rolls back: the stack's top is always the present version, and going back ends."""
    moves, present = [], None
    for step in steps:
        target = step if step is not None else present and previous(build_stack(moves), present)
        if target is not None and target != present:
            moves.append(move("rollback" if step is None else "promote", present, target))
            present = target
        stack = build_stack(moves)
        assert stack[-1:] == ([] if present is None else [present])
        assert all(one != other for one, other in pairwise(stack))
    depth = len(build_stack(moves))
    while present is not None and (target := previous(build_stack(moves), present)) is not None:
        moves.append(move("rollback", present, target))
        present, depth = target, depth - 1
        assert len(build_stack(moves)) == depth
    assert depth <= 1
