"""A client of this service in one file that needs only the standard library: copy it where you need it.

with Client("http://127.0.0.1:8002", token) as client:
    client.generate("a cat on a chair", seed=7)[0].save("cat.png")
    for event in client.stream("a boat", steps=50):
        print(event)  # Progress, Preview, and finally an Image
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
    """The service refused the request or did not answer.

    Attributes:
        status: of HTTP; 0 without a response.
        retry_after_s: when the same request may succeed; None if it must be changed.
    """

    def __init__(self, status: int, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{status}: {detail}" if status else detail)
        self.status, self.retry_after_s = status, retry_after_s


class SignatureError(Exception):
    """A webhook was not sent by the service, was modified, or is too old."""


@dataclass(frozen=True)
class Image:
    """A finished image.

    Attributes:
        png: contains its metadata, which `verify` reads.
        metadata: model, version, seed, … as in the service's GenerationMetadata.
        index: among the images of the request.
        alias: that led to its version: the one in the request, champion, or the canary's.
    """

    png: bytes
    metadata: dict[str, Any]
    index: int = 0
    alias: str | None = None

    def save(self, path: str | Path) -> None:
        Path(path).write_bytes(self.png)


@dataclass(frozen=True)
class Progress:
    """One step of an image."""

    index: int
    step: int
    steps: int


@dataclass(frozen=True)
class Preview:
    """An unfinished image."""

    index: int
    step: int
    webp: bytes


@dataclass(frozen=True)
class VerifyResult:
    """As in the service's VerifyResponse."""

    matches: bool
    max_difference: int
    differing_fraction: float
    metadata: dict[str, Any]


