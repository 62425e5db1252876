"""The gate: logins, origins, paths, bodies, and all routes of MLflow."""

from __future__ import annotations

import http.client
import json
import re
import socket
from typing import Any

import pytest
from atelier_tracking.gate.routes import classify, read_routes

from .containers import Server, until

CREATE = "/api/2.0/mlflow/experiments/create"
SEARCH = "/ajax-api/2.0/mlflow/experiments/search"
FILE = "/api/2.0/mlflow-artifacts/artifacts/0/" + "a" * 32 + "/artifacts/f.bin"
SAME, OTHER = "same", "http://elsewhere.example"
MIB = 1 << 20

# Host header, Origin header, method, path, user, size of the body in bytes, status
CASES = [
    (None, None, "GET", "/", None, 0, 401),
    (None, None, "GET", "/", "rita", 0, 200),
    ("203.0.113.9", None, "GET", "/", "rita", 0, 200),
    ("203.0.113.9:8080", SAME, "GET", "/", "rita", 0, 200),
    ("sketch.example", SAME, "POST", SEARCH, "rita", 40, 200),
    ("203.0.113.9", SAME, "POST", SEARCH, "rita", 40, 200),
    ("203.0.113.9:8443", SAME, "POST", SEARCH, "rita", 40, 200),
    ("[2001:db8::7]", SAME, "POST", SEARCH, "rita", 40, 200),
    ("localhost", SAME, "POST", SEARCH, "rita", 40, 200),
    ("sketch.example", None, "POST", SEARCH, "rita", 40, 200),
    ("sketch.example", OTHER, "POST", SEARCH, "rita", 40, 403),
    ("sketch.example", OTHER, "POST", SEARCH, None, 40, 401),
    ("sketch.example", OTHER, "GET", "/", "rita", 0, 403),
    ("sketch.example", "null", "POST", SEARCH, "rita", 40, 403),
    ("sketch.example", "https://sketch.example", "POST", SEARCH, "rita", 40, 403),
    ("sketch.example", "http://sketch.example:81", "POST", SEARCH, "rita", 40, 403),
    ("sketch.example", "http://sketch.example.evil.example", "POST", SEARCH, "rita", 40, 403),
    ("sketch.example", "http://sketch.example http://sketch.example", "POST", SEARCH, "rita", 40, 403),
    ("localhost:5000", "http://localhost:3000", "POST", SEARCH, "rita", 40, 403),
    ("sketch.example", SAME, "POST", CREATE, "rita", 40, 403),
    ("sketch.example", SAME, "POST", CREATE, "theo", 40, 200),
    ("sketch.example", OTHER, "POST", CREATE, "ada", 40, 403),
    ("sketch.example", SAME, "PUT", FILE, "theo", 40, 200),
    ("sketch.example", OTHER, "PUT", FILE, "theo", 40, 403),
    (None, None, "PUT", FILE, "rita", 40, 403),
    (None, None, "PUT", FILE, None, 40, 401),
    (None, None, "PUT", FILE, "theo", 65 * MIB, 200),
    (None, None, "DELETE", FILE, "rita", 0, 403),
    (None, None, "POST", SEARCH, "rita", 65 * MIB, 413),
    (None, None, "POST", CREATE, "theo", 65 * MIB, 413),
    (None, None, "GET", "/healthz", None, 0, 200),
    (None, None, "GET", "/readyz", None, 0, 200),
    ("anything.example", OTHER, "GET", "/healthz", None, 0, 200),
    (None, None, "POST", "/healthz", None, 40, 200),
    (None, None, "GET", "/health", None, 0, 401),
    (None, None, "GET", "/healthz/../version", None, 0, 401),
    (None, None, "GET", "/api/3.0/mlflow/server-info", "ada", 0, 404),
    (None, None, "GET", "/ajax-api/3.0/mlflow/server-info", "ada", 0, 404),
    (None, None, "POST", f"/api/2.0/mlflow-artifacts/mpu/create/0/{'a' * 32}/artifacts/f", "theo", 40, 404),
    (None, None, "POST", "/api/2.0/mlflow-artifacts/mpu/create/0/x/artifacts/f", "registry", 40, 403),
    (None, None, "GET", "/no/such/route", "ada", 0, 403),
    (None, None, "TRACE", "/", "ada", 0, 405),
]


@pytest.mark.parametrize(("host", "origin", "method", "path", "user", "size", "status"), CASES)
def test_a_request_gets_its_status(
    with_roles: Server, host: Any, origin: Any, method: Any, path: Any, user: Any, size: Any, status: Any
) -> None:
    host = host or f"127.0.0.1:{with_roles.port}"
    headers = {"Host": host} | ({"Origin": f"http://{host}" if origin == SAME else origin} if origin else {})
    body = None
    if size:
        words = {"name": f"e-{host}-{user}", "max_results": 10} if path == CREATE else {"max_results": 10}
        body = json.dumps(words).ljust(size).encode()
    answer = with_roles.request(method, path, user, body, **headers)
    assert answer.status == status, answer.body[:500]
    if status >= 400 and method != "TRACE":
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json["status"] == status
        assert ("WWW-Authenticate" in answer.headers) == (status == 401)


