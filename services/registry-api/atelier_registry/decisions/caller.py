"""The sender of a request for a decision: identity, role, idempotency key and preconditions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from atelier_contracts.promotion import Decision
from atelier_contracts.tokens import Role

from atelier_registry.errors import InvalidArgumentError, KeyReusedError, PreconditionError, RoleTooLowError
from atelier_registry.storage import hash_chain
from atelier_registry.storage.alias_moves import AliasMove
from atelier_registry.storage.ledger import Ledger


@dataclass(frozen=True)
class Caller:
    """Who asks for a decision, and under which conditions.

    Attributes:
        id: of the token; the actor of the decision.
        role: of the token.
        key: sha256 of the idempotency key; None without one.
        if_match: value of the header; None without it.
        if_none_match: value of the header; None without it.
    """

    id: str
    role: Role
    key: str | None = None
    if_match: str | None = None
    if_none_match: str | None = None

    def check_role(self, required: Role) -> None:
        """Raises `RoleTooLowError` below a role."""
        if self.role < required:
            raise RoleTooLowError(self.id, self.role, required)

    def check_preconditions(self, etag: str | None) -> None:
        """Compares the request's preconditions with the alias as it is now.

        Args:
            etag: of the alias; None where it does not exist.

        Raises:
            PreconditionError: a precondition does not hold.
            InvalidArgumentError: If-None-Match is not `*`.
        """
        if self.if_match is not None:
            accepted = [part.strip() for part in self.if_match.split(",")]
            if etag is None or not ("*" in accepted or etag in accepted):
                raise PreconditionError(f"If-Match: {self.if_match}", etag)
        if self.if_none_match is not None:
            if self.if_none_match.strip() != "*":
                raise InvalidArgumentError(f"If-None-Match must be * here; received {self.if_none_match!r}")
            if etag is not None:
                raise PreconditionError("If-None-Match: *", etag)


def alias_etag(move: AliasMove | None, version: int | None) -> str | None:
    """ETag of an alias; None where it does not exist. It names the decision too, so that moving away and back is noticed."""
    return None if version is None else f'"{version}-{move.decision if move else 0}"'


def fingerprint(*parts: Any) -> str:
    """Identifies the content of a request, to tell a repeated request from another one with the same key."""
    return hashlib.sha256(hash_chain.canonical(parts).encode()).hexdigest()


def find_repeated(ledger: Ledger, caller: Caller, request_fingerprint: str) -> Decision | None:
    """The decision that the same request with the same idempotency key led to before.

    None where that one failed or is pending: it changed nothing, and is tried again.

    Raises:
        KeyReusedError: the key was used for another request.
    """
    earlier = ledger.by_key(caller.id, caller.key) if caller.key else None
    if earlier is None or earlier.outcome in ("failed", "pending"):
        return None
    if ledger.request_fingerprint(earlier.id) != request_fingerprint:
        raise KeyReusedError(earlier.id)
    return earlier
