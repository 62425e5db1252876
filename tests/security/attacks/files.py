"""Attacks on tracking's files: spellings of paths, upload pages, sources of versions, and the root of the store."""

from __future__ import annotations

from .attack import API, CREATE, EVERYBODY, FILES, UPLOAD, rows, version

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

FILE_ATTACKS = [*SPELLINGS, *PAGES, *SOURCES, *ROOT]
