"""Classes of routes against MLflow's routes, and roles against classes."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from atelier_contracts.names import TAG_PROMOTED_DIGEST, TAG_STYLE
from atelier_tracking.gate.protected_names import violation
from atelier_tracking.gate.routes import classify, map_entries, read_routes
from atelier_tracking.roles import LOWEST_ROLE, PROTECTED, REGISTRY, ROLES, allowed

KINDS = {*LOWEST_ROLE, "closed"}


def test_classes_are_valid_and_routes_unique() -> None:
    routes = read_routes()
    assert {route.kind for route in routes} == KINDS
    assert len({(route.method, route.path) for route in routes}) == len(routes)
    assert set(PROTECTED) <= set(LOWEST_ROLE)


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("GET", "/", "read"),
        ("HEAD", "/version", "read"),
        ("OPTIONS", "/no/such", "read"),
        ("POST", "/api/2.0/mlflow/runs/create", "write"),
        ("GET", "/api/2.0/mlflow/runs/create", "closed"),
        ("POST", "/API/2.0/mlflow/runs/create", "closed"),
        ("POST", "/api/2.0/mlflow/runs/create/", "closed"),
        ("GET", "/api/3.0/mlflow/datasets/search", "read"),
        ("DELETE", "/api/3.0/mlflow/datasets/search", "write"),
        ("GET", "/api/3.0/mlflow/gateway/secrets/list", "gateway"),
        ("GET", "/api/3.0/mlflow/gateway/secrets/config", "gateway"),
        ("POST", "/gateway/x/mlflow/invocations", "gateway"),
        ("GET", "/api/3.0/mlflow/gateway/endpoints/list", "read"),
        ("PUT", "/ajax-api/2.0/mlflow-artifacts/artifacts/0/x/artifacts/a b/c", "artifact"),
        ("DELETE", "/api/2.0/mlflow/logged-models/m-1", "model"),
        ("DELETE", "/api/2.0/mlflow/logged-models/m-1/tags/x", "write"),
        ("POST", "/api/2.0/mlflow/registered-models/alias", "curate"),
        ("POST", "/api/2.0/mlflow/registered-models/set-tag", "curate"),
        ("DELETE", "/ajax-api/2.0/mlflow/registered-models/delete-tag", "curate"),
        ("GET", "/api/2.0/mlflow/registered-models/alias", "read"),
        ("POST", "/api/2.0/mlflow/tomorrow", "closed"),
    ],
)
def test_a_route_has_its_class(method: str, path: str, kind: str) -> None:
    assert classify(method, path, read_routes()) == kind


@pytest.mark.parametrize("tag", [TAG_STYLE, TAG_PROMOTED_DIGEST, f" {TAG_STYLE}", TAG_STYLE.upper()])
def test_a_model_cannot_be_created_with_the_registrys_tags(tag: str) -> None:
    message = violation("ink", [tag], creates_model=True)
    assert message is not None and tag in message


def test_each_role_includes_the_lower_ones() -> None:
    pairs = set(allowed(gateway=True, registry=False))
    for lower, higher in pairwise(ROLES):
        assert {kind for role, kind in pairs if role == lower} < {kind for role, kind in pairs if role == higher}
    assert {kind for role, kind in pairs if role == "reader"} == {"read"}
    assert "closed" not in {kind for _, kind in pairs}


def test_the_registry_user_may_not_write_files_or_administer() -> None:
    kinds = {kind for role, kind in allowed(gateway=True, registry=True) if role == REGISTRY}
    assert kinds == {"read", "register", "describe", "curate", "registered"}


@pytest.mark.parametrize(("gateway", "registry", "closed"), [(False, True, {"gateway", "presign"}), (True, False, set())])
def test_disabled_classes_are_closed_to_every_role(gateway: bool, registry: bool, closed: set[str]) -> None:
    assert set(LOWEST_ROLE) - {kind for _, kind in allowed(gateway, registry)} == closed


def test_map_entries_contain_no_characters_that_nginx_interprets() -> None:
    lines = map_entries(read_routes()).splitlines()
    assert len(lines) == len(read_routes()) + 1
    assert all(re.fullmatch(r'\s*"~\^[^"$;{}]+\$?" [a-z]+;', line) for line in lines)


def test_all_routes_of_the_installed_mlflow_are_listed() -> None:
    from mlflow.server import handlers

    routes = read_routes()
    mlflow_routes = {(method, path) for path, _, methods in handlers.get_endpoints() for method in methods}
    sample = {(method, re.sub(r"<[^>]+>", "x", path)) for method, path in mlflow_routes}
    listed = {
        (method, path) for method, path in sample if any(r.method == method and re.search(r.pattern, path) for r in routes)
    }
    assert len(sample) > 300
    assert sorted(sample - listed) == []
