"""The history of decisions."""

from __future__ import annotations

from ..conftest import Api
from ..fake_registry import FakeRegistry


def test_history_comes_in_pages(api: Api, adapters: str) -> None:
    for number in (1, 2, 3, 4, 5):
        api.promote(adapters, number)
    first = api.as_("rita").get(f"/models/{adapters}/history", limit=2).json()
    assert [decision["to_version"] for decision in first["decisions"]] == [5, 4]
    second = api.get(f"/models/{adapters}/history", limit=2, before_id=first["next_before_id"]).json()
    last = api.get(f"/models/{adapters}/history", limit=2, before_id=second["next_before_id"]).json()
    assert [decision["to_version"] for decision in second["decisions"] + last["decisions"]] == [3, 2, 1]
    assert last["next_before_id"] is None
    full = api.get(f"/models/{adapters}/history", limit=5).json()
    assert full["next_before_id"] is None


def test_history_of_one_alias(api: Api, adapters: str) -> None:
    api.promote(adapters, 1)
    api.promote(adapters, 2, alias="candidate")
    assert [decision["to_version"] for decision in api.history(adapters, alias="candidate")] == [2]
    assert api.history(adapters, alias="other") == []


def test_history_of_a_model_without_decisions_is_empty(api: Api, adapters: str) -> None:
    assert api.get(f"/models/{adapters}/history").json() == {"decisions": [], "next_before_id": None}


def test_history_of_an_unknown_model_is_not_found(api: Api) -> None:
    assert api.get("/models/nobody/history").status_code == 404


def test_history_of_a_deleted_model_remains(api: Api, fake: FakeRegistry, adapters: str) -> None:
    api.promote(adapters, 1)
    fake.delete_model(adapters)
    assert len(api.history(adapters)) == 1
    assert api.get(f"/models/{adapters}/history", alias="other").status_code == 200


def test_history_is_readable_without_mlflow(api: Api, fake: FakeRegistry, adapters: str) -> None:
    api.promote(adapters, 1)
    fake.down = True
    assert len(api.history(adapters)) == 1


def test_an_id_too_large_for_the_database_is_refused(api: Api, adapters: str) -> None:
    assert api.get(f"/models/{adapters}/history", before_id=2**63).status_code == 422
    assert api.get(f"/models/{adapters}/history", before_id=2**63 - 1).status_code == 200
