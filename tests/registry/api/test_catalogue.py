"""Lists and details over HTTP, on both registries."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from ..adapter_files import ADAPTER, EVIDENCE, FILES
from ..conftest import Api
from ..fake_registry import FakeRegistry
from ..real_registry import RealWorld

KIND = {"atelier.kind": "adapter", "atelier.bundle_digest": "b" * 64}


def test_models_are_listed_and_shown(start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str) -> None:
    world.add_model(name, "pencil drawings")
    world.add_version(name, tags=KIND)
    world.add_version(name, tags=KIND)
    world.point(name, "champion", 1)
    api = start(world.registry).as_("rita")
    token: dict[Any, Any] = {}
    seen: list[Any] = []
    while token is not None:
        page = api.get("/models", limit=2, **token).json()
        assert len(page["models"]) <= 2
        seen += page["models"]
        token = {"page_token": page["next_page_token"]} if page["next_page_token"] else None
    [mine] = [model for model in seen if model["name"] == name]
    assert mine["description"] == "pencil drawings"
    assert mine["aliases"] == {"champion": 1}
    assert mine["latest_version"]["version"] == 2
    assert mine == api.get(f"/models/{name}").json()


def test_versions_are_listed_newest_first(start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str) -> None:
    world.add_model(name)
    for _ in range(3):
        world.add_version(name, tags=KIND)
    world.point(name, "champion", 2)
    world.point(name, "best", 2)
    api = start(world.registry).as_("rita")
    first = api.get(f"/models/{name}/versions", limit=2).json()
    assert [version["version"] for version in first["versions"]] == [3, 2]
    assert first["versions"][1]["aliases"] == ["best", "champion"]
    assert first["versions"][1]["kind"] == "adapter"
    assert first["versions"][1]["tags"] == KIND
    assert first["versions"][1]["run_id"]
    last = api.get(f"/models/{name}/versions", limit=2, page_token=first["next_page_token"]).json()
    assert [version["version"] for version in last["versions"]] == [1]
    assert last["next_page_token"] is None


def test_listing_versions_makes_two_requests_whatever_their_number(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str
) -> None:
    api = start(fake)
    fake.calls.clear()
    assert len(api.get(f"/models/{adapters}/versions").json()["versions"]) == 5
    assert [call for call in fake.calls if call != "chain_head"] == ["model", "versions"]


def test_a_version_is_shown_with_its_lineage_and_evidence(
    start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str
) -> None:
    world.add_model(name)
    world.add_version(
        name,
        tags=KIND,
        params={"rank": "4"},
        metrics={"validation_loss": 0.13, "broken": math.nan},
        files=FILES,
        run_tags={"mlflow.source.git.commit": "of the run"},
    )
    world.point(name, "champion", 1)
    detail = start(world.registry).as_("rita").get(f"/models/{name}/versions/1").json()
    assert detail["aliases"] == ["champion"]
    assert detail["run"]["id"] == detail["run_id"]
    assert detail["run"]["params"] == {"rank": "4"}
    assert detail["run"]["metrics"] == {"validation_loss": 0.13, "broken": "NaN"}
    assert detail["lineage"] == {
        "run_id": detail["run_id"],
        "bundle_digest": ADAPTER.bundle_digest,
        "dataset_digest": ADAPTER.dataset_digest,
        "git_revision": ADAPTER.git_revision,
        "weights_sha256": ADAPTER.weights_sha256,
        "imported_from": None,
    }
    assert detail["evidence"] == EVIDENCE.model_dump()
    assert detail["problems"] == []


def test_a_version_without_the_trainers_files_is_shown(
    start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str
) -> None:
    world.add_model(name)
    world.add_version(name, tags=KIND, files={}, run_tags={"mlflow.source.git.commit": "of the run"})
    world.add_version(name)
    api = start(world.registry)
    tagged, plain = (api.get(f"/models/{name}/versions/{number}").json() for number in (1, 2))
    assert tagged["lineage"]["bundle_digest"] == "b" * 64
    assert tagged["lineage"]["git_revision"] == "of the run"
    assert tagged["lineage"]["dataset_digest"] is None
    assert tagged["evidence"] is None
    assert tagged["problems"] == ["adapter.json is missing"]
    assert plain["kind"] is None
    assert plain["problems"] == []


def test_files_stored_elsewhere_are_a_problem_of_the_version(
    start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str
) -> None:
    world.add_model(name)
    world.add_version(name, tags=KIND, files=FILES)
    world.keep_files_elsewhere(name, 1)
    detail = start(world.registry).get(f"/models/{name}/versions/1").json()
    assert detail["evidence"] is None
    assert "not stored by the tracking server" in detail["problems"][0]


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("evidence.json", "not json", "evidence.json is not a valid Evidence: content: Invalid JSON"),
        ("evidence.json", json.dumps(EVIDENCE.model_dump() | {"format": 2}), "format: Input should be 1"),
        ("evidence.json", EVIDENCE.model_copy(update={"validation_loss": 1}).model_dump_json() + "x", "Invalid JSON"),
        ("evidence.json", json.dumps(EVIDENCE.model_dump() | {"validation_loss": math.inf}), "validation_loss must be finite"),
        ("adapter.json", "{}", "bundle_digest: Field required"),
        ("adapter.json", ADAPTER.model_copy(update={"bundle_digest": "f" * 64}).model_dump_json(), "name different bundles"),
    ],
)
def test_invalid_files_are_listed_as_problems(api: Api, fake: FakeRegistry, name: str, file: str, text: str, told: str) -> None:
    fake.add_model(name)
    fake.add_version(name, tags=KIND, files=FILES | {file: text})
    detail = api.get(f"/models/{name}/versions/1")
    assert detail.status_code == 200
    [problem] = detail.json()["problems"]
    assert told in problem


def test_a_deleted_run_is_listed_as_a_problem(api: Api, fake: FakeRegistry, name: str) -> None:
    fake.add_model(name)
    fake.add_version(name, tags=KIND, files=FILES)
    fake.delete_run(fake.version(name, 1).run_id)
    detail = api.get(f"/models/{name}/versions/1").json()
    assert detail["run"] is None
    assert "no longer exists" in detail["problems"][0]


def test_no_adapter_files_are_looked_for_in_a_bundle(api: Api, fake: FakeRegistry, name: str) -> None:
    fake.add_model(name)
    fake.add_version(name, tags={"atelier.kind": "bundle", "atelier.bundle_digest": "b" * 64})
    fake.calls.clear()
    detail = api.get(f"/models/{name}/versions/1").json()
    assert detail["lineage"]["bundle_digest"] == "b" * 64
    assert detail["problems"] == []
    assert "files" not in fake.calls
