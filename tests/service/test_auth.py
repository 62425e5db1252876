"""Tokens of the token file, and roles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from .conftest import SECRET, token_line


@pytest.mark.parametrize("header", [None, "", "Basic YTpi", "Bearer", "Bearer  "])
def test_a_request_without_a_token_is_refused(
    client: TestClient, problem_of: Callable[[Any, int, str], str], header: str | None
) -> None:
    del client.headers["Authorization"]
    response = client.get("/orders/1", headers={} if header is None else {"Authorization": header})
    problem_of(response, 401, "missing-token")
    assert response.headers["www-authenticate"].startswith("Bearer")


def test_an_unknown_token_is_refused(client: TestClient, problem_of: Callable[[Any, int, str], str]) -> None:
    problem_of(client.get("/orders/1", headers={"Authorization": "Bearer nonsense"}), 401, "unknown-token")


def test_the_token_is_checked_before_the_body_and_the_path(
    client: TestClient, problem_of: Callable[[Any, int, str], str]
) -> None:
    del client.headers["Authorization"]
    problem_of(client.post("/nowhere", content=b"x" * 10_000), 401, "missing-token")


def test_the_scheme_is_not_case_sensitive(client: TestClient) -> None:
    assert client.get("/orders/1", headers={"Authorization": f"bearer {SECRET}"}).status_code == 200


def test_a_revoked_token_is_refused_at_once(
    client: TestClient, problem_of: Callable[[Any, int, str], str], token_file: Path
) -> None:
    assert client.get("/orders/1").status_code == 200
    token_file.write_text("# nobody\n")
    problem_of(client.get("/orders/1"), 401, "unknown-token")


def test_a_role_below_the_endpoints_is_refused(
    client: TestClient, problem_of: Callable[[Any, int, str], str], token_file: Path
) -> None:
    detail = problem_of(client.get("/promote"), 403, "role-too-low")
    assert detail == "ana has the role reader; this requires promoter or admin"
    token_file.write_text(token_line("ana", "admin", SECRET))
    assert client.get("/promote").json() == "ana"
