"""Who comes in, and who may do what."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from ..conftest import TOKENS, Api, write_tokens
from ..fake_registry import FakeRegistry

READING = ["/models", "/models/{name}", "/models/{name}/versions", "/models/{name}/versions/1", "/models/{name}/history"]


@pytest.mark.parametrize("path", [*READING, "/openapi.json", "/nowhere"])
@pytest.mark.parametrize(
    ("headers", "challenge"),
    [
        ({}, 'Bearer realm="atelier"'),
        ({"Authorization": "Basic cGlhOnBpYQ=="}, 'Bearer realm="atelier"'),
        ({"Authorization": "Bearer "}, 'Bearer realm="atelier"'),
        ({"Authorization": "Bearer nobody-secret"}, 'Bearer realm="atelier", error="invalid_token"'),
        ({"Authorization": b"Bearer \xff\xfe"}, 'Bearer realm="atelier", error="invalid_token"'),
    ],
)
def test_a_request_without_a_valid_token_is_refused(
    api: Api, adapters: str, path: str, headers: dict[str, Any], challenge: str
) -> None:
    answer = api.client.get(path.format(name=adapters), headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == challenge
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 401


def test_the_token_is_checked_before_the_body(api: Api, adapters: str) -> None:
    assert api.client.post(f"/models/{adapters}/versions/1/promote", content="{").status_code == 401


@pytest.mark.parametrize("path", READING)
@pytest.mark.parametrize("id", TOKENS)
def test_every_role_may_read(api: Api, adapters: str, path: str, id: str) -> None:
    assert api.as_(id).get(path.format(name=adapters)).status_code == 200


@pytest.mark.parametrize("id", ["rita", "tom"])
def test_readers_and_trainers_may_not_decide(api: Api, fake: FakeRegistry, adapters: str, id: str) -> None:
    for answer in (api.as_(id).promote(adapters, 1), api.as_(id).roll_back(adapters), api.as_(id).promote("nobody", 1)):
        assert answer.status_code == 403
        assert f"{id} has the role {TOKENS[id]}; this requires promoter or admin" in answer.json()["detail"]
    assert "set_alias" not in fake.calls


@pytest.mark.parametrize("id", ["pia", "ada"])
def test_promoters_and_admins_may_decide(api: Api, adapters: str, id: str) -> None:
    assert api.as_(id).promote(adapters, 1).json()["actor"] == id
    assert api.as_(id).promote(adapters, 2).status_code == 200
    assert api.as_(id).roll_back(adapters).status_code == 200


def test_a_changed_token_file_is_noticed(api: Api, token_file: Path) -> None:
    assert api.get("/models").status_code == 200
    write_tokens(token_file, {"rita": "reader", "newcomer": "promoter"})
    assert api.get("/models").status_code == 401
    assert api.as_("newcomer").get("/models").status_code == 200
    token_file.unlink()
    assert api.as_("newcomer").get("/models").status_code == 401


def test_every_request_is_logged_once(api: Api, adapters: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    api.get("/models", limit=1, page_token="0")
    api.promote(adapters, 1)
    api.client.get("/models", headers={"Authorization": "Bearer stolen-secret"})
    api.client.get("/healthz")
    lines = [vars(record)["fields"] for record in caplog.records if record.getMessage() == "request"]
    seen = [(line["method"], line["path"], line["status"], line["token_id"], line["role"]) for line in lines]
    assert seen == [
        ("GET", "/models", 200, "pia", "promoter"),
        ("POST", f"/models/{adapters}/versions/1/promote", 200, "pia", "promoter"),
        ("GET", "/models", 401, None, None),
        ("GET", "/healthz", 200, None, None),
    ]
    assert all(line["duration_ms"] >= 0 for line in lines)
    assert "secret" not in caplog.text + json.dumps(lines)
