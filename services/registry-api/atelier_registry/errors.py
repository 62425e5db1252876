"""Everything that this service refuses or cannot do, as one tree. `problems.py` gives each leaf its HTTP status.

RegistryApiError
├── AccessError
│   ├── TokenMissingError         no bearer token came with the request
│   ├── TokenUnknownError         a token came that is not in the token file
│   └── RoleTooLowError           the token is known, and its role may not do this
├── NotFoundError
│   ├── UnknownModelError         MLflow has no registered model of this name
│   └── UnknownVersionError       the model exists, this version of it does not
├── RefusedError
│   ├── InvalidArgumentError      a value in the request can never be accepted, whatever the state of the registry
│   ├── NotPromotableError        the version exists, and the rules do not let this alias point at it
│   ├── NoEarlierVersionError     no earlier version is known for this alias, or it is gone
│   └── UnreadableFileError       a version's files are kept where this service does not read, or are too large
└── UnavailableError
    ├── TrackingUnavailableError  MLflow did not answer, or answered with something that is not an answer
    ├── DatabaseUnavailableError  the decisions cannot be read or written
    └── AliasBusyError            other decisions on the same alias took too long
"""

from __future__ import annotations

from collections.abc import Sequence

from atelier_contracts.access import Role, Token


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


class RefusedError(RegistryApiError):
    """Understood, and not done. Nothing was changed."""


class InvalidArgumentError(RefusedError):
    """A value in the request can never be accepted, whatever the state of the registry."""


class NotPromotableError(RefusedError):
    """The version exists, and the rules do not let this alias point at it."""


class NoEarlierVersionError(RefusedError):
    """No earlier version is known for this alias, or it is gone."""


class UnreadableFileError(RefusedError):
    """A version's files are kept where this service does not read, or are too large. Shown beside the version's other facts."""


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


class AliasBusyError(UnavailableError):
    """Other decisions on the same alias took too long, and this one was not begun."""

    def __init__(self, model: str, alias: str, waited_s: float) -> None:
        super().__init__(
            f"other decisions on {alias!r} of {model!r} are under way and did not end within {waited_s:g} s; "
            "nothing was changed: look at the history, then send the request again"
        )
