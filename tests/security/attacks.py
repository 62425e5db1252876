"""The table of attacks: who asks which service for what, what is answered, and what must still be true after it.

These are on tracking; registry-api and infer have service_attacks.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from atelier_contracts.names import CHAIN_MODEL, TAG_CHAIN_HEAD, TAG_PROMOTED_DIGEST, TAG_RETIRED, TAG_STYLE

from .sending import Body, Bomb, Lists, Zeros

ALL = ("running", "files", "aliases", "tags", "sources")
EVERYBODY = ("ada", "theo", "pia", "registry")
OTHERS = ("rita", "theo", "pia", "ada")
FILES = "/api/2.0/mlflow-artifacts/artifacts"
API = "/api/2.0/mlflow"


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        who: user of tracking, or None without a login.
        service: whose image is attacked.
        method: of the request.
        path: with names of the environment in braces; sent without normalization.
        expected: statuses that may come, and no others.
        body: see sending.py; strings in it have names in braces too.
        headers: over the usual ones.
        times: so many of it at the same time.
        after: names in `environment.CHECKS`, or in `service_checks.CHECKS`.
    """

    who: str | None
    service: str
    method: str
    path: str
    expected: tuple[int, ...]
    body: Body = None
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int = 1
    after: tuple[str, ...] = ALL

    def __str__(self) -> str:
        body = f" {self.body!s:.90}" if self.body else ""
        headers = f" {dict(self.headers)}" if self.headers else ""
        times = f" {self.times} at a time" if self.times > 1 else ""
        return ascii(f"{self.service} {self.who} {self.method} {self.path}{body}{headers}{times}")


def rows(
    who: Iterable[str | None], method: str, paths: Iterable[str], *expected: int, body: Body = None, **more: str
) -> list[Attack]:
    """A row of tracking for each user and path."""
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    return [Attack(user, "tracking", method, path, expected, body, headers) for path in paths for user in who]


FOLDER = FILES + "/{e}/{r}/artifacts"
TAILS = [
    *("model%3F", "model%3f", "model;", "model%3B", "model%23", "model%3F%3F", "model;;", "model%3F;", "model%09", "model%20"),
    *("%6dodel", "mod%65l", "%256dodel", "%25256dodel", "./model", "x/../model", "/model", "model/.", "model/..", "model%2f."),
    *(
        "%2e/model",
        "model%5c",
        "model%5C..%5Cmodel",
        "model//",
        "model%00",
        "model%0a",
        "%20model",
        "model%2F",
        "model/",
        "model%7f",
    ),
    *("model#x", "mod\tel", "model%", "model%zz", "model%ff", "model%e2%80", "m\u00f6del", "model%3Fx=1", "model;x=1"),
]
"""Spellings of a registered version's folder in a path; none of them may be read as it."""

PREFIXES = ["file:", "FILE:", "file%3A", "file:///", "file:/", "fi%6ce:", "mlflow-artifacts:/", "x:", "%20file:", "file:file:"]
"""What MLflow, or a library of it, takes off the beginning of a path."""

SPELLINGS = [
    *rows(["theo"], "DELETE", [f"{FOLDER}/{tail}" for tail in TAILS], 400, 403),
    *rows(["theo"], "PUT", [f"{FOLDER}/{tail}/weights.bin" for tail in TAILS], 400, 403, body=b"evil"),
    *rows(
        ["theo"],
        "PUT",
        [FILES + f"/{prefix}{{e}}/{{r}}/artifacts/model/weights.bin" for prefix in PREFIXES],
        400,
        403,
        body=b"evil",
    ),
    *rows(["theo"], "DELETE", [FILES + f"/{prefix}{{e}}/{{r}}/artifacts/model" for prefix in PREFIXES], 400, 403),
    *rows(
        ["theo", "ada"],
        "DELETE",
        [f"{FILES}/{{e}}/{{r}}/artifacts{tail}" for tail in (";", "%3F", "", "/m", "/", "%3B")],
        400,
        403,
    ),
    *rows(
        ["theo"],
        "DELETE",
        [f"{FILES}/{path}" for path in ("{e}", "{e}/", "{e}/models", "{e}/models/m-", "{e}/{r}", "", "%3F")],
        400,
        403,
    ),
    *rows(
        ["theo"],
        "DELETE",
        [
            FILES.replace("/api/", prefix) + "/{e}/{r}/artifacts/model"
            for prefix in ("/API/", "/ajax-api/", "/api//", "//api/", "/x/../api/", "/Ajax-api/", "/api;/")
        ],
        400,
        403,
    ),
    *rows(
        ["theo"], "DELETE", [FILES.replace("2.0", "3.0") + "/{e}/{r}/artifacts/model", "http://x" + FOLDER + "/model"], 400, 403
    ),
    *rows(
        EVERYBODY, "PUT", [FOLDER + "/model/weights.bin", FILES + "/{e}/models/{m}/artifacts/weights.bin"], 403, body=b"evil"
    ),
    *rows(EVERYBODY, "DELETE", [FOLDER + "/model", API + "/logged-models/{m}", "/ajax-api/2.0/mlflow/logged-models/{m}"], 403),
]

