"""Idempotency keys, ETags and preconditions."""

from __future__ import annotations

import pytest

from ..conftest import Api
from ..fake_infer_client import FakeInferClient
from ..fake_registry import FakeRegistry


def etag(api: Api, name: str, alias: str = "champion") -> str:
    return api.get(f"/models/{name}/aliases/{alias}").headers["etag"]


def test_a_repeated_request_returns_its_decision(api: Api, fake: FakeRegistry, adapters: str) -> None:
    key = {"Idempotency-Key": "a-1"}
    for number in (1, 2, 3):
        api.promote(adapters, number)
    once = api.roll_back(adapters, headers=key)
    again = api.roll_back(adapters, headers=key)
    assert again.json() == once.json()
    assert fake.model(adapters).aliases["champion"] == 2  # one back, not two
    assert api.roll_back(adapters, headers={"Idempotency-Key": "a-2"}).json()["to_version"] == 1


def test_a_key_cannot_be_used_for_another_request(api: Api, adapters: str) -> None:
    key = {"Idempotency-Key": "a-1"}
    done = api.promote(adapters, 1, headers=key).json()
    for answer in (api.promote(adapters, 2, headers=key), api.promote(adapters, 1, reason="other", headers=key)):
        assert answer.status_code == 422
        assert f"led to decision {done['id']}" in answer.json()["detail"]
    assert api.as_("ada").promote(adapters, 2, headers=key).status_code == 200  # another sender's keys are others


def test_a_repeated_refusal_is_not_recorded_again(
    api: Api, fake: FakeRegistry, adapters: str, infer_client: FakeInferClient
) -> None:
    api.promote(adapters, 1)
    api.promote(adapters, 2)
    infer_client.broken = {1}
    key = {"Idempotency-Key": "a-1"}
    refused = api.roll_back(adapters, headers=key)
    infer_client.broken = set()
    assert api.roll_back(adapters, headers=key).json() == refused.json()
    assert len(api.history(adapters, outcome="refused")) == 1


def test_if_match_refuses_a_changed_alias(api: Api, fake: FakeRegistry, adapters: str) -> None:
    first = api.promote(adapters, 1)
    seen = etag(api, adapters)
    assert first.headers["etag"] == seen
    assert api.promote(adapters, 2, headers={"If-Match": seen}).status_code == 200
    stale = api.promote(adapters, 3, headers={"If-Match": seen})
    assert stale.status_code == 412
    assert seen in stale.json()["detail"]
    assert etag(api, adapters) in stale.json()["detail"]
    assert api.roll_back(adapters, headers={"If-Match": seen}).status_code == 412
    assert fake.model(adapters).aliases["champion"] == 2
    assert api.promote(adapters, 3, headers={"If-Match": "*"}).status_code == 200


def test_moving_away_and_back_changes_the_etag(api: Api, fake: FakeRegistry, adapters: str) -> None:
    api.promote(adapters, 1)
    seen = etag(api, adapters)
    api.promote(adapters, 2)
    api.promote(adapters, 1)
    assert api.promote(adapters, 3, headers={"If-Match": seen}).status_code == 412


def test_an_outside_move_changes_the_etag(api: Api, fake: FakeRegistry, adapters: str) -> None:
    api.promote(adapters, 1)
    seen = etag(api, adapters)
    fake.point(adapters, "champion", 4)
    assert api.promote(adapters, 3, headers={"If-Match": seen}).status_code == 412


def test_if_none_match_refuses_an_existing_alias(api: Api, adapters: str) -> None:
    assert api.promote(adapters, 1, headers={"If-Match": "*"}).status_code == 412
    assert api.promote(adapters, 1, headers={"If-None-Match": "*"}).status_code == 200
    assert api.promote(adapters, 2, headers={"If-None-Match": "*"}).status_code == 412
    assert api.promote(adapters, 2, headers={"If-None-Match": '"x"'}).status_code == 422


@pytest.mark.parametrize(
    "path", ["/models", "/models/{name}", "/models/{name}/versions", "/models/{name}/versions/1", "/models/{name}/history",
             "/models/{name}/aliases/champion", "/models/{name}/compare?left=1&right=2", "/decisions/1"],
)  # fmt: skip
def test_every_resource_has_an_etag(api: Api, adapters: str, path: str) -> None:
    api.promote(adapters, 1)
    path = path.format(name=adapters)
    answer = api.get(path)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "private, no-cache"
    again = api.get(path, headers={"If-None-Match": f'"other", {answer.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert api.get(path, headers={"If-None-Match": '"other"'}).json() == answer.json()


def test_an_etag_changes_with_its_resource(api: Api, adapters: str) -> None:
    before = api.get(f"/models/{adapters}").headers["etag"]
    assert api.get(f"/models/{adapters}").headers["etag"] == before
    api.promote(adapters, 1)
    assert api.get(f"/models/{adapters}").headers["etag"] != before
