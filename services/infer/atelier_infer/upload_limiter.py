"""Request bodies while they arrive: limited in total size and in time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPMethod

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atelier_infer.errors import BodySizeError, BodyTimeoutError, InferError, UploadLimitError
from atelier_infer.problems import TABLE

MAX_BODY_BYTES = 64 * 1024
"""Two prompts of 2000 characters, each escaped as a surrogate pair in JSON, and some room."""

MAX_IMAGE_BYTES = 32 * 2**20

BODILESS = (HTTPMethod.GET, HTTPMethod.HEAD, HTTPMethod.DELETE, HTTPMethod.OPTIONS)
"""Methods whose body is never read."""

IMAGE_PATHS = ("/verify",)
"""Paths whose body is an image."""


class LimitedUploads:
    """ASGI middleware that reads each body within the limits, and responds with 408, 413 or 503 itself.

    Args:
        app: the application behind it.
        uploads: the limits.
    """

    def __init__(self, app: ASGIApp, uploads: UploadLimiter) -> None:
        self._app, self._uploads = app, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in BODILESS:
            await self._app(scope, receive, send)
            return
        with self._uploads.body(MAX_IMAGE_BYTES if scope["path"] in IMAGE_PATHS else MAX_BODY_BYTES) as body:
            try:
                receive = await body.read(receive)
            except InferError as error:
                # the rest of the body is not read, so the connection cannot be reused
                await TABLE.response(error, {"Connection": "close"})(scope, receive, send)
                return
            await self._app(scope, receive, send)


class UploadLimiter:
    """Lives on the event loop's thread.

    Args:
        limit_bytes: total of all large bodies that are being read or used.
        timeout_s: for one body, from the request's headers to its last byte.
        small_bytes: bodies that cannot be larger count as small and have a total of their own.
        small_limit_bytes: total of all small bodies.
    """

    def __init__(
        self, *, limit_bytes: int, timeout_s: float, small_bytes: int = 64 * 1024, small_limit_bytes: int = 16 * 2**20
    ) -> None:
        self._limits, self._timeout_s, self._small_bytes = (limit_bytes, small_limit_bytes), timeout_s, small_bytes
        self._used = [0, 0]

    @property
    def nbytes(self) -> int:
        """Received bytes of bodies that are being read or used."""
        return sum(self._used)

    @contextmanager
    def body(self, max_bytes: int) -> Iterator[Body]:
        """One body; it counts until the end of the block."""
        body = Body(self, max_bytes, small=max_bytes <= self._small_bytes)
        try:
            yield body
        finally:
            self._used[body.small] -= body.size

    def reserve(self, body: Body, nbytes: int) -> None:
        """Counts more bytes of a body.

        Raises:
            UploadLimitError: other bodies use the memory.
        """
        limit = self._limits[body.small]
        if self._used[body.small] + nbytes > limit:
            raise UploadLimitError(
                f"concurrent request bodies may have {limit} bytes in total, and this one exceeds that; send the request again "
                "later",
                int(self._timeout_s) + 1,
            )
        self._used[body.small] += nbytes
        body.size += nbytes

    async def read(self, receive: Receive, max_bytes: int, body: Body) -> Receive:
        """Reads the whole body and returns a `receive` that replays it and then passes on disconnects.

        Raises:
            BodySizeError, BodyTimeoutError, UploadLimitError: it is too large, too slow, or one too many.
        """
        messages: list[Message] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                messages.append(await self._read_message(receive, max_bytes, body))
        except TimeoutError as error:
            raise BodyTimeoutError(
                f"the body must arrive within {self._timeout_s:g} s; received {body.size} bytes by then; send it faster"
            ) from error

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        return replay

    async def _read_message(self, receive: Receive, max_bytes: int, body: Body) -> Message:
        parts: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return message
            parts.append(message.get("body", b""))
            if body.size + len(parts[-1]) > max_bytes:
                raise BodySizeError(f"the body must be at most {max_bytes} bytes; received more; shorten the request")
            self.reserve(body, len(parts[-1]))
            if not message.get("more_body", False):
                return {"type": "http.request", "body": b"".join(parts), "more_body": False}


class Body:
    """One request body.

    Attributes:
        size: bytes received so far.
        small: which of the two totals it counts towards.
    """

    def __init__(self, limiter: UploadLimiter, max_bytes: int, *, small: bool) -> None:
        self._limiter, self._max_bytes, self.small, self.size = limiter, max_bytes, small, 0

    async def read(self, receive: Receive) -> Receive:
        return await self._limiter.read(receive, self._max_bytes, self)
