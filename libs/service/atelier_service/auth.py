"""Bearer tokens of the token file, and the roles that endpoints ask for."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any

from atelier_contracts.tokens import Role, Token, TokenFile
from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from atelier_service.problems import ProblemError, ProblemType, respond

MISSING_TOKEN = ProblemType("missing-token", 401, "The request has no bearer token.")
UNKNOWN_TOKEN = ProblemType("unknown-token", 401, "The bearer token is not in the service's token file.")
ROLE_TOO_LOW = ProblemType("role-too-low", 403, "The caller's role may not do this.")

BEARER = HTTPBearer(auto_error=False, description="a token whose SHA-256 is in the token file")


class MissingTokenError(ProblemError):
    """No `Authorization: Bearer` header."""

    type = MISSING_TOKEN
    headers = {"WWW-Authenticate": 'Bearer realm="atelier"'}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__("a token is required; send the header `Authorization: Bearer <token>`")


class UnknownTokenError(ProblemError):
    """The token is not in the token file, or no longer."""

    type = UNKNOWN_TOKEN
    headers = {"WWW-Authenticate": 'Bearer realm="atelier", error="invalid_token"'}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__("the token is unknown or was revoked; ask an administrator for one that is in the token file")


class RoleTooLowError(ProblemError):
    """The token is known, but its role is below the endpoint's."""

    type = ROLE_TOO_LOW

    def __init__(self, token: Token, role: Role) -> None:
        sufficient = " or ".join(each.name for each in Role if each >= role)
        super().__init__(f"{token.id} has the role {token.role.name}; this requires {sufficient}")


class Authentication:
    """ASGI middleware that looks the token up before the body is read or a route is looked for.

    It leaves `token` in `request.state`, and `token_is_valid()`, which says whether the token is still in the file, for
    responses that last long.

    Args:
        app: the application behind it.
        tokens: the token file.
        is_public: whether a path is served without a token.
    """

    def __init__(self, app: ASGIApp, tokens: TokenFile, is_public: Callable[[str], bool]) -> None:
        self._app, self._tokens, self._is_public = app, tokens, is_public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_public(scope["path"]):
            authorization = Headers(scope=scope).get("authorization", "")
            try:
                token = self._find(authorization)
            except ProblemError as error:
                await respond(error)(scope, receive, send)
                return
            still_valid = partial(self._is_valid, authorization, token.id)
            scope.setdefault("state", {}).update(token=token, token_is_valid=still_valid)
        await self._app(scope, receive, send)

    def _is_valid(self, authorization: str, id: str) -> bool:
        """Whether a token that was accepted is still in the file under the same id."""
        try:
            return self._find(authorization).id == id
        except ProblemError:
            return False

    def _find(self, authorization: str) -> Token:
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not (secret := secret.strip()):
            raise MissingTokenError
        if (token := self._tokens.find(secret)) is None:
            raise UnknownTokenError
        return token


def require_role(role: Role) -> Callable[..., Coroutine[Any, Any, Token]]:
    """A FastAPI dependency that returns the request's token, or raises `RoleTooLowError`."""

    async def token_of(request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]) -> Token:
        token: Token = request.state.token
        if token.role < role:
            raise RoleTooLowError(token, role)
        return token

    return token_of
