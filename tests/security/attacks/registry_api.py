"""Attacks on registry-api."""

from __future__ import annotations

from collections.abc import Iterable

from .attack import Attack
from .service_rows import BAD_BODIES, BEHIND, BIG, DECIDING, LONG, NUMBERS, REASON, SURROGATE, VERSIONS, M, registry, rows


def reads(paths: Iterable[str], *expected: int, **more: str) -> list[Attack]:
    """Of registry-api, by a reader."""
    return rows("registry-api", ["rita"], "GET", paths, *expected, **more)


PROMOTE = M + "/versions/%d/promote"
BAD_DECISIONS = [
    *({"reason": text} for text in ("", "  ", "x" * 2001, "a\x00b", None, 5, True)),
    *({**REASON, "alias": text} for text in ("", "A", "a" * 64, "../x", "champion ", 5, True)),
    *({**REASON, name: value} for name in ("force", "dry_run") for value in (1, "true")),
    {**REASON, "moon": 1},
    {},
]
BAD_STYLES = [
    *({name: value} for name in ("title", "tags", "recommended") for value in (5, True, {"x": 1})),
    *({"recommended": {name: 1e9}} for name in ("scale", "steps", "guidance_scale")),
    *(
        {"title": "x" * 201},
        {"description": "x" * 5001},
        {"tags": ["x"] * 51},
        {"tags": [""]},
        {"mood": 1},
        {"decision": 1},
        [],
    ),
]
REFUSED = [
    *registry(
        "pia",
        M + "/rollback",
        [{**REASON, "version": number} for number in NUMBERS if number is not None and number != [2]],
        422,
    ),
    *registry("pia", M + "/rollback", [{**REASON, "version": 999}], 404, 409),
    *registry("pia", M + "/rollback", [{**REASON, "version": number} for number in (3, 4, 5, 6)], 409),
    *registry("pia", M + "/rollback", [{**REASON, "alias": "never"}], 404, 409),
    *registry("ada", M + "/rollback", [{**REASON, "version": 6, "force": True}], 409),
    *registry("pia", PROMOTE % 5, [REASON], 409),
    *registry("pia", PROMOTE % 5, [{**REASON, "force": True}], 403),
    *registry("pia", PROMOTE % 3, [REASON], 409),
    *registry("pia", PROMOTE % 4, [REASON], 409),
    *registry("ada", PROMOTE % 3, [{**REASON, "force": True}], 409),
    *registry("pia", PROMOTE % 1, [{**REASON, "force": True}], 403),
    *registry("pia", M + "/versions/2/retire", [REASON], 409),
    *registry("pia", PROMOTE % 999, [REASON], 404),
    *registry("pia", "/models/base/versions/1/promote", [REASON], 409),
]
REGISTRY_API = [
    *(row for path in (PROMOTE % 1, M + "/rollback") for row in registry("pia", path, BAD_DECISIONS, 422)),  # type: ignore[arg-type]
    *(
        row
        for path in DECIDING
        for row in registry("pia", M + path, [*BAD_BODIES, b'{"reason": ' + SURROGATE + b"}"], 413, 422)
    ),
    *(row for path in DECIDING for row in registry("pia", M + path, BIG, 413, 422)),
    *rows(
        "registry-api",
        ["pia"],
        "POST",
        [M + f"/versions/{number}/{act}" for number in VERSIONS for act in ("promote", "retire")],
        *BEHIND,
        body=REASON,
    ),
    *reads(
        [
            M + f"/versions/{number}{rest}"
            for number in VERSIONS
            for rest in ("", "/verdict", "/images", "/image?path=x", "/curves/loss", "/preview")
        ],
        *BEHIND,
    ),
    *reads([M + f"/compare?left={number}&right=1" for number in ("0", "2147483648", LONG, "x")], 422),
    *reads([M + f"/history?before_id={number}" for number in ("0", "9223372036854775808", LONG)], 422),
    *reads([f"/decisions/{number}" for number in ("0", "-1", "9223372036854775808", LONG, "x")], 422),
    *reads(["/decisions/9223372036854775807"], 404),
    *reads([f"/models/{name}" for name in ("..%2f..", "a%27b", "%00", "%22", "x" * 300, "a%0ab", "%25")], 404, 422),
    *reads(
        [M + f"/versions/1/image?path={path}" for path in ("../../x", "/etc/passwd", "images/..%2f..", "%00", "x" * 501)],
        404,
        422,
    ),
    *reads([M + f"/aliases/{alias}" for alias in ("..%2fx", "a" * 256, "%00", "never")], 404, 422),
    *reads(["/models?page_token=" + token for token in ("x", "%00", "x" * 1001, "e30=")], 200, 422),
    *reads(["/events?after=" + number for number in ("-1", "9223372036854775808", LONG)], 422),
    *reads(["/events"], 422, Last_Event_ID="²"),
    *registry("rita", M + "/generate", [{"versions": [number], "images": [{"prompt": "a"}]} for number in NUMBERS], 422),
    *registry(
        "rita", M + "/generate", [{"versions": [1], "images": [{"prompt": "a", "size": True}]}, {"versions": [1] * 99}], 422
    ),
    *rows("registry-api", ["rita", "theo"], "PATCH", [M + "/style"], 403, body={**REASON, "style": {"title": "evil"}}),
    *(
        row
        for style in BAD_STYLES
        for row in rows("registry-api", ["pia"], "PATCH", [M + "/style"], 422, body={**REASON, "style": style})
    ),
    *rows("registry-api", [None], "PATCH", [M + "/style"], 401, body={**REASON, "style": {"title": "evil"}}),
    *reads([M + f"/style?version={number}" for number in ("0", "2147483648", LONG, "x")], 422),
    *rows("registry-api", [None], "HEAD", ["/healthz", "/readyz"], 200),
    *rows("registry-api", [None], "GET", ["/healthz", "/readyz"], 200),
    *REFUSED,
]
