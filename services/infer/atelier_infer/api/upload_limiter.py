"""Bodies of requests while they come: bounded in sum, and in time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive

from atelier_infer.errors import BodySizeError, BodyTimeoutError, UploadsFullError


class UploadLimiter:
    """Reads bodies. Lives on the event loop's thread.

    Args:
        limit_bytes: of all large bodies that are read or used now.
        timeout_s: for one body, from its request's headers to its last byte.
        small_bytes: a body that may be no larger does not count as large; those are bounded by their own sum.
        small_limit_bytes: of all those that are not large.
    """

    def __init__(
        self, *, limit_bytes: int, timeout_s: float, small_bytes: int = 64 * 1024, small_limit_bytes: int = 16 * 2**20
    ) -> None:
        self._limits, self._timeout_s, self._small_bytes = (limit_bytes, small_limit_bytes), timeout_s, small_bytes
        self._used = [0, 0]

    @property
    def nbytes(self) -> int:
        """Of what has come of bodies that are read or used now."""
        return sum(self._used)

    @contextmanager
    def body(self, most: int) -> Iterator[Body]:
        """One body of at most so many bytes; it counts until the end of the block."""
        body = Body(self, most, small=most <= self._small_bytes)
        try:
            yield body
        finally:
            self._used[body.small] -= body.size

    def take(self, body: Body, more: int) -> None:
        """Counts more of it.

        Raises:
            UploadsFullError: others have all that there is.
        """
        limit = self._limits[body.small]
        if self._used[body.small] + more > limit:
            raise UploadsFullError(
                f"all bodies that are sent at the same time may have {limit} bytes together, and this one is beyond that; send "
                "the request again later",
                int(self._timeout_s) + 1,
            )
        self._used[body.small] += more
        body.size += more

    async def whole(self, receive: Receive, most: int, body: Body) -> Receive:
        """Reads it, and returns a `receive` that gives it again and then hears of disconnects.

        Raises:
            BodySizeError, BodyTimeoutError, UploadsFullError: it is too large, too slow, or one too many.
        """
        messages: list[Message] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                messages.append(await self._read(receive, most, body))
        except TimeoutError as error:
            raise BodyTimeoutError(
                f"a body must arrive within {self._timeout_s:g} s; received {body.size} bytes of it by then; send it faster"
            ) from error

        async def again() -> Message:
            return messages.pop() if messages else await receive()

        return again

    async def _read(self, receive: Receive, most: int, body: Body) -> Message:
        parts: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return message
            parts.append(message.get("body", b""))
            if body.size + len(parts[-1]) > most:
                raise BodySizeError(f"a body must be at most {most} bytes; received more; shorten the request")
            self.take(body, len(parts[-1]))
            if not message.get("more_body", False):
                return {"type": "http.request", "body": b"".join(parts), "more_body": False}


class Body:
    """One of them.

    Attributes:
        size: bytes that have come.
        small: which of the two sums it counts for.
    """

    def __init__(self, uploads: UploadLimiter, most: int, *, small: bool) -> None:
        self._uploads, self._most, self.small, self.size = uploads, most, small, 0

    async def whole(self, receive: Receive) -> Receive:
        """See `Uploads.whole`."""
        return await self._uploads.whole(receive, self._most, self)
