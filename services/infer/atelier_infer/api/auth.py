"""Middleware that checks the bearer token and limits the size of the body."""

from __future__ import annotations

from functools import partial
from http import HTTPMethod

from atelier_contracts.tokens import Token, TokenFile
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from atelier_infer.errors import InferError, LoginError
from atelier_infer.problems import problem_response
from atelier_infer.upload_limiter import UploadLimiter

OPEN = ("/healthz", "/readyz")
"""Paths that require no token; their responses have no details."""

MAX_BODY_BYTES = 64 * 1024
"""Two prompts of 2000 characters, each escaped as a surrogate pair in JSON, and some room."""

MAX_IMAGE_BYTES = 32 * 2**20

BODILESS = (HTTPMethod.GET, HTTPMethod.HEAD, HTTPMethod.DELETE, HTTPMethod.OPTIONS)
"""Methods whose body is never read."""

IMAGES = ("/verify",)
"""Paths whose body is an image."""


class Authentication:
    """Every role may read and generate; a route that requires more checks `request.state.token`.

    `request.state.still_allowed` tells a route with a long response whether the token is still valid.
    """

    def __init__(self, app: ASGIApp, *, tokens: TokenFile, uploads: UploadLimiter, files: frozenset[str] = frozenset()) -> None:
        """`files`: paths of the page's static files, which require no token."""
        self._app, self._tokens, self._uploads, self._open = app, tokens, uploads, files | set(OPEN)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Responds with 401, 408, 413 or 503 itself."""
        if scope["type"] != "http" or scope["path"] in self._open:
            await self._app(scope, receive, send)
            return
        try:
            authorization = Headers(scope=scope).get("authorization", "")
            token = self._token(authorization)
            scope["state"]["token"], scope["state"]["log"]["token_id"] = token, token.id
            scope["state"]["still_allowed"] = partial(self._is_known, authorization, token.id)
        except InferError as error:
            await problem_response(error)(scope, receive, send)
            return
        if scope["method"] not in BODILESS:
            await self._with_body(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._uploads.body(MAX_IMAGE_BYTES if scope["path"] in IMAGES else MAX_BODY_BYTES) as body:
            try:
                receive = await body.read(receive)
            except InferError as error:
                # the rest of the body is not read, so the connection cannot be reused
                await problem_response(error, close=True)(scope, receive, send)
                return
            await self._app(scope, receive, send)

    def _is_known(self, authorization: str, id: str) -> bool:
        """Whether the token is still in the file with the same id."""
        try:
            return self._token(authorization).id == id
        except LoginError:
            return False

    def _token(self, authorization: str) -> Token:
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise LoginError("a token is required; send the header `Authorization: Bearer <token>`")
        token = self._tokens.find(secret.strip())
        if token is None:
            raise LoginError("unknown token; use one of the service's token file")
        return token
