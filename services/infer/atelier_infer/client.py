"""A client of this service in one file, standard library only: copy it where it is needed.

with Client("http://127.0.0.1:8002", token) as client:
    client.generate("a cat on a chair", seed=7)[0].save("cat.png")
    for event in client.stream("a boat", steps=50):
        print(event)  # Progress, Preview, and in the end a Image
    print(client.verify("cat.png"))
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.client
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit


class ClientError(Exception):
    """The service refused, or did not answer.

    Attributes:
        status: of HTTP; 0 when there was no answer.
        retry_after_s: when the same request may succeed; none when it never will as it is.
    """

    def __init__(self, status: int, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{status}: {detail}" if status else detail)
        self.status, self.retry_after_s = status, retry_after_s


class SignatureError(Exception):
    """A callback is not what the service sent, or was sent too long ago."""


@dataclass(frozen=True)
class Image:
    """A finished image.

    Attributes:
        png: with the text in it that `verify` reads.
        drawn: everything it was drawn with: model, version, seed, …
        index: which one of several.
        alias: what led to its version: the one asked for, champion, or the canary's; none where no alias did.
    """

    png: bytes
    drawn: dict[str, Any]
    index: int = 0
    alias: str | None = None

    def save(self, path: str | Path) -> None:
        """Writes the PNG."""
        Path(path).write_bytes(self.png)


@dataclass(frozen=True)
class Progress:
    """An image took a step."""

    index: int
    step: int
    steps: int


@dataclass(frozen=True)
class Preview:
    """What an image looks like on its way."""

    index: int
    step: int
    webp: bytes


@dataclass(frozen=True)
class Verdict:
    """An image beside what its own text draws now."""

    same: bool
    max_difference: int
    differing: float
    drawn: dict[str, Any]


class Client:
    """Draws. Fields of a request are keyword arguments: version, alias, adapters, scale, base, seed, n, steps, width, …

    Args:
        url: address of the service, http or https.
        token: what it lets in.
        timeout_s: longest silence of the service; a stream says every 10 s that it is alive.
    """

    def __init__(self, url: str, token: str, *, timeout_s: float = 600.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url must be an http:// or https:// address; received {url!r}")
        self._prefix, self._token = parts.path.rstrip("/"), token
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._place, self._timeout_s = parts.netloc, timeout_s
        self._line = self._connect()

    def __enter__(self) -> Client:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes the connection."""
        self._line.close()

    def generate(self, prompt: str, *, key: str | None = None, **fields: Any) -> list[Image]:
        """Images, when all of them are drawn.

        Args:
            prompt: what to draw.
            key: an idempotency key: the same key gives the same images, drawn once.
            fields: of the request.

        Raises:
            ClientError: the service refused.
        """
        headers = {"Accept": "application/json"} | ({"Idempotency-Key": key} if key else {})
        found = self._json("POST", "/generate", {"prompt": prompt, **fields}, headers)
        images = enumerate(found["images"])
        return [Image(base64.b64decode(one["png"]), one["drawn"], index, found.get("alias")) for index, one in images]

    def stream(self, prompt: str, *, previews: bool = True, **fields: Any) -> Iterator[Progress | Preview | Image]:
        """Steps and previews as they come, and each image when it is finished. Leaving the loop cancels the rest.

        Raises:
            ClientError: the service refused, or the drawing failed.
        """
        job = self._json("POST", "/jobs", {"prompt": prompt, **fields})["id"]
        finished = False
        line = self._connect()
        try:
            line.request("GET", f"{self._prefix}/jobs/{job}/events?previews={str(previews).lower()}", headers=self._login())
            answer = line.getresponse()
            if answer.status != 200:
                raise _refusal(answer, answer.read())
            seen: set[int] = set()
            for name, data in parse_events(answer):
                if name == "step":
                    yield Progress(data["image"], data["step"], data["steps"])
                elif name == "preview":
                    yield Preview(data["image"], data["step"], base64.b64decode(data["webp"]))
                elif name == "image":
                    seen.add(data["image"])
                    yield self._image(job, data["image"])
                elif name == "end":
                    finished = True
                    if data["problem"]:
                        raise ClientError(data["problem"]["status"], data["problem"]["detail"])
                    for index in set(range(len(data["images"]))) - seen:  # finished before the stream began
                        yield self._image(job, index)
                    return
            raise ClientError(0, "the stream ended before the drawing did; ask for the job's status")
        finally:
            line.close()
            if not finished:
                self._exchange("DELETE", f"/jobs/{job}")

    def verify(self, image: str | Path | bytes | Image) -> Verdict:
        """Has the service draw an image again from its own text, and compare.

        Raises:
            ClientError: it is no image of the service, or cannot be drawn any more.
        """
        if isinstance(image, Image):
            image = image.png
        content = image if isinstance(image, bytes) else Path(image).read_bytes()
        found = json.loads(self._exchange("POST", "/verify", content, {"Content-Type": "image/png"})[1])
        return Verdict(found["same"], found["max_difference"], found["differing"], found["drawn"])

    def versions(self) -> list[dict[str, Any]]:
        """Every version that may be named, the newest first."""
        found: list[dict[str, Any]] = self._json("GET", "/versions")["versions"]
        return found

    def _connect(self) -> http.client.HTTPConnection:
        return self._kind(self._place, timeout=self._timeout_s)

    def _image(self, job: str, index: int) -> Image:
        _, png = self._exchange("GET", f"/jobs/{job}/images/{index}", headers={"Accept": "image/png"})
        status = self._json("GET", f"/jobs/{job}")
        return Image(png, status["drawn"][index], index, status.get("alias"))

    def _json(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | (headers or {})
        found: dict[str, Any] = json.loads(self._exchange(method, path, content, headers)[1])
        return found

    def _exchange(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        try:
            self._line.request(method, self._prefix + path, body, self._login() | (headers or {}))
            answer = self._line.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._line.close()
            raise ClientError(0, f"the service did not answer: {type(error).__name__}: {error}") from error
        if answer.status >= 400:
            raise _refusal(answer, content)
        return answer, content

    def _login(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"}


def parse_events(lines: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """Names and JSON data of server-sent events. Source: HTML Living Standard, section 9.2.6."""
    name, data = "message", ""
    for raw in lines:
        field, _, value = raw.decode().rstrip("\r\n").partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data += value
        elif not field and not value and data:  # an empty line ends an event; a comment has a value
            yield name, json.loads(data)
            name, data = "message", ""


def read_callback(secret: str, headers: Mapping[str, str], body: bytes, *, tolerance_s: float = 300.0) -> dict[str, Any]:
    """What a callback says of its job, as `GET /jobs/{id}` does. A try may arrive twice: its `webhook-id` is the same then.

    Args:
        secret: `whsec_…`, as the service has it.
        headers: of the request, in any case.
        body: of the request, the bytes as they came.
        tolerance_s: how far its timestamp may be from this clock.

    Raises:
        SignatureError: it is signed with another secret, was changed on its way, or is too old.
        ValueError: the secret is none.

    Source: Standard Webhooks 1.0.0, "Verifying webhook authenticity".
    """
    found = {name.lower(): value for name, value in headers.items()}
    try:
        id, timestamp, signatures = (found[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
    except KeyError as error:
        raise SignatureError(f"the header {error} is missing") from None
    expected = callback_signature(callback_key(secret), id, timestamp, body).encode()
    if not any(hmac.compare_digest(expected, one.encode()) for one in signatures.split()):
        raise SignatureError("no signature is that of this body with this secret")
    if not (timestamp.isdecimal() and abs(time.time() - int(timestamp)) <= tolerance_s):
        raise SignatureError(f"the timestamp {timestamp} is more than {tolerance_s:g} s from this clock")
    status: dict[str, Any] = json.loads(body)
    return status


def callback_key(secret: str) -> bytes:
    """The 24 to 64 bytes in `whsec_<base64>`.

    Raises:
        ValueError: it is something else; the secret is not repeated.
    """
    kind, _, text = secret.strip().partition("_")
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if kind != "whsec" or not 24 <= len(key) <= 64:
        raise ValueError("must be whsec_ and the base64 of 24 to 64 random bytes")
    return key


def callback_signature(key: bytes, id: str, timestamp: str, body: bytes) -> str:
    """`v1,<base64>` of HMAC-SHA256 over id, timestamp and body with dots between them."""
    return "v1," + base64.b64encode(hmac.digest(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256)).decode()


def _refusal(answer: http.client.HTTPResponse, content: bytes) -> ClientError:
    try:
        detail = json.loads(content)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = content[:200].decode("utf-8", "replace") or answer.reason
    after = answer.getheader("Retry-After")
    return ClientError(answer.status, detail, float(after) if after else None)
