"""The table of attacks on registry-api and infer. Champion is version 2; see `services.Services` for the others."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

from atelier_contracts import names
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .attacks import Attack
from .sending import Body, Zeros

AFTER = ("services", "champion", "image")
"""What is looked at after a row; after what only reads, or does not come in, the first alone."""
ROLES = ("rita", "theo", "pia", "ada")
BELOW = ("rita", "theo")
M = "/models/{n}"
LONG = "9" * 5000
BEHIND = (400, 404, 422)
"""For paths that uvicorn itself may refuse."""
VERSIONS = (
    "0",
    "-1",
    "1.5",
    "true",
    "²",
    "2147483648",
    "9223372036854775808",
    LONG,
    "..",
    "%2e%2e",
    "1%00",
    "' OR 1=1",
    "latest",
)
NUMBERS = (0, -1, 1.5, True, "2", 2**31, 2**63, 10**30, None, [2], {"a": 1})
SURROGATE = b'"\\ud800"'
DEEP = b"[" * 20_000 + b"]" * 20_000
DIGEST = "a" * 64


@dataclass(frozen=True)
class Forged:
    """A PNG whose text is that of a true one, with some fields replaced; or any text at all."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    side_px: int = 32
    text: str | None = None

    def __str__(self) -> str:
        return f"PNG {self.side_px} px {self.text or dict(self.changes)!r:.60}"

    def png(self, known: Mapping[str, str]) -> bytes:
        drawn = {
            "model": known["n"], "version": "2", "adapter_digest": known["digest_2"], "bundle_digest": known["bundle"],
            "prompt": "a cat", "negative_prompt": "", "steps": 2, "guidance_scale": 5.0, "guidance_until": 1.0, "seed": 7,
            "width": 32, "height": 32, "scheduler": "ddim",
            "adapters": [{"version": 2, "digest": known["digest_2"], "weight": 1.0}],
        }  # fmt: skip
        info = PngInfo()
        text = json.dumps(drawn | dict(self.changes)) if self.text is None else self.text
        info.add(b"iTXt", names.PNG_TEXT.encode() + b"\0\0\0\0\0" + text.encode("utf-8", "surrogatepass"))
        stream = BytesIO()
        Image.new("RGB", (self.side_px, self.side_px)).save(stream, "png", pnginfo=info)
        return stream.getvalue()


def rows(
    service: str, who: Iterable[str | None], method: str, paths: Iterable[str], *expected: int, body: Any = None, **more: str
) -> list[Attack]:
    """A row for each user and path."""
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    after = AFTER if method in ("POST", "PUT", "DELETE") and expected != (401,) else AFTER[:1]
    return [Attack(user, service, method, path, expected, body, headers, after=after) for path in paths for user in who]


def infer(who: str, path: str, bodies: Iterable[Body], *expected: int, method: str = "POST", **more: str) -> list[Attack]:
    return [row for body in bodies for row in rows("infer", [who], method, [path], *expected, body=body, **more)]


def registry(who: str, path: str, bodies: Iterable[Body], *expected: int, method: str = "POST", **more: str) -> list[Attack]:
    return [row for body in bodies for row in rows("registry-api", [who], method, [path], *expected, body=body, **more)]


PATHS = (
    "/tmp/victim",
    "../bundles/{bundle}",
    "../../../tmp/victim",
    "",
    ".",
    "..",
    "/etc",
    "a" * 300,
    "A" * 64,
    DIGEST + "\n",
    "%2e%2e",
    "\x00",
)
FORGED = [
    *(Forged({"bundle_digest": path, "version": "base", "adapter_digest": None, "adapters": []}) for path in PATHS),
    *(Forged({"bundle_digest": path}) for path in PATHS[:4]),
    *(Forged({"adapter_digest": path}) for path in PATHS[:4]),
    *(Forged({"adapters": [{"version": 2, "digest": path, "weight": 1.0}]}) for path in PATHS[:4]),
    *(Forged({"version": text}) for text in ("../../x", "", "0", "2+", "2+2+2+2+2", "²", LONG, "\x00", "2\n", "latest")),
    *(Forged({"adapters": [{"version": number, "digest": DIGEST, "weight": 1.0}]}) for number in (0, -1, 2**31, 2**63, 10**30)),
    *(Forged({"model": text}) for text in ("../x", "a/b", "x' OR name = 'base", "", "\x00", "m" * 300)),
    *(Forged({"scheduler": text}) for text in ("../x", "moon", "")),
    *(Forged({"width": side, "height": side}) for side in (0, -1, 17, 2**40, "32")),
    *(Forged({"steps": steps}) for steps in (0, -1, 10**9, True)),
    *(Forged({"adapters": [{"version": 2, "digest": DIGEST, "weight": weight}]}) for weight in (1e300, float("nan"))),
    Forged({"width": 128, "height": 128}, side_px=1),
    Forged({}, side_px=1),
    Forged({"prompt": "\ud800"}),
    Forged(text='"\\ud800"'),
    Forged(text="[" * 100_000),
    Forged(text='{"model": ' + "9" * 50_000 + "}"),
    Forged(text=""),
    b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
    b"RIFF\xff\xff\xff\xffWEBPVP8X",
    b"",
    b"%PDF-1.7",
]
CHANGED = [
    Forged({"bundle_digest": DIGEST, "version": "base", "adapter_digest": None, "adapters": []}),
    Forged({"adapters": [{"version": 2, "digest": DIGEST, "weight": 1.0}]}),
    Forged({"adapters": [{"version": 999, "digest": DIGEST, "weight": 1.0}]}),
    Forged({"model": "other"}),
]
"""Images that are whole, and of something that is not here."""

