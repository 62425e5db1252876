"""Attacks on infer."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from typing import Any

from ..sending import Zeros
from .attack import Attack
from .service_rows import AFTER, BAD_BODIES, BEHIND, BIG, DIGEST, LONG, NUMBERS, VERSIONS, Forged, infer, rows

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
    *(replace(row, after=(*AFTER, "cache")) for row in infer("rita", "/verify", FORGED, 422)),  # type: ignore[arg-type]
    *(replace(row, after=(*AFTER, "cache")) for row in infer("rita", "/verify", CHANGED, 404, 409)),  # type: ignore[arg-type]
    *infer("rita", "/verify", [HUGE], 422),
    *infer("rita", "/verify", [Zeros(33)], 413),
    *infer("rita", "/verify", [Zeros(33, chunked=True)], 413),
    *infer("rita", "/verify", [Forged()], 200),  # type: ignore[list-item]
]
W = {"prompt": "a cat", "seed": 7, "steps": 2}
BAD_WISHES: list[dict[str, Any]] = [
    *({**W, "version": number} for number in NUMBERS if number is not None),
    *({**W, "alias": text} for text in ("", "a" * 256, "../x", "a b", "a'b", "\x00", 5, True)),
    *({**W, name: True} for name in ("n", "steps", "seed", "width", "height", "prompt", "scale", "guidance_scale")),
    *({**W, name: "2"} for name in ("n", "steps", "seed", "scale", "base")),
    *({**W, "width": width, "height": 32} for width in ("128", 1.5, 0, -16, 17, 1040, 10**9, 2**63, 10**30)),
    *({**W, "steps": steps} for steps in (0, -1, 151, 2**63)),
    *({**W, "seed": seed} for seed in (-1, 2**32, 2**63, 1.5)),
    *({**W, "n": n} for n in (0, 9, -1)),
    *({**W, "prompt": text} for text in ("", "x" * 2001, None, ["a"], "\x00" * 3000)),
    *({**W, "adapters": value} for value in ([{}], [{"version": 1, "alias": "champion"}], [{"version": 1}] * 5, [[]], "x")),  # type: ignore[var-annotated]
    {**W, "scheduler": "../x"}, {**W, "moon": 1}, {**W, "version": 1, "base": True},
]  # fmt: skip
OPENAI = (
    *("{n}:0", "{n}:00", "{n}:-1", "{n}:", "{n}@", "{n}@" + "a" * 256, "{n}:2147483648", "{n}:9999999999", "{n}:base:base"),
    *("other", "{n}:²", "../{n}", "", "{n}\n", "{n}:2@champion", "\x00"),
)
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

INFER = [*VERIFY, *GENERATE, *INFER_READS]