LIST_ROUTES = """
import json, os
os.environ["_MLFLOW_SERVER_FILE_STORE"] = "sqlite:////tmp/routes.db"
os.environ["_MLFLOW_SERVER_SERVE_ARTIFACTS"] = "true"
from mlflow.server import app
from mlflow.server.fastapi_app import app as outer
found = [(m, r.rule) for r in app.url_map.iter_rules() for m in r.methods]
def walk(routes, prefix):
    for r in routes:
        if hasattr(r, "original_router"):
            walk(r.original_router.routes, prefix + r.include_context.prefix)
        elif hasattr(r, "methods"):
            found.extend((m, prefix + r.path) for m in r.methods)
        else:
            assert type(r.app).__name__ == "_EfficientWSGIMiddleware", r
walk(outer.routes, "")
from mlflow.server.graphql.graphql_schema_extensions import schema
print("ROUTES" + json.dumps({"routes": found, "mutations": list(schema.graphql_schema.mutation_type.fields)}))
"""


@pytest.fixture(scope="module")
def mlflow_routes(with_roles: Server) -> dict[str, Any]:
    """Routes and GraphQL mutations of the MLflow in the image."""
    return json.loads(with_roles.exec("python3", "-", stdin=LIST_ROUTES).split("ROUTES", 1)[1])


@pytest.fixture(scope="module")
def requests(mlflow_routes: dict[str, Any]) -> list[tuple[str, str]]:
    """(method, path) for each method of each route."""
    found = set()
    for method, rule in mlflow_routes["routes"]:
        path = re.sub(r"<path:\w+>|\{\w+:path\}", "x/y", rule)
        found.add((method, re.sub(r"<[^>]+>|\{\w+\}", "x", path)))
    assert len(found) > 700
    return sorted(found)


def test_every_route_of_mlflow_is_classified(requests: list[tuple[str, str]]) -> None:
    routes = read_routes()
    listed = {(route.method, path) for route in routes for _, path in requests if re.search(route.pattern, path)}
    wanted = {("GET" if method == "HEAD" else method, path) for method, path in requests if method != "OPTIONS"}
    assert sorted(wanted - listed) == []


def test_graphql_has_no_writing_mutations(mlflow_routes: dict[str, Any]) -> None:
    # testMutation returns its input; the others are searches that MLflow also lists as mutations
    assert set(mlflow_routes["mutations"]) == {"testMutation", "mlflowSearchDatasets", "mlflowSearchRuns"}


def statuses(server: Server, requests: list[tuple[str, str]], user: str | None) -> dict[tuple[str, str], int]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    found = {}
    for method, path in requests:
        connection.request(method, path, b"{}" if method in ("POST", "PUT", "PATCH", "DELETE") else None, server.headers(user))
        answer = connection.getresponse()
        answer.read()
        found[method, path] = answer.status
    connection.close()
    return found


def test_every_route_needs_a_login(with_roles: Server, requests: list[tuple[str, str]]) -> None:
    assert {request: status for request, status in statuses(with_roles, requests, None).items() if status != 401} == {}


def test_a_reader_may_not_write(with_roles: Server, requests: list[tuple[str, str]]) -> None:
    routes = read_routes()
    reads = {(method, path) for method, path in requests if classify(method, path, routes) == "read"}
    # a second list, so that a mistake in routes.txt does not open a route that writes
    harmless = re.compile(
        r"/graphql$|/search(-datasets)?$|/batchGetInfos$|/calculate-filter-correlation$|/traces/metrics$|"
        r"/presigned-download-url$|/get-latest-versions$"
    )
    writing_reads = [request for request in reads if request[0] not in ("GET", "HEAD", "OPTIONS")]
    assert [request for request in writing_reads if not harmless.search(request[1])] == []
    writes = [request for request in requests if request not in reads]
    assert len(writes) > 250
    assert {request: status for request, status in statuses(with_roles, writes, "rita").items() if status != 403} == {}


def test_a_trainer_may_not_administer(with_roles: Server, requests: list[tuple[str, str]]) -> None:
    routes = read_routes()
    kinds = {"describe", "curate", "registered", "admin", "gateway", "closed"}
    above = [(method, path) for method, path in requests if classify(method, path, routes) in kinds]
    assert {path.split("/")[4] for _, path in above if path.count("/") > 3} >= {"webhooks", "gateway", "registered-models"}
    assert {request: status for request, status in statuses(with_roles, above, "theo").items() if status != 403} == {}


