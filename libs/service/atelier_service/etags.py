"""ETags for JSON responses, and 304 for clients that have them already."""

from __future__ import annotations

import hashlib

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ETags:
    """ASGI middleware over whole JSON responses to GET; streams, images and errors pass through.

    The ETag is the SHA-256 of the body, unless the route has set one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        start: Message | None = None

        async def send_tagged(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                media = Headers(raw=message["headers"]).get("content-type", "")
                if message["status"] != 200 or not media.startswith("application/json"):
                    await send(message)
                    return
                start = message  # held back until the body is known
                return
            if start is not None:
                head, start = start, None
                headers = MutableHeaders(raw=head["headers"])
                body = message.get("body", b"")
                etag = headers.setdefault("ETag", f'"{hashlib.sha256(body).hexdigest()[:32]}"')
                headers["Cache-Control"] = "private, no-cache"
                known = [part.strip().removeprefix("W/") for part in Headers(scope=scope).get("if-none-match", "").split(",")]
                if etag in known or "*" in known:
                    del headers["content-length"]
                    head["status"], message = 304, {"type": "http.response.body", "body": b""}
                await send(head)
            await send(message)

        await self._app(scope, receive, send_tagged)
