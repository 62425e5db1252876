"""Proposals: two different people, and the rules twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from atelier_registry.config.policy import Policy

from ..conftest import Api, Response
from ..fake_registry import FakeRegistry

POLICY = Policy.model_validate({"default": {"champion": {"approval": True, "output_finite": True}}})


@pytest.fixture
def api(start: Callable[..., Api], fake: FakeRegistry, token_file: Path) -> Api:
    with token_file.open("a") as lines:
        import hashlib

        lines.write(f"max promoter {hashlib.sha256(b'max-secret').hexdigest()}\n")
    return start(fake, policy=POLICY)


def approve(api: Api, id: int, reason: str = "seen") -> Response:
    return api.post(f"/decisions/{id}/approve", {"reason": reason})


def reject(api: Api, id: int, reason: str = "no") -> Response:
    return api.post(f"/decisions/{id}/reject", {"reason": reason})


def test_a_proposal_is_carried_out_after_approval(api: Api, fake: FakeRegistry, adapters: str) -> None:
    asked = api.promote(adapters, 2, reason="softer")
    assert asked.status_code == 202
    proposal = asked.json()
    assert proposal["outcome"] == "proposed"
    assert fake.model(adapters).aliases == {}
    assert api.promote(adapters, 2, reason="again").json() == proposal
    done = approve(api.as_("max"), proposal["id"])
    assert done.status_code == 200
    assert (done.json()["outcome"], done.json()["actor"], done.json()["approved_by"]) == ("done", "pia", "max")
    assert dict(fake.model(adapters).aliases) == {"champion": 2}
    assert approve(api.as_("max"), proposal["id"]).json() == done.json()  # again changes nothing
    assert approve(api.as_("ada"), proposal["id"]).status_code == 409
    [kept] = api.history(adapters)
    assert kept == done.json()


def test_nobody_approves_what_they_proposed(api: Api, fake: FakeRegistry, adapters: str) -> None:
    proposal = api.as_("ada").promote(adapters, 2).json()
    answer = approve(api.as_("ada"), proposal["id"])
    assert answer.status_code == 403
    assert "somebody else must approve" in answer.json()["detail"]
    assert approve(api.as_("rita"), proposal["id"]).status_code == 403
    assert fake.model(adapters).aliases == {}


def test_a_rejected_proposal_cannot_be_approved(api: Api, fake: FakeRegistry, adapters: str) -> None:
    proposal = api.promote(adapters, 2).json()
    assert reject(api, proposal["id"]).json()["outcome"] == "rejected"
    assert approve(api.as_("max"), proposal["id"]).status_code == 409
    assert reject(api, proposal["id"]).status_code == 409
    assert api.history(adapters, outcome="proposed") == []
    assert fake.model(adapters).aliases == {}


def test_a_proposal_against_another_champion_is_stale(api: Api, fake: FakeRegistry, adapters: str) -> None:
    proposal = api.promote(adapters, 2).json()
    fake.point(adapters, "champion", 4)
    answer = approve(api.as_("max"), proposal["id"])
    assert answer.status_code == 409
    assert "now points at 4" in answer.json()["detail"]


def test_approval_evaluates_the_policy_again(api: Api, fake: FakeRegistry, adapters: str) -> None:
    proposal = api.promote(adapters, 2).json()
    fake.set_tag(adapters, 2, "atelier.retired", "1")
    answer = approve(api.as_("max"), proposal["id"])
    assert answer.status_code == 409
    assert "was retired" in answer.json()["detail"]
    assert api.history(adapters)[0]["outcome"] == "refused"


def test_force_needs_no_approval(api: Api, fake: FakeRegistry, adapters: str) -> None:
    forced = api.as_("ada").promote(adapters, 2, force=True)
    assert (forced.status_code, forced.json()["forced"]) == (200, True)


def test_a_roll_back_needs_no_approval(api: Api, fake: FakeRegistry, adapters: str) -> None:
    for number in (1, 2):
        approve(api.as_("max"), api.promote(adapters, number).json()["id"])
    assert api.roll_back(adapters).json()["to_version"] == 1


def test_unknown_decisions_are_not_found(api: Api) -> None:
    for answer in (approve(api, 99), reject(api, 99), api.get("/decisions/99")):
        assert answer.status_code == 404
        assert "no decision has the id 99" in answer.json()["detail"]
