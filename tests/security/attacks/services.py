"""The table of attacks on registry-api and infer. Champion is version 2; see `services.Services` for the others."""

from __future__ import annotations

from atelier_contracts import names

from ..sending import Zeros
from .infer import INFER
from .registry_api import REGISTRY_API
from .service_rows import BELOW, DECIDING, DIGEST, REASON, ROLES, M, rows

READ = [
    *("/models", M, M + "/versions", M + "/versions/1", M + "/compare?left=1&right=2", M + "/versions/1/verdict", "/nothing"),
    *(M + "/versions/1/images", M + "/versions/1/image?path=x", M + "/versions/1/curves/loss", M + "/aliases/champion"),
    *(M + "/style", M + "/versions/1/preview"),
    *(M + "/history", "/decisions/1", "/events", "/metrics", "/openapi.json", "/subscribers"),
]
DECIDE = [
    *(M + "/generate", M + "/rollback", M + "/versions/1/promote", M + "/versions/1/retire", "/decisions/1/approve"),
    *("/decisions/1/reject", "/subscribers/ci/ping"),
]
DRAW = ["/generate", "/jobs", "/stage", "/verify", "/v1/images/generations"]
LOOK = [
    *("/models", "/versions", "/versions/1/image", "/metrics", "/openapi.json", "/jobs/x", "/jobs/x/events", "/nothing"),
    *("/jobs/x/images/0", "/versions/1/preview"),
]
CLOSED = {"infer": (LOOK, DRAW), "registry-api": (READ, DECIDE)}
"""Every address that asks for a login: what is read, and what is posted to."""
STRANGERS = (None, "gone", "x:wrong", "x:" + "a" * 9000, "x:\xe9")
LOGINS = [
    *(row for service, (read, _) in CLOSED.items() for row in rows(service, STRANGERS[:2], "GET", read, 401)),
    *(row for service, (_, post) in CLOSED.items() for row in rows(service, STRANGERS[:2], "POST", post, 401, body=REASON)),
    *rows("infer", STRANGERS[:2], "DELETE", ["/jobs/x"], 401),
    *(row for service in CLOSED for row in rows(service, STRANGERS[2:], "GET", ["/models"], 400, 401)),
    *(row for service, (_, post) in CLOSED.items() for row in rows(service, [None], "POST", post[:2], 401, body=Zeros(64))),
    *rows("infer", BELOW, "POST", ["/stage"], 403, body={"version": 1}),
    *(row for path in DECIDING for row in rows("registry-api", BELOW, "POST", [M + path], 403, body=REASON)),
    *rows("registry-api", BELOW, "POST", ["/decisions/1/approve", "/decisions/1/reject"], 403, body=REASON),
    *rows("registry-api", (*BELOW, "pia"), "GET", ["/subscribers"], 403),
    *rows("registry-api", (*BELOW, "pia"), "POST", ["/subscribers/ci/ping"], 403),
]
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/{e}/{run_2}/artifacts/adapter/adapter_weights/"
VERSION = {"name": "{n}", "version": "6", "key": names.TAG_PROMOTED_DIGEST, "value": DIGEST}
AROUND = [
    *rows("tracking", ROLES, "PUT", [ARTIFACTS + file for file in (names.WEIGHTS_FILE, names.ADAPTER_FILE)], 403, body=b"evil"),
    *rows("tracking", ROLES, "DELETE", [ARTIFACTS + names.WEIGHTS_FILE, ARTIFACTS[:-1]], 403),
    *rows("tracking", ROLES, "POST", ["/api/2.0/mlflow/model-versions/set-tag"], 403, body=VERSION),
    *rows(
        "tracking",
        ROLES,
        "POST",
        ["/api/2.0/mlflow/registered-models/alias"],
        403,
        body={"name": "{n}", "alias": "champion", "version": "6"},
    ),
]
"""Past the services, through tracking."""

TABLE = [*INFER, *REGISTRY_API, *LOGINS, *AROUND]
