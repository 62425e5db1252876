"""Errors as problem documents that say the rule, the value received and what to do."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from atelier_contracts.problem import Problem
from atelier_registry import errors, problems

from ..conftest import Api, Response
from ..fake_registry import FakeRegistry
from ..real_registry import RealWorld


def problem(answer: Response, status: int) -> str:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    document = Problem.model_validate(answer.json())
    assert document.status == status
    return document.detail


def leaves(root: type[Exception]) -> set[type[Exception]]:
    below = root.__subclasses__()
    return {leaf for each in below for leaf in leaves(each)} if below else {root}


def test_the_table_has_every_leaf_of_the_tree_and_nothing_else() -> None:
    assert set(problems.TYPES) == leaves(errors.RegistryApiError) - leaves(errors.StartError)


def test_the_docstring_lists_every_error() -> None:
    names = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.RegistryApiError)}
    drawn = {line.split("─ ")[1].split()[0] for line in errors.__doc__.splitlines() if "─ " in line}
    assert drawn | {"RegistryApiError"} == names


def test_an_unknown_model_lists_existing_ones(api: Api, fake: FakeRegistry) -> None:
    assert problem(api.get("/models/penicl"), 404) == "no model named 'penicl'; there is no model yet"
    for letter in "ba":
        fake.add_model(f"pencil-{letter}")
    for path in ("", "/versions", "/versions/1", "/history"):
        assert problem(api.get(f"/models/penicl{path}"), 404).endswith("existing models: pencil-a, pencil-b")
    assert problem(api.promote("penicl", 1), 404).endswith("existing models: pencil-a, pencil-b")
    for number in range(30):
        fake.add_model(f"m{number:02}")
    detail = problem(api.get("/models/penicl", {"Cache-Control": "no-cache"}), 404)
    assert "m00, m01" in detail
    assert "m19, and more (GET /models lists all)" in detail
    assert "m20" not in detail


def test_an_unknown_version_lists_existing_ones(start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str) -> None:
    world.add_model(name)
    api = start(world.registry)
    assert problem(api.get(f"/models/{name}/versions/4"), 404) == f"{name} has no version 4; it has none yet"
    for _ in range(3):
        world.add_version(name)
    for answer in (api.get(f"/models/{name}/versions/4"), api.promote(name, 4)):
        assert problem(answer, 404) == f"{name} has no version 4; existing versions: 3, 2, 1"


def test_at_most_twenty_versions_are_listed(api: Api, fake: FakeRegistry, name: str) -> None:
    fake.add_model(name)
    for _ in range(25):
        fake.add_version(name)
    detail = problem(api.get(f"/models/{name}/versions/99"), 404)
    assert "existing versions: 25, 24, 23" in detail
    assert detail.endswith("7, 6, and 5 more")


def test_more_than_a_thousand_versions_are_not_counted(api: Api, fake: FakeRegistry, name: str) -> None:
    fake.add_model(name)
    for number in range(1, 1003):
        fake._versions[name, number] = fake._versions.get((name, 1)) or fake.version(name, fake.add_version(name))
    assert problem(api.get(f"/models/{name}/versions/5000"), 404).endswith("and more than 980 more")


@pytest.mark.parametrize("number", ["99999999999999999999", str(2**31)])
def test_a_version_beyond_what_mlflow_counts_is_refused(api: Api, adapters: str, number: str) -> None:
    assert "less than or equal to 2147483647" in problem(api.get(f"/models/{adapters}/versions/{number}"), 422)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "reason is required"),
        ({"reason": ""}, 'reason: String should have at least 1 character; received ""'),
        ({"reason": "x" * 2001}, 'at most 2000 characters; received "xxx'),
        ({"reason": "r", "alias": "Champion!"}, "alias: String should match pattern"),
        ({"reason": "r", "alais": "champion"}, "alais is not a field of this request"),
        ({"reason": 7, "alias": 8}, "alias: Input should be a valid string; received 8"),
        ([], "the body must be a JSON object"),
        (None, "the body must be a JSON object"),
    ],
)
def test_an_invalid_body_is_refused_with_the_rule(
    api: Api, adapters: str, body: dict[str, Any] | list[Any] | None, told: str
) -> None:
    detail = problem(api.post(f"/models/{adapters}/versions/1/promote", body), 422)
    assert told in detail
    assert detail.endswith("Correct this and send the request again; /openapi.json describes every field.")
    assert len(detail) < 500


def test_a_body_that_is_not_json_is_refused(api: Api, adapters: str) -> None:
    address, login = f"/models/{adapters}/rollback", {"Authorization": "Bearer pia-secret"}
    broken = api.client.post(address, content="{reason", headers=login | {"Content-Type": "application/json"})
    assert "the body must be JSON" in problem(broken, 422)
    form = api.client.post(address, data={"reason": "r"}, headers=login)
    assert "sent with the header `Content-Type: application/json`" in problem(form, 422)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/models?limit=0", 'query.limit: Input should be greater than or equal to 1; received "0"'),
        ("/models?limit=101", 'less than or equal to 100; received "101"'),
        ("/models/{name}/versions/abc", "path.version: Input should be a valid integer"),
        ("/models/{name}/versions/0", 'received "0"'),
        ("/models/{name}/history?before_id=x", "query.before_id"),
        ("/models?page_token=zzz!", "page token"),
        ("/models/a:b", "path.name: String should match pattern"),
    ],
)
def test_invalid_parameters_are_refused_with_the_rule(api: Api, adapters: str, path: str, told: str) -> None:
    assert told in problem(api.get(path.format(name=adapters)), 422)


def test_an_unknown_path_or_method_is_a_problem_document(api: Api) -> None:
    assert problem(api.get("/nowhere"), 404) == "GET /nowhere: Not Found"
    answer = api.post("/models", {})
    assert problem(answer, 405) == "POST /models: Method Not Allowed"
    assert "GET" in answer.headers["allow"]


def test_an_internal_error_reveals_nothing(start: Callable[..., Api], fake: FakeRegistry, name: str) -> None:
    def model(_: str) -> None:
        raise RuntimeError("with a secret")

    fake.model = model  # type: ignore[assignment]
    detail = problem(start(fake).get(f"/models/{name}"), 500)
    assert "secret" not in detail


def test_openapi_has_examples_and_problems(api: Api) -> None:
    document = api.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if path in ("/healthz", "/readyz"):
                assert "security" not in operation
                continue
            assert operation["security"], (method, path)
            content = operation["responses"]["200"]["content"]
            assert (
                set(content) <= {"image/png", "image/webp", "text/event-stream", "text/plain"}
                or content["application/json"]["example"]
            )
            for status in {"401", "422", "503"} | (
                {"403", "404", "409"} if method == "post" and not path.endswith(("/generate", "/ping")) else set()
            ):
                assert "application/problem+json" in operation["responses"][status]["content"]
            if method in ("post", "patch") and not path.endswith("/ping"):
                assert operation["requestBody"]["content"]["application/json"]["examples"]


def test_the_examples_are_valid(api: Api) -> None:
    from atelier_contracts.promotion import Decision
    from atelier_registry.api import openapi_examples
    from atelier_registry.models import views

    Decision.model_validate(openapi_examples.DECISION)
    assert views.ModelSummary.model_validate(openapi_examples.MODEL).model_dump(mode="json") == openapi_examples.MODEL
    assert views.VersionDetail.model_validate(openapi_examples.DETAIL).model_dump(mode="json") == openapi_examples.DETAIL
