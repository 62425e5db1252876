"""Builds the `Caller` of a decision from a request's token and headers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from atelier_contracts.tokens import Role
from atelier_service.auth import BEARER, require_role
from fastapi import Header, Request, Security
from fastapi.security import HTTPAuthorizationCredentials

from atelier_registry.decisions.caller import Caller

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="a repeated request with the same key returns the same decision",
    ),
]
IfMatch = Annotated[
    str | None, Header(alias="If-Match", max_length=500, description="ETag that the alias must have; *: it must exist")
]
IfNoneMatch = Annotated[str | None, Header(alias="If-None-Match", max_length=500, description="*: the alias must not exist")]


def caller(role: Role) -> Callable[..., Coroutine[Any, Any, Caller]]:
    """A dependency that returns the caller, or raises `RoleTooLowError` below `role`."""
    check_role = require_role(role)

    async def build_caller(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)],
        key: IdempotencyKey = None,
        if_match: IfMatch = None,
        if_none_match: IfNoneMatch = None,
    ) -> Caller:
        token = await check_role(request, credentials)
        hashed_key = hashlib.sha256(key.encode()).hexdigest() if key is not None else None
        return Caller(token.id, token.role, hashed_key, if_match, if_none_match)

    return build_caller
