"""Everything that this service refuses or cannot do, as one tree. `problems.py` gives each leaf its HTTP status.

RegistryApiError
├── AccessError
│   ├── TokenMissingError         no bearer token came with the request
│   ├── TokenUnknownError         a token came that is not in the token file
│   ├── RoleTooLowError           the token is known, and its role may not do this
│   └── SelfApprovalError         who proposed a decision may not approve it
├── NotFoundError
│   ├── UnknownModelError         MLflow has no registered model of this name
│   ├── UnknownVersionError       the model exists, this version of it does not
│   ├── UnknownAliasError         the model exists, this alias of it does not
│   ├── UnknownDecisionError      no decision has this id
│   ├── UnknownImageError       the version's run has no such image or metric
│   └── UnknownSubscriberError    no subscriber has this name
├── RefusedError
│   ├── InvalidArgumentError      a value in the request can never be accepted, whatever the state of the registry
│   ├── PolicyRefusedError        the policy's rules do not let this be; kept as a decision
│   ├── NoEarlierVersionError     no earlier version is known for this alias, or it is gone
│   ├── NotProposedError          the decision does not wait for an approval, or what it was about has changed
│   ├── AliasedError              an alias points at the version that was to be retired
│   ├── PreconditionError         the alias is not as If-Match or If-None-Match say
│   ├── KeyReusedError            the idempotency key was used for another request
│   └── UnreadableFileError       a version's files are kept where this service does not read, or are too large
├── StageError
│   ├── StageRefusedError         infer loaded the version, and it failed a check
│   └── StageUnavailableError     infer does not answer, or none is set up
├── UnavailableError
│   ├── TrackingUnavailableError  MLflow did not answer, or answered with something that is not an answer
│   ├── DatabaseUnavailableError  the decisions cannot be read or written
│   ├── StageBusyError            as many requests wait for infer as may wait
│   └── AliasBusyError            other decisions on the same alias took too long
└── StartError
    ├── PolicyError               the policy file is not legal; the message lists every problem
    ├── SubscribersError          the file of subscribers is not legal; the message lists every problem
    └── SchemaError               the database's tables cannot be brought to what this release needs
"""

from __future__ import annotations

from collections.abc import Sequence

from atelier_contracts.promotion import Decision
from atelier_contracts.tokens import Role, Token


class RegistryApiError(Exception):
    """Root of the tree. `str()` of each is a sentence for the caller: the rule, the value received, what to do."""


class AccessError(RegistryApiError):
    """The request's token does not allow it."""


class TokenMissingError(AccessError):
    """No bearer token came with the request."""

    def __init__(self) -> None:
        super().__init__("this address needs a login and no token came with the request; send `Authorization: Bearer <token>`")


class TokenUnknownError(AccessError):
    """A token came that is not in the token file: mistyped, or revoked."""

    def __init__(self) -> None:
        super().__init__("the token is not known here: it was mistyped, or revoked; ask an administrator for a new one")


class RoleTooLowError(AccessError):
    """The token is known, and its role may not do this."""

    def __init__(self, token: Token, needed: Role) -> None:
        enough = " or ".join(role.name for role in Role if role >= needed)
        super().__init__(f"{token.id} holds the role {token.role.name}; this needs {enough}")


class SelfApprovalError(AccessError):
    """Who proposed a decision may not approve it."""

    def __init__(self, actor: str, decision: int) -> None:
        super().__init__(f"decision {decision} was proposed by {actor}, and needs the approval of somebody else")


class NotFoundError(RegistryApiError):
    """What the address names does not exist."""


class UnknownModelError(NotFoundError):
    """MLflow has no registered model of this name.

    Args:
        name: what was asked for.
        known: names that do exist, already cut to a readable number.
        more: there are others beyond `known`.
    """

    def __init__(self, name: str, known: Sequence[str], more: bool) -> None:
        listed = ", ".join(known) + (", and more (GET /models lists them all)" if more else "")
        super().__init__(f"no model named {name!r}; " + (f"models are: {listed}" if known else "there is no model yet"))


class UnknownVersionError(NotFoundError):
    """The model exists, this version of it does not.

    Args:
        name: the model.
        number: the version that was asked for.
        known: versions that do exist, newest first, already cut to a readable number.
        more: how many others there are, as text such as `5` or `more than 980`; None for none.
    """

    def __init__(self, name: str, number: int, known: Sequence[int], more: str | None) -> None:
        listed = ", ".join(map(str, known)) + (f", and {more} more" if more else "")
        super().__init__(f"{name} has no version {number}; " + (f"versions are: {listed}" if known else "it has none yet"))