UPLOAD = "/ajax-api/2.0/mlflow/upload-artifact?run_uuid={r}&path="
PAGES = [
    *rows(
        ["theo"],
        "POST",
        [
            UPLOAD + name
            for name in (
                *(
                    "model/weights.bin",
                    "model%2Fweights.bin",
                    "mod%2565l/weights.bin",
                    "model%3Bx/../weights.bin",
                    "model/weights.bin%3F",
                ),
                *(
                    "model/weights.bin;",
                    "./model/weights.bin",
                    "x/../model/weights.bin",
                    "/model/weights.bin",
                    "file:model/weights.bin",
                ),
                *(
                    "model%09/weights.bin",
                    "model/weights.bin%23",
                    "a.txt&path=model/weights.bin",
                    "a.txt&p%61th=model/weights.bin",
                ),
                *("model%5Cweights.bin", "%20model/weights.bin", "model/weights.bin%20", "+model/weights.bin"),
            )
        ],
        400,
        403,
        body=b"evil",
    ),
    *rows(
        ["theo"],
        "POST",
        [
            "/ajax-api/2.0/mlflow/upload-artifact?run_uuid={own}&run_uuid={r}&path=model/weights.bin",
            "/ajax-api/2.0/mlflow/upload-artifact?run_uuid={r}&run%5Fuuid={own}&path=model/weights.bin",
            "/ajax-api/2.0/mlflow/upload-artifact?run_id={own}&path=model/weights.bin",
            "/ajax-api/2.0/mlflow/upload-artifact?run_uuid=%20{r}&path=model/weights.bin",
        ],
        400,
        403,
        body=b"evil",
    ),
    *rows(
        ["theo"],
        "POST",
        [
            f"/api/2.0/mlflow-artifacts/mpu/{step}/{{e}}/{{r}}/artifacts/{tail}"
            for step in ("create", "complete", "abort")
            for tail in ("model", "model;", "model%3F", "%6dodel")
        ],
        400,
        403,
        404,
        body={"path": "weights.bin", "num_parts": 1},
    ),
    *rows(
        ["theo"],
        "POST",
        [API + "/artifacts/presigned-upload-url"],
        403,
        404,
        body={"run_id": "{r}", "path": "model/weights.bin"},
    ),
    *rows(["theo", "ada"], "POST", ["/ajax-api/2.0/mlflow/runs/create-promptlab-run"], 403, body={"experiment_id": "{e}"}),
]

CREATE = (API + "/model-versions/create", "/ajax-api/2.0/mlflow/model-versions/create")


def version(source: str, run: str = "{own}", **more: object) -> dict:
    return {"name": "{n}", "source": source, "run_id": run, **more}


