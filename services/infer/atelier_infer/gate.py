"""Before any route: who asks, and how much."""

from __future__ import annotations

from http import HTTPMethod

from atelier_contracts.access import Token, TokenFile
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atelier_infer.errors import BodySizeError, InferError, LoginError
from atelier_infer.problems import answer

OPEN = ("/healthz", "/readyz")
"""Paths without a login. They show no details."""

MAX_BODY_BYTES = 64 * 1024
"""Two prompts of 2000 characters, each character written as a JSON escape pair, and room."""


class Gate:
    """Lets in who bears a token of the token file, with a body of a sane size. Every known role may read and draw.

    The token is left in `request.state.token` for a route that asks for more.
    """

    def __init__(self, app: ASGIApp, *, tokens: TokenFile) -> None:
        self._app, self._tokens = app, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 401 or 413 itself; hands everything else on."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        try:
            token = self._token(Headers(scope=scope).get("authorization", ""))
            scope["state"]["token"], scope["state"]["log"]["token_id"] = token, token.id
            if scope["method"] == HTTPMethod.POST:
                receive = await _whole_body(receive)
        except InferError as error:
            await answer(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _token(self, authorization: str) -> Token:
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise LoginError("a token is required; send the header `Authorization: Bearer <token>`")
        token = self._tokens.find(secret.strip())
        if token is None:
            raise LoginError("the token is not known; ask for one that is in the service's token file")
        return token


async def _whole_body(receive: Receive) -> Receive:
    """Reads the body up to the limit, and returns a `receive` that gives it again and then hears of disconnects."""
    parts: list[bytes] = []
    messages: list[Message] = []
    while not messages:
        message = await receive()
        if message["type"] != "http.request":
            messages.append(message)
            break
        parts.append(message.get("body", b""))
        if sum(map(len, parts)) > MAX_BODY_BYTES:
            raise BodySizeError(f"a body must be at most {MAX_BODY_BYTES} bytes; received more; shorten the request")
        if not message.get("more_body", False):
            messages.append({"type": "http.request", "body": b"".join(parts), "more_body": False})

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again
