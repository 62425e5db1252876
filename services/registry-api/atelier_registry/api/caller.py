"""Who asks, and under which conditions: token, idempotency key, ETags."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from atelier_contracts.tokens import Role, Token
from fastapi import Header, Request, Security
from fastapi.security import HTTPAuthorizationCredentials

from atelier_registry.api.auth import SCHEME, needs
from atelier_registry.errors import InvalidArgumentError, PreconditionError, RoleTooLowError
from atelier_registry.storage import hash_chain
from atelier_registry.storage.ledger import Move

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key", min_length=1, max_length=200, description="the same key again is answered with what it did"
    ),
]
IfMatch = Annotated[str | None, Header(alias="If-Match", max_length=500, description="ETag of the alias; or *: it exists")]
IfNoneMatch = Annotated[
    str | None, Header(alias="If-None-Match", max_length=500, description="*: the alias does not exist yet")
]


@dataclass(frozen=True)
class Caller:
    """The sender of one request that decides."""

    token: Token
    key: str | None = None
    if_match: str | None = None
    if_none_match: str | None = None

    @property
    def id(self) -> str:
        """The actor of the decision."""
        return self.token.id

    def check_role(self, needed: Role) -> None:
        """Raises `RoleTooLowError` below a role."""
        if self.token.role < needed:
            raise RoleTooLowError(self.token, needed)

    def check_alias(self, etag: str | None) -> None:
        """Holds the request's conditions against the alias as it is now; None where it does not exist.

        Raises:
            PreconditionError: it is not so.
        """
        if self.if_match is not None:
            wanted = [part.strip() for part in self.if_match.split(",")]
            if etag is None or not ("*" in wanted or etag in wanted):
                raise PreconditionError(f"If-Match: {self.if_match}", etag)
        if self.if_none_match is not None:
            if self.if_none_match.strip() != "*":
                raise InvalidArgumentError(f"If-None-Match must be * here; received {self.if_none_match!r}")
            if etag is not None:
                raise PreconditionError("If-None-Match: *", etag)


def caller(role: Role) -> Callable[..., Coroutine[Any, Any, Caller]]:
    """A dependency that gives the sender, or raises `RoleTooLowError` where its role is below `role`."""

    check = needs(role)

    async def asking(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Security(SCHEME)],
        key: Key = None,
        if_match: IfMatch = None,
        if_none_match: IfNoneMatch = None,
    ) -> Caller:
        token = await check(request, credentials)
        hashed = hashlib.sha256(key.encode()).hexdigest() if key is not None else None
        return Caller(token, hashed, if_match, if_none_match)

    return asking


def alias_etag(move: Move | None, present: int | None) -> str | None:
    """ETag of an alias: where it points, and by which decision, so that going away and coming back is seen."""
    return None if present is None else f'"{present}-{move.decision if move else 0}"'


def fingerprint(*parts: Any) -> str:
    """What a request asked for, to tell one from another under the same key."""
    return hashlib.sha256(hash_chain.canonical(parts).encode()).hexdigest()
