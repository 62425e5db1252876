"""The table of attacks on tracking, and what it must not refuse."""

from __future__ import annotations

from ..sending import Zeros
from .attack import CREATE, FILES, rows, version
from .files import FILE_ATTACKS
from .model_registry import ADMINISTRATION, REGISTRY
from .request_bodies import BODIES

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

TABLE = [*FILE_ATTACKS, *REGISTRY, *ADMINISTRATION, *BODIES, *ALLOWED]