class UnknownAliasError(NotFoundError):
    """The model exists, this alias of it does not."""

    def __init__(self, name: str, alias: str, known: Sequence[str]) -> None:
        listed = ", ".join(sorted(known)[:20])
        super().__init__(f"{name} has no alias {alias!r}; " + (f"aliases are: {listed}" if known else "it has none yet"))


class UnknownDecisionError(NotFoundError):
    """No decision has this id."""

    def __init__(self, number: int) -> None:
        super().__init__(f"no decision has the id {number}; GET /models/{{name}}/history lists them")


class UnknownImageError(NotFoundError):
    """The version's run has no such image or metric."""


class UnknownSubscriberError(NotFoundError):
    """No subscriber has this name. The message names those that exist."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        there = f"there are: {', '.join(known)}" if known else "set ATELIER_REGISTRY_SUBSCRIBERS_FILE to have some"
        super().__init__(f"no subscriber is called {name!r}; {there}")


class RefusedError(RegistryApiError):
    """Understood, and not done. Nothing was changed."""


class InvalidArgumentError(RefusedError):
    """A value in the request can never be accepted, whatever the state of the registry."""


class PolicyRefusedError(RefusedError):
    """The policy's rules do not let this be. It is kept as a decision, with what every rule saw."""

    def __init__(self, decision: Decision) -> None:
        failed = [verdict for verdict in decision.verdicts if not verdict.passed]
        told = "; ".join(f"{verdict.rule}: {verdict.reason}" for verdict in failed)
        help_ = "" if any(verdict.binding for verdict in failed) else "; an admin may use force"
        super().__init__(
            f"version {decision.to_version} of {decision.model} may not become {decision.alias!r}: {told} "
            f"(kept as decision {decision.id}{help_})"
        )
        self.decision = decision


class NoEarlierVersionError(RefusedError):
    """No earlier version is known for this alias, or it is gone."""


class NotProposedError(RefusedError):
    """The decision does not wait for an approval, or what it was about has changed since."""


class AliasedError(RefusedError):
    """An alias points at the version that was to be retired."""

    def __init__(self, name: str, number: int, aliases: Sequence[str]) -> None:
        super().__init__(
            f"version {number} of {name} is {', '.join(sorted(aliases))}, and what an alias points at cannot be retired: "
            "promote another version, or roll back, first"
        )


class PreconditionError(RefusedError):
    """The alias is not as If-Match or If-None-Match say."""

    def __init__(self, sent: str, present: str | None) -> None:
        super().__init__(
            f"the alias must be as the request's precondition says; received {sent}, "
            f"its ETag is {present or 'none: it does not exist'}: read it again, and decide anew"
        )


class KeyReusedError(RefusedError):
    """The idempotency key was used for another request."""

    def __init__(self, decision: int) -> None:
        super().__init__(
            f"an Idempotency-Key stands for one request; this one was used for another, which became decision {decision}: "
            "send a new key"
        )


class UnreadableFileError(RefusedError):
    """A version's files are kept where this service does not read, or are too large. Shown beside the version's other facts."""


class StageError(RegistryApiError):
    """A version could not be shown to load. `str()` is the reason."""


class StageRefusedError(StageError):
    """Infer tried the version, and it failed a check."""


class StageUnavailableError(StageError):
    """Infer does not answer, or none is set up."""


class UnavailableError(RegistryApiError):
    """Something that this service needs is not there. The same request may succeed later."""


class TrackingUnavailableError(UnavailableError):
    """MLflow did not answer, or answered with something that is not an answer. The cause is chained and logged, never sent."""

    def __init__(self) -> None:
        super().__init__("the MLflow server gave no usable answer; nothing half done is kept; send the same request again")


class DatabaseUnavailableError(UnavailableError):
    """The decisions cannot be read or written. The cause is chained and logged, never sent."""

    def __init__(self) -> None:
        super().__init__("the database of decisions cannot be reached; send the same request again later")


class StageBusyError(UnavailableError):
    """As many requests wait for infer as may wait: others get their threads."""


class AliasBusyError(UnavailableError):
    """Other decisions on the same alias took too long, and this one was not begun."""

    def __init__(self, model: str, alias: str | None, waited_s: float) -> None:
        super().__init__(
            f"other decisions on {alias or 'versions'!r} of {model!r} are under way and did not end within {waited_s:g} s; "
            "nothing was changed: look at the history, then send the request again"
        )


class StartError(RegistryApiError):
    """The service cannot start; never sent over HTTP."""


class PolicyError(StartError):
    """The policy file is not legal; the message lists every problem."""


class SubscribersError(StartError):
    """The file of subscribers is not legal. The message lists every problem."""


class SchemaError(StartError):
    """The database's tables cannot be brought to what this release needs."""