ARTIFACTS = "{e}/{r}/artifacts"
BAD_SOURCES = [
    *(
        f"mlflow-artifacts:/{ARTIFACTS}/{tail}"
        for tail in ("mod\tel", "mod\nel", "mod%65l", "model/", "model;", "model?", "model#", "model ")
    ),
    *(
        f"mlflow-artifacts:/{ARTIFACTS}/{tail}"
        for tail in ("./model", "x/../model", "/model", "model\n", "mod\\el", "model?x=1")
    ),
    *(
        f"{scheme}/{ARTIFACTS}/model"
        for scheme in ("MLFLOW-ARTIFACTS:", "mlflow-artifacts:/", "mlflow-artifacts://host", "s3://artifacts")
    ),
    *(
        f"{scheme}/{ARTIFACTS}/model"
        for scheme in ("S3://artifacts", "file:", "file://", "", "http://127.0.0.1/api/2.0/mlflow-artifacts/artifacts")
    ),
    *(
        "runs:/{r}/model/",
        "runs:/{r}",
        "runs:/{r}/",
        "runs://{r}/model",
        "RUNS:/{r}/model",
        "Runs:/{r}/model",
        "runs:/{r}/mod%65l",
    ),
    *(
        "runs:/{r}//model",
        "runs:/{r}/\tmodel",
        " runs:/{r}/model",
        "runs:/{r}/model\t",
        "models:/{m}/",
        "MODELS:/{m}",
        "models://{m}",
    ),
    *("models:/{n}/2", "models:/{n}@champion", "dbfs:/model", "ftp://host/model", "http://169.254.169.254/latest", "x:/y"),
]
SOURCES = [
    *(row for source in BAD_SOURCES for row in rows(["theo"], "POST", [CREATE[0]], 400, body=version(source, "{r}"))),
    *(
        row
        for source in BAD_SOURCES[:3]
        for row in rows(["registry", "ada"], "POST", [CREATE[1]], 400, body=version(source, "{r}"))
    ),
    *(
        row
        for kind in ("slash", "tab", "upper", "percent", "host", "bucket")
        for row in [
            *rows(
                ["theo", "ada"],
                "PUT",
                [f"{FILES}/{{e}}/{{noncanonical_{kind}}}/artifacts/model/weights.bin"],
                403,
                body=b"evil",
            ),
            *rows(["theo"], "DELETE", [f"{FILES}/{{e}}/{{noncanonical_{kind}}}/artifacts/model"], 403),
        ]
    ),
    *rows(["theo"], "PUT", [FILES + "/direct/model/weights.bin", FILES + "/direct/model/{own}/x"], 403, body=b"evil"),
]

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
        for row in rows(["theo", "ada"], "POST", CREATE, 403, body=version("runs:/{own}/model", **tags))
    ),
    *rows(["theo"], "POST", CREATE, 403, body=version("runs:/{own}/model", **WITH_TAG[0]), X_Tracking_User="registry"),
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

V3 = "/api/3.0/mlflow"
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

ROOT = [
    *rows(
        EVERYBODY,
        "GET",
        [f"{FILES}/{path}" for path in ("mlflow.env", "backup/dump.sql", "mlflow%2eenv", "mlflow.env%3F", "./mlflow.env")],
        400,
        403,
    ),
    *rows(
        ["rita", "ada"],
        "GET",
        [FILES + query for query in ("", "?path=", "?path=backup", "?path=.", "?path=%2e", "?path=/", "?path={e}")],
        400,
        403,
    ),
    *rows(
        ["rita"],
        "GET",
        ["/ajax-api/2.0/mlflow-artifacts/artifacts?path=x&path=", FILES + "?p%61th=backup", FILES + "/", FILES + "/%20"],
        400,
        403,
    ),
    *rows(
        ["rita"],
        "GET",
        [FILES + "/file:mlflow.env", FILES + "/x:/../mlflow.env", FILES + "/{r}/../mlflow.env", FILES + "/mlflow.env/{r}"],
        400,
        403,
        404,
        500,
    ),
    *rows(["theo", "ada"], "PUT", [FILES + "/mlflow.env", FILES + "/backup/dump.sql"], 403, body=b"evil"),
    *rows(["theo", "ada"], "DELETE", [FILES + "/mlflow.env", FILES + "/backup", FILES + "/m"], 403),
    *rows(
        ["rita"],
        "GET",
        [
            f"{path}path={arg}"
            for path in ("/get-artifact?run_uuid={r}&", "/model-versions/get-artifact?name={n}&version=1&")
            for arg in ("../../../../mlflow.env", "/mlflow.env", "..%2f..%2f..%2f..%2fmlflow.env", "%252e%252e/mlflow.env")
        ],
        400,
        403,
    ),
]

