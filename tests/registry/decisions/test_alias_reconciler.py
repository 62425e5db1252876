"""What is done in MLflow's own dashboard shows up, and becomes a decision; where an alias was at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from ..conftest import Api
from ..fake_registry import FakeRegistry
from ..real_registry import RealWorld


def outside(api: Api, name: str, count: int = 1) -> Any:
    """Waits for decisions made outside."""
    end = time.monotonic() + 60
    while len(found := [each for each in api.history(name) if each["action"] == "outside"]) < count:
        assert time.monotonic() < end, "no decision was made of it"
        time.sleep(0.02)
    return found


def test_an_outside_move_becomes_a_decision(start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str) -> None:
    world.add_model(name)
    for _ in range(2):
        world.add_version(name, tags={"atelier.kind": "adapter"})
    api = start(world.registry, alias_poll_s=0.1)
    api.promote(name, 1)
    world.point(name, "champion", 2)
    assert api.get(f"/models/{name}").json()["aliases"] == {"champion": 2}  # at once
    [found] = outside(api, name)
    assert (found["actor"], found["from_version"], found["to_version"], found["outcome"]) == ("outside", 1, 2, "done")
    world.unpoint(name, "champion")
    latest = outside(api, name, 2)[0]
    assert (latest["from_version"], latest["to_version"]) == (2, None)
    assert api.promote(name, 1).json()["from_version"] is None


def test_an_outside_move_is_recorded_once_by_several_processes(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str
) -> None:
    apis = [start(fake, alias_poll_s=0.02) for _ in range(3)]
    fake.point(adapters, "champion", 3)
    outside(apis[0], adapters)
    checks = fake.calls.count("models")
    end = time.monotonic() + 60
    while fake.calls.count("models") < checks + 30:  # every process compares again, several times
        assert time.monotonic() < end, "the reconcilers stopped"
        time.sleep(0.02)
    assert [(decision["action"], decision["to_version"]) for decision in apis[1].history(adapters)] == [("outside", 3)]


def test_deleting_a_model_deletes_its_aliases(start: Callable[..., Api], fake: FakeRegistry, adapters: str) -> None:
    api = start(fake, alias_poll_s=0.02)
    api.promote(adapters, 1)
    fake.delete_model(adapters)
    assert outside(api, adapters)[0]["to_version"] is None


def test_an_outage_is_logged_once(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake.down = True
    start(fake, alias_poll_s=0.02)
    time.sleep(0.3)
    assert caplog.text.count("alias reconciliation failed") == 1


def test_an_alias_can_be_read_at_a_past_time(start: Callable[..., Api], fake: FakeRegistry, adapters: str) -> None:
    api = start(fake)
    before = datetime.now(UTC)
    first = api.promote(adapters, 1).json()
    between = datetime.now(UTC)
    fake.point(adapters, "champion", 3)
    second = api.promote(adapters, 2).json()
    path = f"/models/{adapters}/aliases/champion"
    assert api.get(path).json()["version"] == 2
    then = api.get(path, at=between.isoformat()).json()
    assert (then["version"], then["decision"], then["since"]) == (1, first["id"], first["done_at"])
    assert api.get(path, at=second["done_at"]).json()["version"] == 2
    assert api.get(path, at=datetime.now(UTC).isoformat()).json()["decision"] == second["id"]
    nobody = api.get(path, at=before.isoformat())
    assert nobody.status_code == 404
    assert "has no alias 'champion'" in nobody.json()["detail"]
    assert api.get(path, at="2026-01-01T00:00:00").status_code == 422  # whose midnight?
    assert api.get(path, at="yesterday").status_code == 422
    assert api.get(f"/models/{adapters}/aliases/other").status_code == 404
