"""What the attacks on registry-api and infer share: values that are out of range, rows, and forged images."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from atelier_contracts import names
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..sending import Body, Zeros
from .attack import Attack

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
BIG = (Zeros(0.1), Zeros(64), Zeros(64, chunked=True))
REASON = {"reason": "an attack"}
DECIDING = ("/rollback", "/versions/1/promote", "/versions/1/retire")