WIDE = zlib.compress(bytes(1 << 20))
HUGE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x75\x30\0\0\x75\x30\x08\x02\0\0\0" + b"\0\0\0\0" + b"\0\0\xff\xffIDAT" + WIDE
VERIFY = [
    *(replace(row, after=(*AFTER, "cache")) for row in infer("rita", "/verify", FORGED, 422)),
    *(replace(row, after=(*AFTER, "cache")) for row in infer("rita", "/verify", CHANGED, 404, 409)),
    *infer("rita", "/verify", [HUGE], 422),
    *infer("rita", "/verify", [Zeros(33)], 413),
    *infer("rita", "/verify", [Zeros(33, chunked=True)], 413),
    *infer("rita", "/verify", [Forged()], 200),
]

W = {"prompt": "a cat", "seed": 7, "steps": 2}
BAD_WISHES: list[dict] = [
    *({**W, "version": number} for number in NUMBERS if number is not None),
    *({**W, "alias": text} for text in ("", "a" * 256, "../x", "a b", "a'b", "\x00", 5, True)),
    *({**W, name: True} for name in ("n", "steps", "seed", "width", "height", "prompt", "scale", "guidance_scale")),
    *({**W, name: "2"} for name in ("n", "steps", "seed", "scale", "base")),
    *({**W, "width": width, "height": 32} for width in ("128", 1.5, 0, -16, 17, 1040, 10**9, 2**63, 10**30)),
    *({**W, "steps": steps} for steps in (0, -1, 151, 2**63)),
    *({**W, "seed": seed} for seed in (-1, 2**32, 2**63, 1.5)),
    *({**W, "n": n} for n in (0, 9, -1)),
    *({**W, "prompt": text} for text in ("", "x" * 2001, None, ["a"], "\x00" * 3000)),
    *({**W, "adapters": value} for value in ([{}], [{"version": 1, "alias": "champion"}], [{"version": 1}] * 5, [[]], "x")),
    {**W, "scheduler": "../x"}, {**W, "moon": 1}, {**W, "version": 1, "base": True},
]  # fmt: skip
BAD_BODIES: list[Body] = [
    b'{"prompt": ' + SURROGATE + b"}",
    b'{"prompt": "a cat", "alias": ' + SURROGATE + b"}",
    b"{" + SURROGATE + b": 1}",
    b'{"prompt": "a cat", "adapters": ' + DEEP + b"}",
    DEEP,
    SURROGATE,
    b'{"prompt": "\xff"}',
    b'{"prompt": NaN}',
    b'{"prompt": "a cat", "scale": Infinity}',
    b'{"prompt": "a cat", "seed": ' + b"9" * 5000 + b"}",
    b"null",
    b"[]",
    b"",
    b"prompt=a+cat",
]
OPENAI = (
    *("{n}:0", "{n}:00", "{n}:-1", "{n}:", "{n}@", "{n}@" + "a" * 256, "{n}:2147483648", "{n}:9999999999", "{n}:base:base"),
    *("other", "{n}:²", "../{n}", "", "{n}\n", "{n}:2@champion", "\x00"),
)
BIG = (Zeros(0.1), Zeros(64), Zeros(64, chunked=True))
GENERATE = [
    *infer("rita", "/generate", BAD_WISHES, 422),
    *(row for path in ("/generate", "/jobs", "/v1/images/generations") for row in infer("rita", path, BAD_BODIES, 413, 422)),
    *infer("rita", "/generate", [json.dumps(W).encode()], 422, Content_Type="text/plain"),
    *infer("rita", "/generate", [json.dumps(W).encode()], 200, 422, Content_Type=""),
    *infer("rita", "/generate", [{**W, "alias": "a" * 200}, {**W, "version": 999}, {**W, "version": 2**31 - 1}], 404),
    *infer("rita", "/generate", [{**W, "version": 3}, {**W, "version": 4}], 200, 409),
    *infer("rita", "/v1/images/generations", [{"prompt": "a cat", "model": text} for text in OPENAI], 404, 422),
    *infer("rita", "/v1/images/generations", [{"prompt": "a cat", "model": "{n}@" + "a" * 200}], 404),
    *infer("rita", "/v1/images/generations", [{"prompt": "a cat", "model": "{n}:" + LONG}], 422),
    *infer("rita", "/v1/images/generations", [{"prompt": "a", "n": True}, {"prompt": "a", "size": "99999x99999"}], 422),
    *infer(
        "rita",
        "/jobs",
        [{**W, "webhook_url": url} for url in ("http://169.254.169.254/", "file:///etc/passwd", "x" * 3000)],
        422,
    ),
    *infer("rita", "/generate", [W], 406, Accept="text/html"),
    *infer("rita", "/generate", [W], 200, 406, Accept="q=" * 4000),
    *(row for path in ("/generate", "/jobs", "/stage", "/v1/images/generations") for row in infer("pia", path, BIG, 413)),
    *(
        Attack(
            "rita",
            "infer",
            "POST",
            "/generate",
            (200, 422, 429, 503),
            {**W, "n": 8, "width": side, "height": side},
            times=times,
            after=AFTER,
        )
        for side, times in ((640, 6), (1024, 2))
    ),
]

