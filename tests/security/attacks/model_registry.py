"""Attacks on tracking's model registry and on its administration."""

from __future__ import annotations

import json

from atelier_contracts.names import CHAIN_MODEL, TAG_CHAIN_HEAD, TAG_PROMOTED_DIGEST, TAG_RETIRED, TAG_STYLE

from .attack import API, CREATE, FILES, OTHERS, V3, rows, version

RESERVED = (TAG_PROMOTED_DIGEST, TAG_CHAIN_HEAD, TAG_RETIRED, TAG_STYLE)
MOVES = [
    ("POST", "/registered-models/alias", {"name": "{n}", "alias": "champion", "version": "1"}),
    ("DELETE", "/registered-models/alias", {"name": "{n}", "alias": "champion"}),
    ("POST", "/registered-models/rename", {"name": "{n}", "new_name": "gone"}),
    ("DELETE", "/registered-models/delete", {"name": "{n}"}),
    ("DELETE", "/model-versions/delete", {"name": "{n}", "version": "2"}),
    ("POST", "/model-versions/transition-stage", {"name": "{n}", "version": "2", "stage": "Archived"}),
    *(("POST", "/model-versions/set-tag", {"name": "{n}", "version": "2", "key": key, "value": "x"}) for key in RESERVED),
    *(("POST", "/registered-models/set-tag", {"name": "{n}", "key": key, "value": "x"}) for key in RESERVED),
    *(("DELETE", "/model-versions/delete-tag", {"name": "{n}", "version": "2", "key": key}) for key in RESERVED),
    *(("DELETE", "/registered-models/delete-tag", {"name": "{n}", "key": key}) for key in RESERVED),
]
TAG_PATHS = [API + "/model-versions/set-tag", API + "/registered-models/set-tag"]
TAG = {"name": "{n}", "version": "2", "key": TAG_PROMOTED_DIGEST, "value": "x"}
ODD_TAG_PATHS = [
    change(path)
    for path in TAG_PATHS
    for change in (
        lambda path: path + "/",
        lambda path: path + "%3F",
        lambda path: path + ";",
        lambda path: path.replace("set-tag", "%73et-tag"),
        lambda path: path.replace("set-tag", "SET-TAG"),
        lambda path: path.replace("2.0", "3.0"),
        lambda path: "/" + path,
        lambda path: path.replace("/mlflow/", "/mlflow//"),
        lambda path: path.replace("/mlflow/", "/mlflow/./"),
        lambda path: path + "?x=/search",
        lambda path: path.replace("/api/", "/ajax-api/"),
        lambda path: path + "%00",
        lambda path: path + "#/search",
        lambda path: "http://x" + path,
    )
]
WITH_TAG = [
    {"tags": [{"key": key, "value": "x"}]} for key in (*RESERVED, "atelier.x", "Atelier.promoted_digest", " atelier.chain_head")
]
TWICE = json.dumps(json.dumps(version("runs:/{own}/model", tags=[{"key": TAG_RETIRED, "value": "x"}]))).encode()
"""JSON in a JSON string, which MLflow reads as well."""
REGISTRY = [
    *(row for method, route, body in MOVES for row in rows(OTHERS, method, [API + route], 403, body=body)),
    *(row for method, route, body in MOVES for row in rows(["ada"], method, ["/ajax-api/2.0/mlflow" + route], 403, body=body)),
    *(row for method in ("POST", "PUT", "PATCH", "DELETE") for row in rows(["theo", "ada"], method, TAG_PATHS, 403, body=TAG)),
    *rows(["theo", "ada"], "POST", ODD_TAG_PATHS, 400, 403, body=TAG),
    *rows(["theo"], "POST", TAG_PATHS, 403, body=TAG, X_HTTP_Method_Override="GET", X_Tracking_User="registry"),
    *(
        row
        for tags in WITH_TAG
        for row in rows(["theo", "ada"], "POST", CREATE, 403, body=version("runs:/{own}/model", **tags))  # type: ignore[arg-type]
    ),
    *rows(["theo"], "POST", CREATE, 403, body=version("runs:/{own}/model", **WITH_TAG[0]), X_Tracking_User="registry"),  # type: ignore[arg-type]
    *rows(["theo"], "POST", CREATE, 400, 403, body=TWICE),
    *(
        row
        for tags in WITH_TAG
        for row in rows(["theo", "ada"], "POST", [API + "/registered-models/create"], 403, body={"name": "new", **tags})
    ),
    *(
        row
        for name in (CHAIN_MODEL, CHAIN_MODEL.upper())
        for row in rows(
            ["theo", "ada"],
            "POST",
            [API + "/registered-models/create", "/ajax-api/2.0/mlflow/registered-models/create"],
            403,
            body={"name": name},
        )
    ),
    *rows(
        ["theo", "rita"],
        "PATCH",
        [API + "/model-versions/update"],
        403,
        body={"name": "{n}", "version": "2", "description": "x"},
    ),
    *rows(["theo", "rita"], "PATCH", [API + "/registered-models/update"], 403, body={"name": "{n}", "description": "x"}),
    *rows(["rita"], "POST", [*CREATE, API + "/registered-models/create"], 403, body=version("runs:/{own}/model")),
]
ADMINISTRATION = [
    *rows(["registry", "rita", "theo", "pia"], "GET", [API + "/webhooks", API + "/webhooks/x"], 403),
    *rows(
        ["registry"],
        "POST",
        [API + "/webhooks", API + "/webhooks/x/test"],
        403,
        body={"name": "w", "url": "https://host.example", "events": []},
    ),
    *rows(["registry"], "DELETE", [API + "/webhooks/x"], 403),
    *rows(["registry", "ada", "rita"], "GET", [f"{V3}/gateway/secrets/{what}" for what in ("list", "get", "config")], 403),
    *rows(
        ["registry", "ada"],
        "POST",
        [f"{V3}/gateway/{what}" for what in ("secrets/create", "endpoints/create", "secrets/update")],
        403,
        body={},
    ),
    *rows(["registry", "ada"], "POST", ["/gateway/x/mlflow/invocations", "/ajax-api/2.0/mlflow/gateway-proxy"], 403, body={}),
    *rows(
        ["registry", "ada"],
        "POST",
        ["/api/3.0/jobs/", f"{V3}/scorer/invoke", f"{V3}/demo/generate", f"{V3}/assistant/x"],
        403,
        body={},
    ),
    *rows(["registry"], "POST", [f"{V3}/workspaces", f"{V3}/mcp-servers"], 403, body={"name": "x"}),
    *rows(["registry"], "PUT", [f"{V3}/scorers/online-config", FILES + "/{e}/{own}/artifacts/x"], 403, body={}),
    *rows(
        ["registry"],
        "POST",
        [API + route for route in ("/runs/create", "/runs/delete", "/experiments/delete", "/logged-models")],
        403,
        body={"experiment_id": "{e}", "run_id": "{r}"},
    ),
]