@pytest.mark.parametrize("user", ["ada", "pia"])
def test_only_the_registry_user_may_move_aliases(with_roles: Server, requests: list[tuple[str, str]], user: Any) -> None:
    routes = read_routes()
    moves = [(method, path) for method, path in requests if classify(method, path, routes) in ("curate", "registered")]
    assert len(moves) > 16
    assert {request: status for request, status in statuses(with_roles, moves, user).items() if status != 403} == {}


ALIAS = "/api/2.0/mlflow/registered-models/alias"
PATH_VARIANTS = [
    f"/{ALIAS}",
    ALIAS.replace("/mlflow/", "//mlflow/"),
    ALIAS.replace("/mlflow/", "/./mlflow/"),
    ALIAS.replace("/mlflow/", "/x/../mlflow/"),
    ALIAS.replace("/mlflow/", "/%2e/mlflow/"),
    ALIAS.replace("/mlflow/", "/x/%2E%2e/mlflow/"),
    ALIAS.replace("/mlflow/", "%2Fmlflow%2f"),
    ALIAS.replace("alias", "%61lias"),
    ALIAS.replace("registered-models", "registered%2Dmodels"),
    ALIAS.replace("alias", "%2561lias"),
    ALIAS.replace("alias", "Alias"),
    ALIAS.upper(),
    ALIAS + "/",
    ALIAS + "//",
    ALIAS + ".",
    ALIAS + "/.",
    ALIAS + "/..;/alias",
    ALIAS + ";x=1",
    ALIAS + "%00",
    ALIAS + "%20",
    ALIAS + "%0a",
    ALIAS + "?x=/../../experiments/search",
    ALIAS + "#/experiments/search",
    ALIAS + "%3Fx=1",
    ALIAS.replace("2.0", "3.0"),
    ALIAS.replace("2.0", "2.00"),
    ALIAS.replace("/api/", "/ajax-api/"),
    ALIAS.replace("/", "\\"),
    "/static-files/.." + ALIAS,
    "/static-files/..%2f.." + ALIAS,
    "/healthz/.." + ALIAS,
    "/healthz%2f.." + ALIAS,
    "/gate" + ALIAS,
    "/lookup" + ALIAS,
    "/login" + ALIAS,
]


@pytest.mark.parametrize("path", PATH_VARIANTS)
@pytest.mark.parametrize("headers", [{}, {"X_HTTP_Method_Override": "POST", "X_Original_URL": ALIAS, "X_Rewrite_URL": ALIAS}])
def test_no_path_variant_reaches_the_alias_route(with_roles: Server, path: Any, headers: Any) -> None:
    for method in ("POST", "DELETE", "PATCH", "GET") if headers else ("POST", "DELETE"):
        answer = raw(with_roles, method, path, "ada", headers)
        assert answer in (400, 401, 403, 404, 405) or (method == "GET" and answer < 500), (method, answer)
        assert raw(with_roles, method, path, None, headers) in (400, 401)


def raw(server: Server, method: str, path: str, user: str | None, headers: dict[str, str]) -> int:
    """Status of a request that is sent as bytes, because HTTP clients normalize paths."""
    body = b'{"name": "m", "alias": "champion", "version": "1"}'
    lines = [f"{method} {path} HTTP/1.1", "Host: sketch.example", "Connection: close", f"Content-Length: {len(body)}"]
    lines += ["Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in (headers | server.headers(user)).items()]
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return int(connection.makefile("rb").readline().split()[1])


def test_mlflow_listens_on_no_port(with_roles: Server) -> None:
    listening = with_roles.exec("sh", "-c", "cat /proc/net/tcp /proc/net/tcp6")
    ports = {
        int(line.split()[1].rpartition(":")[2], 16)
        for line in listening.splitlines()
        if len(line.split()) > 3 and line.split()[3] == "0A"
    }
    # Docker's own name server listens on 127.0.0.11 at a port of its choice
    docker_dns = {
        int(line.split()[1].rpartition(":")[2], 16) for line in listening.splitlines() if line.split()[1].startswith("0B00007F")
    }
    assert ports - docker_dns == {80}


def test_the_access_log_has_the_user_and_no_query(with_roles: Server) -> None:
    with_roles.request("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0&token=hidden-in-query", "rita")
    wanted = {"user": "rita", "method": "GET", "path": "/api/2.0/mlflow/experiments/get", "status": 200}

    def logged() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in with_roles.log().splitlines() if '"nginx"' in line]
        return [line for line in lines if wanted.items() <= line.items()]

    until(logged, "the log names the request")  # nginx writes the line after the response
    line = logged()[-1]
    assert line["bytes_out"] > 0 and line["duration_s"] >= 0 and re.fullmatch(r"[0-9a-f]{32}", line["request_id"])
    assert "hidden-in-query" not in with_roles.log()
