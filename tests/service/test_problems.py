"""Every error leaves as a problem document whose type a client can test and look up."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atelier_infer.problems
import atelier_registry.problems
import pytest
from atelier_service import auth, problems
from atelier_tracking.gate.problem_responses import TYPES as TRACKING_TYPES
from atelier_tracking.gate.problem_responses import ProblemType as TrackingProblemType
from starlette.testclient import TestClient

from .conftest import LIMIT_BYTES

REFERENCE = Path(__file__).parents[2] / "docs/reference/problems.md"


@pytest.mark.parametrize(
    ("body", "status", "type", "detail"),
    [
        ({"colour": "mauve"}, 404, "unknown-colour", "there are red and blue"),
        ({"colour": "puce"}, 404, "unknown-colour", "puce"),
        ({"colour": "odd"}, 500, "internal-error", "an error without a type"),
        ({"colour": "red", "litres": 6}, 422, "invalid-request", "red comes in at most 5 litres; received 6"),
        ({"colour": "x" * 200}, 422, "invalid-request", "(202 characters)"),
        ({"litres": "many"}, 422, "invalid-request", "colour is required; litres: Input should be a valid integer"),
        ({"colour": "red", "size": 1}, 422, "invalid-request", "size is not a field of this request"),
        ([1], 422, "invalid-request", "the body must be a JSON object"),
        ({"colour": "x" * LIMIT_BYTES}, 413, "body-too-large", f"at most {LIMIT_BYTES} bytes"),
    ],
)
def test_errors_become_problem_documents(
    client: TestClient,
    problem_of: Callable[[Any, int, str], str],
    body: dict[str, Any] | list[int],
    status: int,
    type: str,
    detail: str,
) -> None:
    assert detail in problem_of(client.post("/orders", json=body), status, type)


def test_broken_json_names_the_place(client: TestClient, problem_of: Callable[[Any, int, str], str]) -> None:
    response = client.post("/orders", content=b'{"colour": ', headers={"Content-Type": "application/json"})
    assert "must be JSON" in problem_of(response, 422, "invalid-request")


def test_an_unexpected_error_shows_nothing_but_the_request_id(
    client: TestClient, problem_of: Callable[[Any, int, str], str]
) -> None:
    response = client.post("/orders", json={"colour": "boom"}, headers={"X-Request-ID": "abc-1"})
    detail = problem_of(response, 500, "internal-error")
    assert "abc-1" in detail
    assert "secret" not in response.text


def test_unknown_paths_and_methods(client: TestClient, problem_of: Callable[[Any, int, str], str]) -> None:
    problem_of(client.get("/nowhere"), 404, "no-such-path")
    response = client.put("/orders", json={})
    problem_of(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"


def test_every_type_can_be_looked_up_without_a_token(client: TestClient) -> None:
    del client.headers["Authorization"]
    listed = client.get("/problems").json()
    assert {"unknown-colour", "invalid-request", "internal-error"} <= {each["type"].rpartition("/")[2] for each in listed}
    for each in listed:
        assert client.get(each["type"]).json() == each
    assert client.get("/problems/nothing").status_code == 404


def test_the_reference_lists_every_type() -> None:
    shared = (*problems.COMMON, auth.MISSING_TOKEN, auth.UNKNOWN_TOKEN, auth.ROLE_TOO_LOW)
    of_services: dict[str, set[problems.ProblemType | TrackingProblemType]] = {
        "infer": {*atelier_infer.problems.TYPES.values(), *shared},
        "registry-api": {*atelier_registry.problems.TYPES.values(), *shared},
        "tracking": {*TRACKING_TYPES},
    }
    expected: dict[str, tuple[int, str, set[str]]] = {}
    for service, types in of_services.items():
        for each in types:
            *known, services = expected.setdefault(each.uri, (each.status, each.description, set()))
            assert known == [each.status, each.description], f"{service} gives {each.uri} another meaning"
            services.add(service)
    rows = re.findall(r"^\| `(\S+)` \| (\d+) \| (.+?) \| (.+?) \|$", REFERENCE.read_text(), re.M)
    listed = {uri: (int(status), meaning, set(services.split(", "))) for uri, status, meaning, services in rows}
    assert listed == expected
