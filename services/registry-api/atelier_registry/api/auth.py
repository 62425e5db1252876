"""Who may do what: a bearer token from the token file on every address but two, and a role for each endpoint."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any

from atelier_contracts.tokens import Role, Token, TokenFile
from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from atelier_registry.api import ui
from atelier_registry.errors import AccessError, RoleTooLowError, TokenMissingError, TokenUnknownError
from atelier_registry.problems import answer

OPEN_PATHS = frozenset({"/", "/healthz", "/readyz"})
"""Answered without a login, and without details; so are the page's own files."""

SCHEME = HTTPBearer(auto_error=False, description="a token whose hash is in the token file")


class Authentication:
    """ASGI middleware that looks the token up before the body is read or an address is looked for."""

    def __init__(self, app: ASGIApp, tokens: TokenFile) -> None:
        self._app, self._tokens = app, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 401, or leaves `token` and `still_allowed` in `request.state` and passes on."""
        if scope["type"] == "http" and not is_open(scope["path"]):
            authorization = Headers(scope=scope).get("authorization", "")
            try:
                token = self._find(authorization)
            except AccessError as error:
                await answer(error)(scope, receive, send)
                return
            scope.setdefault("state", {}).update(token=token, still_allowed=partial(self._is_known, authorization, token.id))
        await self._app(scope, receive, send)

    def _is_known(self, authorization: str, id: str) -> bool:
        """Whether a token that came in is still in the file, under the same name."""
        try:
            return self._find(authorization).id == id
        except AccessError:
            return False

    def _find(self, authorization: str) -> Token:
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not (secret := secret.strip()):
            raise TokenMissingError
        if (token := self._tokens.find(secret)) is None:
            raise TokenUnknownError
        return token


def is_open(path: str) -> bool:
    """Whether a path is answered without a login."""
    return path in OPEN_PATHS or path.startswith(ui.PATH)


def needs(role: Role) -> Callable[..., Coroutine[Any, Any, Token]]:
    """A dependency that gives the caller's token, or raises `RoleTooLowError` where its role is below `role`."""

    async def caller(request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(SCHEME)]) -> Token:
        token: Token = request.state.token
        if token.role < role:
            raise RoleTooLowError(token.id, token.role, role)
        return token

    return caller