class Client:
    """Fields of a request are keyword arguments: version, alias, adapters, scale, base, seed, n, steps, width, …

    Args:
        url: of the service, http or https.
        token: of the service's token file.
        timeout_s: longest silence of the service; an event stream has a heartbeat every 10 s.
    """

    def __init__(self, url: str, token: str, *, timeout_s: float = 600.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url must begin with http:// or https:// and name a host; received {url!r}")
        self._prefix, self._token = parts.path.rstrip("/"), token
        self._connection_class = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._timeout_s = parts.netloc, timeout_s
        self._connection = self._connect()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()

    def generate(self, prompt: str, *, key: str | None = None, **fields: Any) -> list[Image]:
        """All images of a request.

        Args:
            prompt: describes the image.
            key: an idempotency key: the same key gives the same images, generated once.
            fields: of the request.

        Raises:
            ClientError: the service refused the request.
        """
        headers = {"Accept": "application/json"} | ({"Idempotency-Key": key} if key else {})
        body = self._json("POST", "/generate", {"prompt": prompt, **fields}, headers)
        images = enumerate(body["images"])
        return [Image(base64.b64decode(each["png"]), each["metadata"], index, body.get("alias")) for index, each in images]

    def stream(self, prompt: str, *, previews: bool = True, **fields: Any) -> Iterator[Progress | Preview | Image]:
        """Steps and previews as they happen, and each image when it is finished. Leaving the loop cancels the job.

        Raises:
            ClientError: the service refused the request, or the job failed.
        """
        job = self._json("POST", "/jobs", {"prompt": prompt, **fields})["id"]
        finished = False
        connection = self._connect()
        try:
            connection.request(
                "GET", f"{self._prefix}/jobs/{job}/events?previews={str(previews).lower()}", headers=self._authorization()
            )
            response = connection.getresponse()
            if response.status != 200:
                raise _client_error(response, response.read())
            yielded: set[int] = set()
            for name, data in parse_events(response):
                if name == "step":
                    yield Progress(data["image"], data["step"], data["steps"])
                elif name == "preview":
                    yield Preview(data["image"], data["step"], base64.b64decode(data["webp"]))
                elif name == "image":
                    yielded.add(data["image"])
                    yield self._image(job, data["image"])
                elif name == "end":
                    finished = True
                    if data["problem"]:
                        raise ClientError(data["problem"]["status"], data["problem"]["detail"])
                    for index in set(range(len(data["images"]))) - yielded:  # finished before the stream began
                        yield self._image(job, index)
                    return
            raise ClientError(0, "the event stream ended before the job; query the job's status")
        finally:
            connection.close()
            if not finished:
                self._exchange("DELETE", f"/jobs/{job}")

    def verify(self, image: str | Path | bytes | Image) -> VerifyResult:
        """Generates an image again from its metadata and compares.

        Raises:
            ClientError: it was not made by the service, or cannot be reproduced any more.
        """
        if isinstance(image, Image):
            image = image.png
        content = image if isinstance(image, bytes) else Path(image).read_bytes()
        body = json.loads(self._exchange("POST", "/verify", content, {"Content-Type": "image/png"})[1])
        return VerifyResult(body["matches"], body["max_difference"], body["differing_fraction"], body["metadata"])

    def versions(self) -> list[dict[str, Any]]:
        """Versions that a request may name, newest first."""
        versions: list[dict[str, Any]] = self._json("GET", "/versions")["versions"]
        return versions

    def _connect(self) -> http.client.HTTPConnection:
        return self._connection_class(self._host, timeout=self._timeout_s)

    def _image(self, job: str, index: int) -> Image:
        _, png = self._exchange("GET", f"/jobs/{job}/images/{index}", headers={"Accept": "image/png"})
        status = self._json("GET", f"/jobs/{job}")
        return Image(png, status["metadata"][index], index, status.get("alias"))

    def _json(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | (headers or {})
        parsed: dict[str, Any] = json.loads(self._exchange(method, path, content, headers)[1])
        return parsed

    def _exchange(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        try:
            self._connection.request(method, self._prefix + path, body, self._authorization() | (headers or {}))
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ClientError(0, f"no response from the service: {type(error).__name__}: {error}") from error
        if response.status >= 400:
            raise _client_error(response, content)
        return response, content

    def _authorization(self) -> dict[str, str]:
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
        elif not field and not value and data:  # an empty line ends an event; a comment has an empty field and a value
            yield name, json.loads(data)
            name, data = "message", ""


def read_webhook(secret: str, headers: Mapping[str, str], body: bytes, *, tolerance_s: float = 300.0) -> dict[str, Any]:
    """Verifies a webhook and returns the job's status, as `GET /jobs/{id}` does. A repeated one has the same `webhook-id`.

    Args:
        secret: `whsec_…`, as in the service's settings.
        headers: of the request, in any case.
        body: of the request, the bytes as received.
        tolerance_s: largest difference between its timestamp and this clock.

    Raises:
        SignatureError: it was signed with another secret, was modified, or is too old.
        ValueError: the secret is malformed.

    Source: Standard Webhooks 1.0.0, "Verifying webhook authenticity".
    """
    lower = {name.lower(): value for name, value in headers.items()}
    try:
        id, timestamp, signatures = (lower[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
    except KeyError as error:
        raise SignatureError(f"header {error} is missing") from None
    expected = webhook_signature(webhook_key(secret), id, timestamp, body).encode()
    if not any(hmac.compare_digest(expected, signature.encode()) for signature in signatures.split()):
        raise SignatureError("no signature matches this body and secret")
    if not (timestamp.isdecimal() and abs(time.time() - int(timestamp)) <= tolerance_s):
        raise SignatureError(f"timestamp {timestamp} differs by more than {tolerance_s:g} s from this clock")
    status: dict[str, Any] = json.loads(body)
    return status


def webhook_key(secret: str) -> bytes:
    """The 24 to 64 bytes in `whsec_<base64>`.

    Raises:
        ValueError: it is something else; the message does not contain the secret.
    """
    kind, _, text = secret.strip().partition("_")
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if kind != "whsec" or not 24 <= len(key) <= 64:
        raise ValueError("must be whsec_ and the base64 of 24 to 64 random bytes")
    return key


def webhook_signature(key: bytes, id: str, timestamp: str, body: bytes) -> str:
    """`v1,<base64>` of HMAC-SHA256 over id, timestamp and body, joined by dots."""
    return "v1," + base64.b64encode(hmac.digest(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256)).decode()


def _client_error(response: http.client.HTTPResponse, content: bytes) -> ClientError:
    try:
        detail = json.loads(content)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = content[:200].decode("utf-8", "replace") or response.reason
    after = response.getheader("Retry-After")
    return ClientError(response.status, detail, float(after) if after else None)