STAGES = [{"version": number} for number in NUMBERS] + [
    {"version": 2, "adapter_digest": path} for path in ("/tmp/victim", "../x", "", "a" * 300)
]
TARGETS = ("/jobs/../../etc", "/jobs/%2e%2e", "/jobs/x", "/jobs/x/events", "/jobs/x/images/0")
INFER_READS = [
    *rows("infer", ["rita"], "GET", [f"/versions/{number}/image" for number in VERSIONS], *BEHIND),
    *rows("infer", ["rita"], "GET", ["/versions/999/image"], 404),
    *rows("infer", ["rita"], "GET", TARGETS, 404),
    *rows("infer", ["rita"], "GET", [f"/jobs/x/images/{number}" for number in (LONG, "-1", "x")], 404, 422),
    *rows("infer", [None], "HEAD", ["/healthz", "/readyz"], 200),
    *rows("infer", [None], "GET", ["/healthz", "/readyz"], 200),
    *infer("pia", "/stage", STAGES, 409, 422),
    *infer("pia", "/stage", [{"version": 999}], 404),
    *infer("pia", "/stage", BAD_BODIES[:6], 422),
    *infer("pia", "/stage", [{"version": 2, "adapter_digest": DIGEST}], 409),
    *infer("pia", "/stage", [{"version": 2, "images": [{"prompt": "a", "size": size}]} for size in (True, 10**9, 17)], 422),
]

REASON = {"reason": "an attack"}


def reads(paths: Iterable[str], *expected: int, **more: str) -> list[Attack]:
    """Of registry-api, by a reader."""
    return rows("registry-api", ["rita"], "GET", paths, *expected, **more)


PROMOTE = M + "/versions/%d/promote"
DECIDING = ("/rollback", "/versions/1/promote", "/versions/1/retire")
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
REGISTRY = [
    *(row for path in (PROMOTE % 1, M + "/rollback") for row in registry("pia", path, BAD_DECISIONS, 422)),
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

READ = [
    *("/models", M, M + "/versions", M + "/versions/1", M + "/compare?left=1&right=2", M + "/versions/1/verdict", "/nothing"),
    *(M + "/versions/1/images", M + "/versions/1/image?path=x", M + "/versions/1/curves/loss", M + "/aliases/champion"),
    *(
        M + "/style",
        M + "/versions/1/preview",
        M + "/history",
        "/decisions/1",
        "/events",
        "/metrics",
        "/openapi.json",
        "/subscribers",
    ),
]
DECIDE = [
    *(M + "/generate", M + "/rollback", M + "/versions/1/promote", M + "/versions/1/retire", "/decisions/1/approve"),
    *("/decisions/1/reject", "/subscribers/ci/ping"),
]
DRAW = ["/generate", "/jobs", "/stage", "/verify", "/v1/images/generations"]
LOOK = [
    *(
        "/models",
        "/versions",
        "/versions/1/image",
        "/versions/1/preview",
        "/metrics",
        "/openapi.json",
        "/jobs/x",
        "/jobs/x/events",
        "/nothing",
    ),
    "/jobs/x/images/0",
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

TABLE = [*VERIFY, *GENERATE, *INFER_READS, *REGISTRY, *LOGINS, *AROUND]
