"""Request bodies that tracking must not read whole: large, chunked, nested and compressed ones."""

from __future__ import annotations

from ..sending import Bomb, Lists, Zeros
from .attack import API, FILES, UPLOAD, V3, Attack, rows

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
        Attack("theo", "tracking", "POST", path, expected, body, times=times)  # type: ignore[arg-type]
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
