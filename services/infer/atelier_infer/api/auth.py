"""Before any route: who asks, and how much."""

from __future__ import annotations

from functools import partial
from http import HTTPMethod

from atelier_contracts.tokens import Token, TokenFile
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from atelier_infer.api.upload_limiter import UploadLimiter
from atelier_infer.errors import InferError, LoginError
from atelier_infer.problems import answer

OPEN = ("/healthz", "/readyz")
"""Paths without a login. They show no details."""

MAX_BODY_BYTES = 64 * 1024
"""Two prompts of 2000 characters, each character written as a JSON escape pair, and room."""

MAX_IMAGE_BYTES = 32 * 2**20
"""Of a body that is an image."""

BODILESS = (HTTPMethod.GET, HTTPMethod.HEAD, HTTPMethod.DELETE, HTTPMethod.OPTIONS)
"""Methods whose body no route reads, if there is one."""

IMAGES = ("/verify",)
"""Paths whose body is an image."""


class Authentication:
    """Lets in who bears a token of the token file, with a body of a sane size. Every known role may read and draw.

    The token is left in `request.state.token` for a route that asks for more, and `request.state.still_allowed` says whether it
    is still good, for a route whose answer takes long.
    """

    def __init__(self, app: ASGIApp, *, tokens: TokenFile, uploads: UploadLimiter, files: frozenset[str] = frozenset()) -> None:
        """`files` are the paths of the page's own files, which need no login either."""
        self._app, self._tokens, self._uploads, self._open = app, tokens, uploads, files | set(OPEN)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 401 or 413 itself; hands everything else on."""
        if scope["type"] != "http" or scope["path"] in self._open:
            await self._app(scope, receive, send)
            return
        try:
            authorization = Headers(scope=scope).get("authorization", "")
            token = self._token(authorization)
            scope["state"]["token"], scope["state"]["log"]["token_id"] = token, token.id
            scope["state"]["still_allowed"] = partial(self._is_known, authorization, token.id)
        except InferError as error:
            await answer(error)(scope, receive, send)
            return
        if scope["method"] not in BODILESS:
            await self._with_body(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._uploads.body(MAX_IMAGE_BYTES if scope["path"] in IMAGES else MAX_BODY_BYTES) as body:
            try:
                receive = await body.whole(receive)
            except InferError as error:
                # the rest of the body is not read, so nothing else can come over this connection
                await answer(error, close=True)(scope, receive, send)
                return
            await self._app(scope, receive, send)

    def _is_known(self, authorization: str, id: str) -> bool:
        """Whether a token that came in is still in the file, under the same name."""
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
            raise LoginError("the token is not known; ask for one that is in the service's token file")
        return token