SEARCH = API + "/runs/search"
TRACES = "/v1/traces"
PROTOBUF = {"X-MLflow-Experiment-Id": "0", "Content-Type": "application/x-protobuf"}
BODIES = [
    *rows(
        ["rita"],
        "GET",
        ["/get-artifact", "/model-versions/get-artifact", FILES + "/{e}/{r}/artifacts/model/weights.bin", "/"],
        413,
        body=Zeros(1500),
    ),
    *rows(["theo"], "DELETE", [FILES + "/{e}/{own}/artifacts/x", API + "/logged-models/{own}/tags/x"], 413, body=Zeros(1500)),
    *rows(["rita"], "OPTIONS", [FILES + "/{e}/{r}/artifacts/x", SEARCH], 413, body=Zeros(1500)),
    *rows(
        ["rita"], "GET", ["/get-artifact", "/version", FILES + "/{e}/{r}/artifacts/x"], 411, 413, body=Zeros(1500, chunked=True)
    ),
    *rows(["rita"], "POST", [SEARCH, "/graphql"], 411, 413, body=Zeros(1500, chunked=True)),
    *rows(["theo"], "POST", [API + "/runs/log-batch", TRACES, UPLOAD + "a.txt"], 411, 413, body=Zeros(1500, chunked=True)),
    *rows([None, "rita", "registry"], "PUT", [FILES + "/{e}/{own}/artifacts/x"], 401, 403, body=Zeros(1500)),
    *rows([None], "POST", [API + "/runs/log-batch", TRACES, "/nothing"], 401, 413, body=Zeros(1500)),
    *rows(["rita"], "POST", [SEARCH, "/graphql", V3 + "/traces/search"], 413, body=Lists(2 << 20)),
    *rows(["theo"], "POST", [UPLOAD.replace("{r}", "{own}") + "a.bin"], 413, body=Zeros(10.5)),
    *rows(["theo"], "POST", [TRACES], 415, body=Bomb(4096), Content_Encoding="gzip", **PROTOBUF),
    *rows(["theo"], "POST", [TRACES], 415, body=Bomb(64), Content_Encoding="deflate", **PROTOBUF),
    *rows(["theo"], "POST", [TRACES], 415, body=Bomb(64), Content_Encoding="identity, gzip", **PROTOBUF),
    *rows(["theo", "rita"], "POST", [API + "/runs/log-batch", SEARCH], 403, 415, body=Bomb(64), Content_Encoding="gzip"),
    *(
        Attack("theo", "tracking", "POST", path, expected, body, times=times)
        for path, body, times, expected in [
            (API + "/runs/log-batch", Zeros(64), 16, (413,)),
            (API + "/runs/log-batch", Lists(5_200_000), 8, (400, 500, 503)),
            (API + "/logged-models", Lists(5_200_000), 8, (400, 500, 503)),
            (API + "/runs/log-batch", Lists(990_000), 40, (400, 500, 503)),
            (API + "/runs/log-batch", Lists(99_000), 200, (400, 500, 503)),
            (UPLOAD.replace("{r}", "{own}") + "a.bin", Zeros(10), 16, (200, 503)),
            (TRACES, Zeros(4.9), 16, (400, 415, 422, 503)),
        ]
    ),
    Attack("rita", "tracking", "POST", SEARCH, (200, 400, 503), Lists(1_040_000), times=40),
]

ALLOWED = [
    *rows(
        ["theo"],
        "PUT",
        [FILES + "/{e}/{own}/artifacts/model/weights.bin", FILES + "/{e}/{own}/artifacts/100%25.txt"],
        200,
        body=b"own",
    ),
    *rows(["theo"], "PUT", [FILES + "/{e}/{own}/artifacts/a%20b/%C3%A9%2B.txt"], 200, body=Zeros(3, chunked=True)),
    *rows(
        ["rita"],
        "GET",
        [
            FILES + "/{e}/{r}/artifacts/model/weights.bin",
            FILES + "?path={e}/{r}/artifacts",
            "/get-artifact?run_uuid={r}&path=model/weights.bin",
        ],
        200,
    ),
    *rows(
        ["theo"],
        "POST",
        CREATE[:1],
        200,
        body=version("runs:/{own}/model", tags=[{"key": "atelier.kind", "value": "adapter"}, {"key": "x", "value": "y"}]),
    ),
    *rows(["theo"], "DELETE", [FILES + "/{e}/{own}/artifacts/a%20b"], 200),
]
"""Not refused: what a trainer does every day. The last but one takes the run's folder `model` into the registry."""

TABLE = [*SPELLINGS, *PAGES, *SOURCES, *REGISTRY, *ADMINISTRATION, *ROOT, *BODIES, *ALLOWED]
